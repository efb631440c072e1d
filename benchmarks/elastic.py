"""Times what joins, leaves, deaths and resizes cost an elastic job, beside restarts by torchrun.

Starts its own processes. Two parts, the second with what the first has measured:

events  One at a time, in turn with dynatrain and with torchrun, which restarts all processes from
        torch's distributed checkpoint; and the same pairs of layouts as plain, prepared switches of
        processes that are all there.
trace   Nodes that come and go as a file says (`milliseconds,add|remove,node` lines), or at the
        rates of a published trace. Its first --hours for real, --compress times as fast, folded
        onto up to 6 processes; all of it in virtual time, by the rules of elastic_replay.py, for
        dynatrain, restarts from checkpoints and a job that only knows whole replicas.

A benchmark never asserts; it prints tables, or the events as JSON. --out keeps events.json,
replay.json and replay.png. docs/reference/json.md describes them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import dynatrain
from dynatrain.report import SCHEMA_VERSION

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # whose `elastic` is meant below

from elastic_course import Course, summary
from elastic_events import Events
from elastic_replay import Dynatrain, Replicas, best_restart, interval, layouts_of
from elastic_traces import Instant, Rates, cut, folded, made, peak, read
from elastic_trial import MOST, Elastic, Restarted, Script
from elastic_virtual import Costs, Task

DYNATRAIN, RESTART, REPLICAS = "dynatrain", "restart", "whole replicas"
#: Of the default trace, and so many replicas at its peak.
HOURS, NUM_REPLICAS = 11.37, 8
STEP_S = 2.0
Rows = Sequence[Mapping[str, Any]]


def say(text: str) -> None:
    """Tells whoever waits, beside what is printed in the end."""
    sys.stderr.write(f"# {time.monotonic() - BEGIN:6.1f} s  {text}\n")


def events(options: argparse.Namespace, folder: Path) -> Rows:
    """Measures all events, or takes what was measured before."""
    if options.costs:
        return list(json.loads(options.costs.read_text()))
    measured = Events(folder, options.pace_s, options.apart, options.every, say)
    for number in range(options.runs):
        say(f"events, run {number + 1} of {options.runs}")
        measured.run()
        rows = [asdict(row) for row in measured.rows()]
        (options.out / "events.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def costs_of(rows: Rows) -> Costs:
    """What the virtual jobs are charged: medians of all rows of an event."""

    def median(contender: str, name: str, of: str = "stop_seconds") -> float:
        these = [each for each in rows if (each["contender"], each["event"]) == (contender, name)]
        return statistics.median(each[of] for each in these)

    return Costs(
        join=median(DYNATRAIN, "join"),
        leave=median(DYNATRAIN, "leave"),
        kill=median(DYNATRAIN, "kill", "goes_on_seconds"),
        preparing=median(DYNATRAIN, "join", "preparing_seconds"),
        slowdown=median(DYNATRAIN, "join", "prepare_slowdown"),
        start=median(DYNATRAIN, "join", "start_seconds"),
        restart=median(RESTART, "join"),
        restart_after_kill=median(RESTART, "kill"),
        save=median(RESTART, "join", "save_seconds"),
    )


def in_virtual_time(
    trace: Sequence[Instant], costs: Costs, options: argparse.Namespace
) -> dict[str, Course]:
    """The whole trace, at its own size."""
    each = max(1, peak(trace) // NUM_REPLICAS)
    layouts = layouts_of(peak(trace), each, 2 * each)
    task = Task(layouts, each, STEP_S * peak(trace), notice=options.notice_s > 0)
    end = trace[-1].seconds
    restart = best_restart(trace, end, task, costs)
    say(
        f"virtual: {costs}; replicas of {each} to {2 * each} nodes; restart saves each "
        f"{restart.every:.0f} s, new nodes wait {restart.patience:.0f} s for one"
    )
    return {
        DYNATRAIN: Dynatrain(task, costs).run(trace, end),
        RESTART: restart.course,
        REPLICAS: Replicas(task, costs).run(trace, end),
    }


def for_real(
    trace: Sequence[Instant], costs: Costs, options: argparse.Namespace, folder: Path
) -> dict[str, Course]:
    """The first hours, with processes."""
    moments = folded(cut(trace, options.hours), MOST, peak(trace))
    script = Script(
        [(at / options.compress, number) for at, number in moments],
        min(3600 * options.hours, trace[-1].seconds) / options.compress,
        options.notice_s / options.compress,
        options.pace_s,
        options.seed,
    )
    say(f"for real: {len(moments)} numbers of processes in {script.end:.0f} s")
    ours = Elastic(script, folder / "real-elastic", say).run()
    best = interval(costs.save, script.between_losses) * ours.done / script.end
    every = max(1, round(best))
    say(f"the same with restarts, and a checkpoint each {every} steps")
    usual = Restarted(script, folder / "real-restart", every, say).run()
    return {DYNATRAIN: ours, RESTART: usual}


def replay_rows(courses: Mapping[str, Course], options: argparse.Namespace, way: str) -> Rows:
    """What the courses come to; the goal is what all of them have done in the end."""
    goal = min((course.done for course in courses.values()), default=0.0)
    return [
        {
            "schema_version": SCHEMA_VERSION,
            "trace": options.trace.name if options.trace else "made",
            "way": way,
            "contender": name,
            "notice_seconds": options.notice_s,
            "compress": options.compress if way == "real" else 1.0,
            "seconds": course.pieces[-1].end - course.pieces[0].begin,
            **asdict(summary(course, goal)),
        }
        for name, course in courses.items()
    ]


def show_events(rows: Rows) -> None:
    """Prints what single events have cost; of the restart what is held against."""
    from rich.table import Table

    table = Table(title="training stands still, median seconds (min; first run)")
    columns = ("event", DYNATRAIN, RESTART, "times", "plain", "prepared outside", "slowed", "lost")
    for column in columns:
        table.add_column(column)
    for row in rows:
        if row["contender"] == DYNATRAIN:
            table.add_row(*event_cells(row, beside(row, rows)))
    print_wide(table)


def beside(row: Mapping[str, Any], rows: Rows) -> Mapping[str, Any]:
    """The restart for the same event."""
    same = ("event", "source", "target")
    return next(
        each
        for each in rows
        if each["contender"] == RESTART and all(each[name] == row[name] for name in same)
    )


def event_cells(row: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """One event: both stops, how often ours fits into the other, and ours against the goals."""
    stops = [
        f"{each['stop_seconds']:.2f} ({each['stop_seconds_min']:.2f}; "
        f"{each['stop_seconds_first']:.2f})"
        for each in (row, usual)
    ]
    cells = [f"{row['event']}\n{row['source']}\n{row['target']}", *stops]
    cells.append(f"{usual['stop_seconds'] / row['stop_seconds']:.0f}")
    if row["event"] == "kill":
        after, deadline = row["goes_on_seconds"], row["deadline_seconds"]
        cells += [f"{after:.2f} after it, deadline {deadline:.0f}", "", ""]
    else:
        outside = 1 - row["prepare_inside_seconds"] / row["prepare_seconds"]
        cells += [f"{row['plain_switch_seconds']:.2f}", f"{outside:.0%}"]
        cells.append(f"{row['prepare_slowdown']:.2f}")
    return [*cells, f"{row['steps_lost']:.0f} / {usual['steps_lost']:.0f}"]


def show_replay(rows: Rows) -> None:
    """Prints what the trace has cost."""
    from rich.table import Table

    name, notice = rows[0]["trace"], rows[0]["notice_seconds"]
    table = Table(title=f"trace {name}, notice {notice:.0f} s")
    columns = ("way", "contender", "seconds to N", "ETTR", "changes", "down median, p95, max")
    for column in (*columns, "steps lost", "GPU-hours lost", "idle", "all"):
        table.add_column(column)
    for row in rows:
        down = [f"{row[f'downtime_seconds_{name}']:.1f}" for name in ("median", "p95", "max")]
        hours = [f"{row[f'gpu_hours{name}']:.2f}" for name in ("_lost", "_idle", "")]
        table.add_row(
            row["way"],
            row["contender"],
            f"{row['seconds_to_goal']:.0f} to {row['goal_steps']:.0f}",
            f"{row['ettr']:.1%}",
            str(row["num_changes"]),
            ", ".join(down),
            f"{row['steps_lost']:.1f}",
            *hours,
        )
    print_wide(table)


def print_wide(table: Any) -> None:
    """Prints a table; where nobody looks, as wide as it is."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(table)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", action="store_true", help="print the events as JSON instead of tables")
    add("--runs", type=int, default=5, help="runs of all events; %(default)s")
    add("--costs", type=Path, help="events.json of before, instead of runs")
    add("--apart", type=int, default=20, help="steps between two events; %(default)s")
    add("--every", type=int, default=30, help="steps between checkpoints, events; %(default)s")
    add("--pace-s", type=float, default=0.1, help="least time of a step; %(default)s")
    add("--trace", type=Path, help="milliseconds,add|remove,node lines; else one is made")
    add("--seed", type=int, default=0, help="of the trace that is made, and of who is killed")
    add("--hours", type=float, default=1.0, help="of the trace for real; 0 for none; %(default)s")
    add("--compress", type=float, default=20.0, help="times as fast; %(default)s")
    add("--notice-s", type=float, default=0.0, help="of the trace's seconds, before a node goes")
    add("--out", type=Path, default=Path("out/bench-elastic"), help="where it leaves its files")
    options = parser.parse_args()
    if options.runs < 1 and not options.costs:
        parser.error("--runs 0 goes with --costs")
    try:
        made_here = partial(made, Rates(), HOURS, options.seed)
        options.instants = read(options.trace) if options.trace else made_here()
    except (OSError, ValueError) as error:
        parser.error(f"--trace: {error}")
    return options


def main() -> None:
    """Runs the benchmark, prints its tables and writes its files."""
    options = parse()
    folder = options.out.resolve()
    shutil.rmtree(folder / "logs", ignore_errors=True)
    (folder / "logs").mkdir(parents=True)
    say(
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} processors, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"dynatrain {dynatrain.__version__}, {options.runs} runs"
    )
    rows = events(options, folder / "logs")
    (folder / "events.json").write_text(json.dumps(rows, indent=1) + "\n")
    costs, trace = costs_of(rows), options.instants
    real = for_real(trace, costs, options, folder / "logs") if options.hours else {}
    virtual = in_virtual_time(trace, costs, options)
    replayed = [*replay_rows(real, options, "real"), *replay_rows(virtual, options, "virtual")]
    (folder / "replay.json").write_text(json.dumps(replayed, indent=1) + "\n")
    draw(folder / "replay.png", real, virtual, options)
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        show_events(rows)
        show_replay(replayed)


def draw(
    path: Path,
    real: Mapping[str, Course],
    virtual: Mapping[str, Course],
    options: argparse.Namespace,
) -> None:
    """Draws the picture, where there is matplotlib."""
    try:
        import elastic_pictures
    except ModuleNotFoundError as missing:
        say(f"no picture was drawn: there is no {missing.name}")
        return
    name = options.trace.stem if options.trace else "a trace made at published rates"
    notes = (
        f"{name}, its first {options.hours:g} h, {options.compress:g} times as fast: run for real",
        f"{name}, all of it in virtual time, with the costs that were measured",
    )
    elastic_pictures.draw(path, real, virtual, notes)


if __name__ == "__main__":
    BEGIN = time.monotonic()
    main()
