"""The guides are true: their scripts train through their switches, and every quotation is real."""

from __future__ import annotations

import difflib
import importlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import dynatrain
import training_jobs as jobs

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "examples" / "guides"
PAGES = ROOT / "docs" / "guide"


def older(package, least):
    """Whether a package is not there, or there in a version before ``least``."""
    try:
        return Version(metadata.version(package)) < Version(least)
    except metadata.PackageNotFoundError:
        return True


NO_TORCHTITAN = pytest.mark.skipif(
    older("torchtitan", "0.3.0"), reason="no torchtitan 0.3.0: requirements-titan.txt"
)
NO_PLANS = pytest.mark.skipif(
    older("transformers", "5.23.0"), reason="the plan's meshes came with transformers 5.23.0"
)
GUIDES = (
    "ddp",
    "fsdp_tp",
    "hugging_face",
    pytest.param("torchtitan", marks=NO_TORCHTITAN),
    pytest.param("transformers_tp", marks=NO_PLANS),
)


def script(name):
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


def run_main(rank, world_size, name, *args):
    return script(name).main(*args)


def run_twice(rank, world_size, name):
    after = script(f"{name}_after")
    losses, reports = after.main()
    still, _ = after.main({})
    return losses, still, after.SWITCHES, [(report.to_json(), str(report)) for report in reports]


def mean_by_step(losses_of_rank):
    """Every rank's share of a global batch is equally large; a rank that idles has no share."""
    steps = sorted(set().union(*losses_of_rank))
    shares = [[losses[step] for losses in losses_of_rank if step in losses] for step in steps]
    return [sum(share) / len(share) for share in shares]


# The script that a reader starts from must itself train.
@pytest.mark.parametrize("name", GUIDES)
def test_script_before_learns(pool, name):
    results = pool.run(run_main, f"{name}_before", timeout_s=120)
    curves = [list(losses.values()) if isinstance(losses, dict) else losses for losses in results]
    assert any(curves)  # stages before the last have no loss
    for losses in filter(None, curves):
        assert sum(losses[-4:]) < sum(losses[:4])


# A lost moment, a repeated sample or an untied weight shows as another loss curve.
@pytest.mark.parametrize("name", GUIDES)
def test_script_after_trains_on_as_if_it_had_not_switched(pool, name):
    results = pool.run(run_twice, name, timeout_s=120)

    _, _, switches, reports = results[0]
    assert [report["target"] for report, _ in reports] == list(switches.values())
    for report, _ in reports:
        assert report["fingerprint_before"] == report["fingerprint_after"]
        assert report["bytes_moved"] == report["lower_bound_bytes"]
    losses = mean_by_step([switched for switched, *_ in results])
    assert losses == pytest.approx(mean_by_step([still for _, still, *_ in results]), abs=1e-4)
    assert sum(losses[-4:]) < sum(losses[:4])
    for line in quoted("console", PAGES / f"{name}.md"):
        assert without_numbers(line.strip()) in [without_numbers(text) for _, text in reports]


def run_divided(rank, world_size):
    return script("ddp_after").main(build=script("ddp_zero").build)


# The guide's optimizer that replicas divide is the plain one to the loss, through the same layouts.
def test_script_with_divided_slots_trains_as_the_plain_one(pool):
    divided = pool.run(run_divided, timeout_s=120)
    plain = pool.run(run_main, "ddp_after", timeout_s=120)

    assert any(report.bytes_moved for report in divided[0][1][:2])  # between replicas alone
    expected = mean_by_step([losses for losses, _ in plain])
    assert mean_by_step([losses for losses, _ in divided]) == pytest.approx(expected, abs=1e-4)


def without_numbers(text):
    return re.sub(r"[0-9a-f]{16}|[0-9.]+(?= m?s| MiB)", "#", text)


# The scripts take the names of checkpoints, and a reader tries that first.
def test_scripts_go_on_from_each_others_checkpoints(pool, tmp_path):
    plain, switched = str(tmp_path / "plain"), str(tmp_path / "switched")
    first = pool.run(run_main, "fsdp_tp_before", None, plain)[0]

    second = pool.run(run_main, "fsdp_tp_after", {4: "tp=4"}, plain, switched)[0][0]
    third = pool.run(run_main, "fsdp_tp_before", switched)[0]

    assert second[0] < first[0] / 2
    assert third[0] < first[0] / 2


STEPS = 3


def train(model, optimizer, scheduler):
    """A few steps on one batch that all ranks share."""
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(5))
    for _ in range(STEPS):
        torch.nn.functional.mse_loss(model(inputs), inputs.sin()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def bits(model, optimizer, scheduler):
    """Every tensor and option of a job, whole, read with torch's own means."""
    parts = {"modules": [model], "optimizers": [optimizer], "scheduler": scheduler}
    return jobs.whole_state(SimpleNamespace(**parts))


def run_plain(rank, world_size, seed, load=None, save=None):
    """A job that knows nothing of dynatrain: it loads a checkpoint, or trains and writes one."""
    guide = script("fsdp_tp_before")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    torch.manual_seed(seed)
    model = guide.make_model()
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    for block in model:
        parallelize_module(block, mesh["tp"], plan)
        fully_shard(block, mesh=mesh["dp_shard"])
    fully_shard(model, mesh=mesh["dp_shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    job = model, optimizer, guide.CosineAnnealingLR(optimizer, 12)
    if load is not None:
        guide.load_checkpoint(*job, load)
    if save is not None:
        train(*job)
        guide.save_checkpoint(*job, save)
    return bits(*job)


def run_switched(rank, world_size, load, save):
    """Loads a checkpoint, switches, trains on and writes one; returns the bits of each stage."""
    guide = script("fsdp_tp_after")
    torch.manual_seed(2)
    session = dynatrain.init(guide.build, "dp=2,tp=2", verify=("sums", "fingerprint"))

    def job():
        return session.state.model, session.state.optimizer, session.state.scheduler

    guide.load_checkpoint(*job(), load)
    loaded = bits(*job())
    session.switch("tp=4")
    switched = bits(*job())
    train(*job())
    guide.save_checkpoint(*job(), save)
    trained = bits(*job())
    session.close()
    return loaded, switched, trained


# A guide that says "checkpoints are as before" promises every bit, in both directions: a moment
# that came back as zeros lets the loss fall all the same.
def test_checkpoint_keeps_every_bit_from_plain_job_to_switched_job_and_back(pool, tmp_path):
    plain, switched = str(tmp_path / "plain"), str(tmp_path / "switched")

    saved = pool.run(run_plain, 1, None, plain)
    stages = pool.run(run_switched, plain, switched)
    back = pool.run(run_plain, 3, switched)

    for at_save, (loaded, moved, trained), at_end in zip(saved, stages, back, strict=True):
        assert {"0.up.weight.param", "0.up.weight.exp_avg_sq", "scheduler"} <= at_save.keys()
        assert jobs.differences(at_save, loaded) == []
        assert jobs.differences(at_save, moved) == []
        assert "0.up.weight.exp_avg_sq" in jobs.differences(moved, trained)
        assert jobs.differences(trained, at_end) == []


def save_beside_idle_ranks(rank, world_size, path):
    session = dynatrain.init(script("fsdp_tp_after").build, "dp=2")
    if session.active:
        group = session.world.group(*session.world.layout.order)
        checkpoint.save(session.state.model.state_dict(), checkpoint_id=path, process_group=group)
    session.close()


# Idle ranks never come to a save over the default group: the others would wait for ever.
def test_save_over_the_worlds_group_needs_no_idle_rank(pool, tmp_path):
    pool.run(save_beside_idle_ranks, str(tmp_path))

    assert (tmp_path / ".metadata").exists()


def message(call):
    """Returns what a reader sees when `call` goes wrong."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the guide quotes it, whatever it is
        call()
    return f"{type(caught.value).__name__}: {caught.value}"


def make_ddp_mistakes(rank, world_size):
    after = script("ddp_after")
    replicas = after.Replicas()
    changes = []

    def build(world):
        state = after.build(world)
        for change in changes:
            change(state.model, world)
        return state

    def refused(*own_changes):
        changes[:] = own_changes
        text = message(lambda: session.switch("dp_replicate=2"))
        changes.clear()
        return text

    def wrap(model, world):
        after.DistributedDataParallel(model, process_group=world.group("dp_replicate"))

    session = dynatrain.init(build, "dp_replicate=4", keep={"replicas": replicas}, timeout_s=20)
    state, optimizer = session.state, session.state.optimizer
    messages = [refused(wrap), refused(lambda *_: torch.manual_seed(0))]
    replicas.model(torch.ones(1, 8)).sum().backward()
    messages.append(refused())
    optimizer.zero_grad()
    session.switch("dp_replicate=2")
    messages += [message(optimizer.step), message(lambda: state.model)]
    return messages if session.active else [*messages, message(lambda: session.state)]


def make_fsdp_tp_mistakes(rank, world_size):
    after = script("fsdp_tp_after")

    def build(world):
        state = after.build(world)
        if world.enabled("tp"):
            state.model.add_module("last", state.model.pop(2))
        return state

    def forward_and_backward():
        after.train_step(session.state.model, [torch.ones(6, 16), torch.ones(6, 16)])

    session = dynatrain.init(build, "dp=4", timeout_s=20)
    messages = [message(lambda: session.switch("dp=2,tp=2"))]
    fqns = [fqn for fqn, _ in session.state.model.named_parameters() if fqn.startswith("2.")]
    names = {fqn: fqn.replace("2.", "last.") for fqn in fqns}
    session.switch("dp=2,tp=2", names=names)
    forward_and_backward()
    clip = torch.nn.utils.clip_grad_norm_
    messages.append(message(lambda: clip(session.state.model.parameters(), 1.0)))
    session.state.optimizer.zero_grad()
    session.switch("tp=4")
    forward_and_backward()
    session.state.optimizer.param_groups[0]["foreach"] = True
    messages.append(message(session.state.optimizer.step))
    return messages


def quoted(language, *pages):
    """Returns the fenced blocks of a language."""
    pages = pages or sorted(PAGES.glob("*.md"))
    text = "\n".join(page.read_text() for page in pages)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# An error that a guide invents is one that nobody finds when it comes.
def test_every_quoted_error_is_what_the_mistake_says(pool):
    answers = [*pool.run(make_ddp_mistakes), *pool.run(make_fsdp_tp_mistakes)]
    messages = [text for rank in answers for text in rank]

    blocks = quoted("text")
    assert len(blocks) > 4
    if torch.__version__ < "2.15":  # the guides quote this torch where the error is torch's own
        blocks = [block for block in blocks if not block.startswith("RuntimeError")]
    for block in blocks:
        assert any(block.strip() in text for text in messages), block


def changed_lines(name):
    """Lines of code that the switchable script adds, imports and docstrings aside."""
    before, after = [
        (SCRIPTS / f"{name}_{when}.py").read_text().splitlines() for when in ("before", "after")
    ]
    added = [line[2:].strip() for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    aside = ('"""', "from ", "import ", "torchrun ")
    return [line for line in added if line and not line.startswith(aside)]


# What torchtitan's trainer holds is left as it is: a reader who must rewrite it will not begin.
def test_torchtitans_own_parts_need_few_changed_lines():
    assert 10 < len(changed_lines("torchtitan")) <= 20


# Code in a guide that no script holds is code that nobody ran.
def test_every_quoted_line_of_code_stands_in_a_script():
    scripts = [path.read_text() for path in SCRIPTS.glob("*.py")]

    blocks = quoted("python")
    assert len(blocks) > 6
    for block in blocks:
        assert any(block in text for text in scripts), block


# A fence of another kind would slip past the checks above.
def test_every_fenced_block_is_of_a_kind_that_is_checked():
    kinds = [
        kind
        for page in PAGES.glob("*.md")
        for kind in re.findall(r"^```(.*)\n[^`]", page.read_text(), re.MULTILINE)
    ]

    assert {kind for kind in kinds if kind} <= {"python", "text", "console", "sh"}


# The command that a reader types first.
@pytest.mark.long
@pytest.mark.parametrize("command", quoted("sh"))
def test_command_in_a_guide_runs(command):
    program, *arguments = command.split()
    assert program == "torchrun"
    run = [sys.executable, "-m", "torch.distributed.run", *arguments]

    done = subprocess.run(run, cwd=ROOT, check=False, capture_output=True, timeout=500)

    assert done.returncode == 0, done.stderr.decode()
