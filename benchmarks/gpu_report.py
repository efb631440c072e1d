"""The page that `make gpu-check` writes of its results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: What was asked of a share or a time on an H100 or H200, by the case's name.
GOALS = {"one run": 0.9, "rows of 8192 bytes": 0.9, "rows of 1024 bytes": 0.9}
GOALS |= {"rows of 256 bytes": 0.9, "rows of 64 bytes": 0.6}
LAUNCH_GOAL_US = {1000: 20}
SWITCHES = ("switch, cuda_ipc", "switch, c10d", "switch, nccl")


def as_markdown(results: dict[str, Any]) -> str:
    """All tables, of what there is so far."""
    steps = {step["name"]: step for step in results["steps"]}

    def data(name: str) -> Any:
        return (steps.get(name) or {}).get("data")

    found = data("machine") or {}
    lines = [
        f"## {results['date']}: {found.get('gpu', 'no GPU')}",
        "",
        ", ".join(f"{name} {value}" for name, value in found.items() if name != "gpu"),
        "",
        *table("step", "outcome", "seconds", ""),
    ]
    lines += [row(s["name"], s["status"], s["seconds"], first_line(s)) for s in results["steps"]]
    lines += kernel_table(data("kernels"))
    for name in SWITCHES:
        lines += switch_table(name, steps.get(name))
    lines += sharing_table(data("NCCL on a shared GPU"))
    lines += demo_table(steps.get("demo"))
    for name in ("C++ tests", "Python tests", "NCCL on a shared GPU"):
        lines += skipped_tests(name, data(name))
    lines += failures(results["steps"])
    return "\n".join(lines) + "\n"


def row(*cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(*heads: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*heads), "|" + "---|" * len(heads)]


def first_line(step: dict[str, Any]) -> str:
    """What a step says of itself, in a cell."""
    return (str(step["detail"]).splitlines() or [""])[0].replace("|", "/")[:160]


def kernel_table(data: Any) -> list[str]:
    """Rates of the copier and what a launch costs."""
    if not data:
        return []
    heads = ("copy", "MiB", "ms, median", "ms, min", "device copy, ms", "of a device copy", "goal")
    lines = ["", *table(*heads)]
    for case in data["copies"]:
        milliseconds = [f"{case[name]:.3f}" for name in ("ms_median", "ms_min", "plain_ms_median")]
        size = f"{case['size_bytes'] / 2**20:.0f}"
        goal = GOALS.get(case["name"], "")
        lines.append(row(case["name"], size, *milliseconds, f"{case['share']:.2f}", goal))
    lines += ["", *table("boxes", "submit, µs", "min", "to the end, µs", "goal")]
    for case in data["launches"]:
        times_us = [f"{case[name]:.1f}" for name in ("submit_us", "submit_us_min", "done_us")]
        boxes = f"{case['num_boxes']}, {'prepared' if case['is_prepared'] else 'table included'}"
        lines.append(row(boxes, *times_us, LAUNCH_GOAL_US.get(case["num_boxes"], "")))
    return lines


def switch_table(name: str, step: dict[str, Any] | None) -> list[str]:
    """Seconds, bytes and shares of the contenders."""
    if not step or not step["data"]:
        return []
    rows = step["data"]
    pair = f"{rows[0]['source']} to {rows[0]['target']}"
    how = f" ({step['detail']})" if step["detail"] else ""
    heads = ("contender", "s, median", "s, min", "s, first", "cold, s", "MiB moved", "GiB/s")
    lines = ["", f"{name}: {pair}{how}", "", *table(*heads, "of a device copy")]
    for case in rows:
        names = ("seconds_median", "seconds_min", "seconds_first", "stop_seconds_median")
        moved = case["bytes_moved"]
        lines.append(
            row(
                case["contender"],
                *(f"{case[name]:.4f}" for name in names),
                f"{moved / 2**20:.0f}",
                f"{moved / 2**30 / case['seconds_median']:.2f}",
                f"{case['share_of_ceiling']:.2f}",
            )
        )
    for case in rows:
        if case["planned_device_peak_bytes"]:
            taken, planned = (
                case[name] / 2**20 for name in ("device_peak_bytes", "planned_device_peak_bytes")
            )
            lines += ["", f"Device memory of a switch, all ranks: {taken:.0f} MiB taken at most, "]
            lines[-1] += f"{planned:.0f} MiB planned ({taken / planned:.2f})."
    return lines


def sharing_table(data: Any) -> list[str]:
    """Which way let NCCL's ranks share the GPU."""
    outcomes: dict[str, dict[str, str]] = {}
    for test, outcome in (data or {}).get("outcomes", {}).items():
        found = re.search(r"share_a_gpu\[(\w+)-(\d)\]", test)
        if found:
            outcomes.setdefault(found.group(1), {})[found.group(2)] = outcome
    if not outcomes:
        return []
    lines = ["", *table("NCCL ranks on one GPU", "2", "4")]
    return lines + [row(way, *(o.get(n, "") for n in "24")) for way, o in outcomes.items()]


def demo_table(step: dict[str, Any] | None) -> list[str]:
    """The demo's switches."""
    if not step or not step["data"]:
        return []
    gap = step["data"]["loss_gap_max"]
    lines = ["", f"demo: {first_line(step)}; largest gap in loss {gap:.1e}", ""]
    lines += table(
        "switch", "prepared", "stop, ms", "transfer, ms", "MiB moved", "bound", "same bits"
    )
    for switch in step["data"]["switches"]:
        same = switch["fingerprint_before"] == switch["fingerprint_after"]
        times = [f"{switch[f'{name}_seconds'] * 1e3:.1f}" for name in ("stop", "transfer")]
        sizes = [f"{switch[name] / 2**20:.2f}" for name in ("bytes_moved", "lower_bound_bytes")]
        names = f"{switch['source']} to {switch['target']}"
        lines.append(row(names, switch["prepared"], *times, *sizes, same))
    return lines


def skipped_tests(name: str, data: Any) -> list[str]:
    """Tests that did not run, each with its reason."""
    reasons = (data or {}).get("skipped", {})
    return ["", f"{name}, skipped:", ""] * bool(reasons) + [
        f"- {test}: {reason}" for test, reason in reasons.items()
    ]


def failures(steps: Sequence[dict[str, Any]]) -> list[str]:
    """What the failed steps said."""
    lines = []
    for step in steps:
        if step["status"] == "failed":
            lines += ["", f"{step['name']} failed:", "", "```text", step["detail"], "```"]
    return lines
