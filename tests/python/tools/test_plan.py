"""`dynatrain plan`: planning a switch before anybody buys the machines."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest

import dynatrain
from dynatrain import amounts, planning
from dynatrain.planning import Model, load_model
from dynatrain.tools import cli, paper

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


@pytest.fixture
def small(tmp_path):
    """Options of a model that is planned in milliseconds."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return [f"--model={path}"]


# Scripts read the JSON; what is moved must be what has to be moved (law 3).
def test_json_plan_moves_the_lower_bound(small, capsys: pytest.CaptureFixture[str]):
    status = cli.main(["plan", "dp=4", "dp=2,tp=2", "--json", *small])
    report = json.loads(capsys.readouterr().out)

    assert status == 0
    assert report["schema_version"] == 1
    assert [report["source"], report["target"]] == ["dp=4", "dp=2,tp=2"]
    assert report["bytes_moved"] == report["lower_bound_bytes"] > 0
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1, 2, 3]


# Whoever looks at every rank gets one row of each, of the larger world.
def test_table_has_a_row_for_every_rank_of_the_larger_world(
    small, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["plan", "dp=2", "dp=3", "--all", *small]) == 0
    printed = capsys.readouterr().out

    assert "dp=2 → dp=3" in printed
    assert all(re.search(rf"^ +{rank} +\d", printed, re.MULTILINE) for rank in range(3))


# A typo in a layout is the user's mistake: the library's message, no traceback.
def test_wrong_layout_is_an_error_without_traceback(small, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "dp=4", "tq=2", *small]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("LayoutError: ")
    assert "tq" in printed


# What is not typed as a count of something must say so in the command's own words, and end.
ODD = {
    "endless staging": (["dp=2", "tp=2", f"--staging-mib={10**20}"], f"--staging-mib={10**20}"),
    "no staging": (["dp=2", "tp=2", "--staging-mib=0"], "--staging-mib=0"),
    "no link": (["dp=2", "tp=2", "--link-gb-per-second=0"], "--link-gb-per-second=0"),
    "no number": (["dp=2", "tp=2", "--link-gb-per-second=nan"], "--link-gb-per-second=nan"),
    "no node": (["dp=2", "tp=2", "--ranks-per-node=0"], "--ranks-per-node=0"),
    "nodes of what": (["dp=2", "tp=2", "--nodes=2"], "--nodes=2"),
    "no nodes": (["dp=2", "tp=2", "--topology=dgx-h100", "--nodes=0"], "--nodes=0"),
    "too few nodes": (["dp=9", "tp=2", "--topology=dgx-h100", "--nodes=1"], "cannot hold 9 ranks"),
    "two topologies": (
        ["dp=2", "tp=2", "--topology=dgx-h100", "--ranks-per-node=2"],
        "--topology beside",
    ),
    "endless ranks": (["dp=1073741824", "tp=2"], "1073741824 ranks"),
    "too few layers": (["dp=2", "pp=4"], "2 layers over 4 stages"),
    "no experts": (["dp=2,ep=2", "pp=2"], "the experts of this model"),
    "no ranks": (["dp=0", "tp=2"], "dp_shard=0"),
    "a file": (["model.json", "tp=2"], "model.json"),
    "bad JSON": (["{", "tp=2"], "'{'"),
    "an axis twice": (["dp=2,dp=3", "tp=2"], "twice"),
    "one layout": (["dp=2"], "too few layouts"),
    "three layouts": (["dp=2", "tp=2", "pp=2"], "too many layouts"),
    "no such model": (["dp=2", "tp=2", "--model=gpt5"], "'gpt5'"),
    "no such file": (["dp=2", "tp=2", "--model=not/there.json"], "'not/there.json'"),
}


@pytest.mark.parametrize("command", ["plan", "predict"])
@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_planned_is_refused_in_four_parts(
    small, case, command, capsys: pytest.CaptureFixture[str]
):
    arguments, named = ODD[case]
    assert cli.main([command, *small, *arguments]) == 1

    printed = capsys.readouterr().err
    error = printed[printed.index("Error: ") :].splitlines()
    assert any(named in line for line in error[:2])
    assert len(error) >= 4
    assert "nothing" in printed


# Trainers and servers have ranks of their own, and whoever reads of one must know which.
def test_ranks_of_a_disjoint_target_are_told(small, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "dp=2", "tp=2", "--disjoint", *small]) == 0
    assert "the target on ranks 2 to 3" in capsys.readouterr().out
    tensor = "--tensor=lm_head.weight"
    asked = ["explain", "dp=2", "dp=2", "--disjoint", *small, tensor, "--json"]
    assert cli.main([*asked, "--rank=3"]) == 0
    moves = json.loads(capsys.readouterr().out)["transfers"]

    assert [(each["src"], each["dst"]) for each in moves] == [(1, 3)]
    assert cli.main([*asked, "--rank=4"]) == 1
    assert capsys.readouterr().err.splitlines()[2] == "  nothing was planned"


# Whoever has no room for two states must see what streaming needs, and what it costs in time.
def test_a_prediction_has_both_modes(small, tmp_path, capsys: pytest.CaptureFixture[str]):
    picture = tmp_path / "memory.png"
    asked = ["predict", "dp=4", "dp=2,tp=2", *small, f"--picture={picture}"]
    assert cli.main([*asked, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out

    assert [report["mode"] for report in reports.values()] == ["retain", "stream"] == [*reports]
    most = {mode: max(r["peak_bytes"] for r in reports[mode]["ranks"]) for mode in reports}
    assert most["stream"] <= most["retain"]  # of so small a state all goes in one stage
    for mode, report in reports.items():
        assert max(point["held_bytes"] for point in report["memory"]) == most[mode]
        assert amounts.bytes_text(most[mode]) in printed
        assert report["bytes_moved"] == report["lower_bound_bytes"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_an_error(small, tmp_path, capsys):
    there = tmp_path / "no" / "memory.png"
    assert cli.main(["predict", "dp=2", "tp=2", *small, f"--picture={there}"]) == 1
    assert str(there) in capsys.readouterr().err


# A thousand ranks take a while; silence looks like a command that hangs.
def test_a_plan_of_many_ranks_says_that_it_takes_its_time(small, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dynatrain, "plan", interrupted)
    assert cli.main(["plan", "dp=4096", "tp=2", *small]) == 130

    said = capsys.readouterr().err
    assert said == (
        "planning 4096 ranks, which may take minutes\ninterrupted; nothing was planned\n"
    )


# Whoever divides the bytes by four gets three models: the moments count, and only the code said so.
def test_help_says_what_is_counted(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])

    assert "float32 parameters and two moments" in " ".join(capsys.readouterr().out.split())


# Layouts may be given by name, and a thousand ranks must not scroll away what is said of them all.
def test_a_plan_of_many_ranks_is_a_screenful(capsys):
    layouts = ["--source", "dp_replicate=4,dp=16", "--target", "dp_replicate=4,dp=4,tp=4"]
    assert cli.main(["plan", "--model=llama2-7b", "--topology=dgx-a100", *layouts]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) <= 24
    assert any("64 ranks on dgx-a100" in line for line in lines)
    assert all(any(line.startswith(f"{word} ") for line in lines) for word in ("moved", "sends"))
    assert [line.split()[0] for line in lines[-4:-1]] == ["busiest", "median", "least"]


# Help names what can be asked for, without the library that knows it.
def test_help_names_what_the_library_knows():
    assert tuple(planning.CONFIGS) == paper.MODELS
    assert tuple(planning.OPTIMIZERS) == paper.OPTIMIZERS
    assert tuple(planning.PRESETS) == paper.TOPOLOGIES


# The size of what is moved must be told in the unit that is said.
@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        *((0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123e6, "123 MB"), (1.049e9, "1.05 GB")),
        *((999_400, "999 kB"), (999_600, "1 MB"), (2.5e18, "2500 PB")),
    ],
)
def test_sizes_are_told_with_three_digits(size_bytes, told):
    assert amounts.bytes_text(size_bytes) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0214, "21.4 ms"),
        (0.9996, "1 s"),
        (1.234, "1.23 s"),
        (123.4, "123 s"),
        (86400, "86,400 s"),
    ],
)
def test_durations_are_told_with_three_digits(seconds, told):
    assert amounts.seconds_text(seconds) == told


# A path is no markup.
def test_a_model_s_path_is_printed_as_it_is(tmp_path, capsys):
    path = tmp_path / "[" / "a]" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONFIG))
    assert cli.main(["plan", "dp=2", "tp=2", f"--model={path}"]) == 0
    assert "/[/a]/config.json" in capsys.readouterr().out.replace("\n", "")


def test_ranks_are_told_in_runs():
    assert amounts.ranks_text([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert amounts.ranks_text([*range(0, 20, 2)], 3) == "0, 2, 4 and 7 more"


# Were a rank told that it sends what another one does, the tool would mislead whoever debugs.
def test_explained_transfers_are_those_of_the_plan(small, capsys):
    asked = ["explain", "dp_replicate=2,dp=2", "tp=4", "--json", *small]
    received = 0
    for rank in range(4):
        assert cli.main([*asked, "--tensor=lm_head.weight", f"--rank={rank}"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["tensor"] == "lm_head.weight|param"
        for each in found["transfers"]:
            assert rank in (each["src"], each["dst"])
            size = math.prod(
                high - low for low, high in zip(each["begin"], each["end"], strict=True)
            )
            received += 4 * size if each["dst"] == rank != each["src"] else 0
            assert each["why"] == "it has it already" or each["src"] != each["dst"]
    model = load_model(CONFIG)
    head = [spec for spec in model.tensors if spec.fqn == "lm_head.weight"]
    report = dynatrain.plan("dp_replicate=2,dp=2", "tp=4", Model("", tuple(head), model.slots[:1]))
    assert received == report.bytes_moved > 0


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["--tensor=lm_hed.weight", "--rank=0"], "lm_head.weight"),
        (["--tensor=lm_head.weight|exp", "--rank=0"], "|exp_avg"),
        (["--tensor=lm_head.weight", "--rank=4"], "a rank from 0 to 3"),
    ],
)
def test_what_cannot_be_explained_says_what_can(small, asked, named, capsys):
    assert cli.main(["explain", "dp=4", "tp=4", *asked, *small]) == 1
    assert named in capsys.readouterr().err


class Page(HTMLParser):
    """The headings of a page, its pictures, and what it asks for elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.images, self.elsewhere, self._tag = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        for name, value in attrs:
            if name in ("src", "href"):
                kind = self.images if value.startswith("data:image/png;base64,") else self.elsewhere
                kind.append(value.partition(",")[2])

    def handle_data(self, data):
        if self._tag in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())


# A page that wants a server, or a font from one, is no page to be sent to a colleague.
@pytest.mark.parametrize(
    "layouts", [("dp=4", "dp=2,tp=2"), ("dp=4", "dp=4"), ("pp=2,vpp=1", "dp=3")]
)
def test_a_page_has_all_that_it_shows(small, layouts, tmp_path, capsys):
    path = tmp_path / "plan.html"
    assert cli.main(["plan", *layouts, f"--html={path}", "--ranks-per-node=2", *small]) == 0
    shown = Page(path.read_text(encoding="utf-8"))

    assert shown.headings == [
        " → ".join(str(dynatrain.Layout.parse(each)) for each in layouts),
        "Who sends to whom",
        "Loads of the links",
        "Memory",
        "Stages",
        "Where each layer goes",
    ]
    assert shown.elsewhere == []
    assert len(shown.images) == 5
    assert all(base64.b64decode(each).startswith(b"\x89PNG") for each in shown.images)
    assert "moved" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_is_an_error(small, tmp_path, capsys):
    assert cli.main(["plan", "dp=2", "tp=2", f"--html={tmp_path}", *small]) == 1
    assert "no page was written" in capsys.readouterr().err


# A model's name comes from a file that somebody else has made.
def test_a_page_runs_nothing_of_a_model_s_name():
    spec = dynatrain.TensorSpec("w", (8, 4))
    model = Model("<script>alert(1)</script>", (spec,))
    report = dynatrain.plan("dp=2", "tp=2", model)
    assert "<script>" not in planning.page(report, model, dynatrain.Topology())
