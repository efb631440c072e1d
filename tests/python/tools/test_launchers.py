"""The guides of launchers and their sample files say the same, and what dynatrain understands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from dynatrain import Layout
from dynatrain.tools.cli import parser

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs" / "guide" / "launchers").glob("*.md"))
SAMPLES = ROOT / "examples" / "launchers"
SCRIPT = ROOT / "examples" / "guides" / "elastic.py"


def documents():
    return list(yaml.safe_load_all((SAMPLES / "kubernetes.yaml").read_text()))


def of_kind(kind):
    (found,) = (each for each in documents() if each["kind"] == kind)
    return found


def pod_of(kind):
    """The pod of a kind of set, and its one container."""
    spec = of_kind(kind)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def commands_in(text):
    """Commands of dynatrain in a page or a script, each as its words."""
    lines = text.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s#.*", "", line) for line in lines]
    found = [re.search(r"(?:^|exec srun |-- |`)dynatrain ([^`|>]*)", line) for line in lines]
    return [shlex.split(each[1]) for each in found if each]


# A reader types them, and an option of another version ends the job before it begins.
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_dynatrain_in_a_page_are_commands(page):
    for command in commands_in(page.read_text()):
        words = [word.replace("RANK", "0") for word in command]
        needs = words[0] != "coordinator" and "--coordinator" not in words
        wanted = ["--coordinator", "h:1"] if needs else []
        assert parser().parse_args([*words, *wanted]).command == words[0]


def test_pages_and_samples_name_each_other():
    for sample in SAMPLES.iterdir():
        assert any(f"examples/launchers/{sample.name}" in page.read_text() for page in PAGES)
        (page,) = re.findall(r"docs/guide/launchers/\w+\.md", sample.read_text())
        assert (ROOT / page).exists()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("name", ["slurm_coordinator.sbatch", "slurm_members.sbatch"])
def test_a_batch_script_is_read_by_bash(name):
    subprocess.run(["bash", "-n", SAMPLES / name], check=True, timeout=30)


def test_the_coordinator_of_slurm_is_a_command_of_this_version():
    (command,) = commands_in((SAMPLES / "slurm_coordinator.sbatch").read_text())
    words = [word for word in command if "${@" not in word]
    found = parser().parse_args([*words, "--layout", "dp=2"])

    assert found.secret_file == "$RUN/secret"  # which members read, and the page's status


# The defaults of srun end all tasks when one dies: the very thing that members are to outlive.
def test_members_of_slurm_are_kept_apart_and_asked_to_leave_in_time():
    text = (SAMPLES / "slurm_members.sbatch").read_text()
    page = (SAMPLES.parents[1] / "docs" / "guide" / "launchers" / "slurm.md").read_text()

    for option in ("--kill-on-bad-exit=0", "--wait=0", "--no-kill", "--signal=B:TERM@60"):
        assert option in text
        assert option in page
    assert "trap 'scancel --signal=TERM" in text
    assert grace_s() < 60


def grace_s():
    """What the sample script asks for, in seconds."""
    return float(re.search(r"leave\(grace_s=(\d+)\)", SCRIPT.read_text())[1])


def test_the_coordinator_of_kubernetes_is_a_command_of_this_version():
    _, container = pod_of("StatefulSet")
    found = parser().parse_args([*container["command"][1:], *container["args"]])
    port = of_kind("Service")["spec"]["ports"][0]["port"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert found.command == "coordinator"
    assert found.listen.endswith(f":{port}")
    assert {str(Path(found.ledger).parent), str(Path(found.secret_file).parent)} == mounts
    assert all(Layout.parse(layout).world_size for layout in found.layout)


# Each of these is a job that hangs, or that loses its members together.
def test_members_of_kubernetes_reach_their_coordinator_and_have_time_to_leave():
    pod, container = pod_of("Job")
    service = of_kind("Service")
    labels = of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    address, *options = container["args"]

    assert address == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"] == labels
    assert service["spec"]["clusterIP"] == "None"  # the store has a port that no Service knows
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] > grace_s()
    (ignored,) = (
        rule["onExitCodes"]["values"]
        for rule in of_kind("Job")["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    )
    assert f"--status-if-left={ignored[0]}" in options
    assert all(f'"{option.split("=")[0]}"' in SCRIPT.read_text() for option in options)


# Whoever forgets to replace it would have a job that anybody can join.
def test_the_secret_of_the_sample_is_refused(tmp_path):
    from dynatrain import TransportError
    from dynatrain.elastic.secret import read_secret

    sample = tmp_path / "secret"
    sample.write_text(of_kind("Secret")["stringData"]["secret"])
    with pytest.raises(TransportError, match="at least"):
        read_secret(sample)
