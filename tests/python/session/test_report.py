"""Reports: what they add up, and that their JSON is what the reference page lists."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace

import pytest

from checkout import ROOT
from dynatrain import Span, SwitchReport
from dynatrain.report import PAIR, RankStats, fill, of_all_ranks, pack_spans
from dynatrain.switch.clock import Clock


def stats(rank, **changes):
    values = {
        "stop_seconds": 1.0,
        "transfer_seconds": 0.5,
        "build_seconds": 0.2,
        "prepare_seconds": 0.4,
        "plan_seconds": 0.1,
        "received_bytes": 100,
        "in_place_bytes": 30,
        "kept_bytes": 10,
        "lower_bound_bytes": 100,
        "staging_peak_bytes": 7,
        "extra_peak_bytes": 70,
        "traffic": PAIR.pack(rank, 1 - rank, 100),
        "timeline": [pack_spans([Span(rank, "pack", 0, 0.0, 0.1, 100)])],
    }
    return RankStats(**(values | changes))


SLOWER = {"stop_seconds": 2.0, "received_bytes": 50, "staging_peak_bytes": 9}


def filled():
    report = SwitchReport("dp=2", "tp=2", epoch=1, step=5, prepared=False)
    fill(report, of_all_ranks([stats(0), stats(1, **SLOWER)]))
    return report


# Scripts read these fields; a field that the page does not list is a promise nobody knows of.
def test_json_has_the_fields_of_the_reference(reference_fields):
    data = json.loads(json.dumps(filled().to_json()))

    assert set(data) == reference_fields("Switch report")
    assert set(data["timeline"][0]) == reference_fields("Switch report", of="timeline")


# Times of different ranks overlap: their sum would be no time at all, the first rank's too short.
def test_times_are_the_slowest_rank_s_and_bytes_are_sums():
    report = filled()

    assert report.stop_seconds == 2.0
    assert report.bytes_moved == 150
    assert report.bytes_in_place == 60
    assert report.bytes_kept == 20
    assert report.staging_peak_bytes == 9
    assert report.traffic == [(0, 1, 100), (1, 0, 100)]
    assert [span.rank for span in report.timeline] == [0, 1]


def test_text_names_layouts_and_says_whether_the_bits_are_the_same():
    report = filled()
    report.fingerprint_before = report.fingerprint_after = "ab" * 8
    assert "dp=2 -> tp=2 (cold)" in str(report)
    assert f"{'ab' * 8} = {'ab' * 8}" in str(report)

    report.fingerprint_after = "cd" * 8
    report.not_continuous = ["a reason"]
    assert "!=" in str(report)
    assert "not continuous: a reason" in str(report)


# Bytes by either way are told apart where there are two.
def test_text_tells_what_was_read_in_place_from_what_was_sent():
    assert "in place" not in str(replace(filled(), bytes_in_place=0))
    report = replace(filled(), bytes_moved=3 << 20, bytes_in_place=1 << 20)
    assert "1.00 MiB in place and 2.00 MiB by messages, kept" in str(report)


# Beside a stop of 61 ms, a build of 826 ms read as a fault of the numbers.
def test_text_tells_what_was_done_ahead_of_the_stop_apart_from_it():
    report = filled()
    assert "(cold): stop 2000.0 ms, transfer 500.0 ms, build 200.0 ms; moved" in str(report)

    report.prepared = True
    assert (
        "(prepared ahead in 400.0 ms, build 200.0 ms): stop 2000.0 ms, transfer 500.0 ms; moved"
        in str(report)
    )


# A reason that several give is told once, with who gave it.
def test_what_kept_objects_raised_comes_with_its_ranks_behind_other_reasons():
    report = SwitchReport("dp=2", "tp=2", epoch=1, step=5, prepared=False)
    fill(report, of_all_ranks([stats(0, not_continuous=["a"]), stats(1, raised=["b"])]))

    assert report.not_continuous == ["rank 0: a", "rank 1: b"]


# Copies of two stages that one stream of a GPU took are one line there, in the order they ran.
def test_trace_has_a_lane_for_each_stream(tmp_path):
    report = filled()
    report.timeline = [
        Span(0, "pack", 0, 0.0, 0.1, 100, stream=0),
        Span(0, "local", 0, 0.1, 0.2, 100, stream=0),
        Span(0, "unpack", 0, 0.1, 0.3, 100, stream=2),
        Span(0, "wire", 0, 0.0, 0.2, 100),
    ]
    path = tmp_path / "trace.json"
    report.write_trace(path)

    events = json.loads(path.read_text())["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    drawn = {e["name"]: lanes[e["tid"]] for e in events if e["ph"] == "X"}
    assert drawn == {
        "pack 0": "copy stream 0",
        "local 0": "copy stream 0",
        "unpack 0": "copy stream 2",
        "wire 0": "wire, even stages",
    }


# A viewer drops what overlaps in a lane, and a sum over phases would count it twice.
def test_a_phase_within_another_one_interrupts_it():
    clock = Clock(0)
    with clock.phase("values"), clock.phase("fingerprint"):
        pass
    with pytest.raises(ValueError, match="inner"), clock.phase("values"), clock.phase("arrival"):
        raise ValueError("inner")
    with clock.phase("commit"):
        pass

    assert [span.phase for span in clock.spans] == [
        *("values", "fingerprint", "values"),
        *("values", "commit"),  # what raised has no span, what it had interrupted has
    ]
    ends = [span.end_seconds for span in clock.spans]
    begins = [span.begin_seconds for span in clock.spans]
    assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
    assert all(begin <= end for begin, end in zip(begins, ends, strict=True))


# The reference page says that the demo's file draws any report, and needs nothing beside it.
def test_the_demo_s_file_draws_a_report_by_itself(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "examples/gpt")
    pictures = importlib.import_module("pictures")
    monkeypatch.delitem(sys.modules, "pictures")

    pictures.draw_timeline(str(tmp_path / "timeline.png"), filled())
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
