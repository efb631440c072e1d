"""Trains a small GPT on processes that come, go and die, and once more with a restart each time.

python examples/train_elastic.py, on one machine; it starts all processes itself, by the commands
that it prints. Each run's processes are in elastic/.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from elastic import records, restarts, story
from elastic.records import Happened
from elastic.story import KINDS, LAYOUTS, STORY, Kind, Training

SCHEMA_VERSION = 1
LARGEST_GAP = 1e-3


def say(text: str) -> None:
    """Print a line, after the seconds since the start."""
    sys.stdout.write(f"{time.monotonic() - BEGIN:6.1f} s  {text}\n")
    sys.stdout.flush()


def demonstrate(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the job three times; write the summary and the pictures, and return the summary."""
    training = Training(options.steps, options.pace_s)
    say("A job whose processes come and go:")
    events, said = story.run(made(folder / "elastic"), training, options.events, options.apart, say)
    elastic = records.joined(said)
    history = records.happened(events, records.stops(elastic))
    until = len(records.losses(elastic))
    for each in history:
        say(f"{each.event.kind.words}: training stood still for {each.stop_seconds:.2f} s")
    say(f"The same {until} steps on two processes, undisturbed:")
    unhurried = Training(options.steps, 0.0)
    launcher = restarts.Launcher(made(folder / "undisturbed"), unhurried, until, 1 << 40)
    undisturbed = records.losses(records.joined(restarts.run(launcher, [], say)))
    say("The same events, each with a checkpoint and a restart of all processes:")
    launcher = restarts.Launcher(made(folder / "restarted"), training, until, options.every)
    due = [restarts.Due(each.event, each.step) for each in history]
    restarted = records.joined(restarts.run(launcher, due, say))
    usual = restarted_history(history, restarted)
    summary = summarize(options, elastic, undisturbed, history)
    summary |= costs(elastic, restarted, history, usual)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(folder, (elastic, history), (restarted, usual), undisturbed)
    return summary


def restarted_history(
    history: Sequence[Happened], restarted: Sequence[records.Step]
) -> list[Happened]:
    """The restart of each event, in their order."""
    changes = records.stops(restarted)
    return [Happened(each.event, [stop]) for each, stop in zip(history, changes, strict=True)]


def summarize(
    options: argparse.Namespace,
    elastic: Sequence[records.Step],
    undisturbed: list[float],
    history: Sequence[Happened],
) -> dict[str, Any]:
    """The summary's first part: was it the same training."""
    losses = records.losses(elastic)
    gaps = [abs(a - b) for a, b in zip(losses, undisturbed, strict=True)]
    return {
        "schema_version": SCHEMA_VERSION,
        "steps": len(losses),
        "least_step_seconds": options.pace_s,
        "checkpoint_every_steps": options.every,
        "loss_gap_max": max(gaps),
        "losses": losses,
        "losses_undisturbed": undisturbed,
        "num_events": len(history),
    }


def costs(
    elastic: Sequence[records.Step],
    restarted: Sequence[records.Step],
    history: Sequence[Happened],
    usual: Sequence[Happened],
) -> dict[str, Any]:
    """The summary's second part: what each event has cost, both ways."""
    events = [
        {
            "name": ours.event.kind.name,
            "step": ours.step + 1,
            "source": ours.stops[0].source.layout,
            "target": ours.stops[-1].target.layout,
            "elastic": ours.to_json(),
            "restart": theirs.to_json(),
        }
        for ours, theirs in zip(history, usual, strict=True)
    ]
    runs = {"elastic": (elastic, history), "restart": (restarted, usual)}
    totals = {
        f"{name}_{what}_seconds": seconds
        for name, (steps, each) in runs.items()
        for what, seconds in (
            ("run", steps[-1].end - steps[0].begin),
            ("lost", sum(one.lost_seconds for one in each)),
        )
    }
    return {**totals, "events": events}


def draw(
    folder: Path,
    elastic: tuple[Sequence[records.Step], Sequence[Happened]],
    restarted: tuple[Sequence[records.Step], Sequence[Happened]],
    undisturbed: list[float],
) -> None:
    """Draw the pictures, where there is matplotlib."""
    try:
        from elastic import pictures
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"no pictures were drawn: there is no {missing.name}\n")
        return
    losses = records.losses(elastic[0])
    pictures.draw_losses(folder / "losses.png", losses, undisturbed, elastic[1])
    ours = pictures.Course("dynatrain: the others train on in their processes", *elastic)
    title = "The usual way: a checkpoint, all processes end, new ones start and load it"
    note = (
        f"a GPT of 1 M parameters on one machine with {len(os.sched_getaffinity(0))} processors; "
        "orange: steps done again; every stop and every restart was run and measured"
    )
    usual = pictures.Course(title, *restarted)
    pictures.draw_course(folder / "course.png", ours, usual, note)


def made(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def kinds_of(text: str) -> list[Kind]:
    """Events by their names; ValueError where they lead to a world that has no layout."""
    unknown = set(text.split(",")) - set(KINDS)
    if unknown:
        raise ValueError(unknown)
    kinds = [KINDS[name] for name in text.split(",")]
    sizes = list(accumulate((kind.more for kind in kinds), initial=2))
    if not set(sizes) <= set(LAYOUTS):
        raise ValueError(sizes)
    return kinds


def main() -> int:
    """Run the demo; the exit status is 1 when the events changed the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/demo-elastic"), help="where it leaves its files")
    add("--events", type=kinds_of, default=STORY, help=f"of {', '.join(KINDS)}; %(default)s")
    add("--steps", type=int, default=1000, help="more than the events take")
    add("--apart", type=int, default=20, help="steps between two events, at least")
    add("--pace-s", type=float, default=0.1, help="least time of a step; %(default)s")
    add("--every", type=int, default=20, help="steps between two checkpoints; %(default)s")
    options = parser.parse_args()
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    summary = demonstrate(options, folder)
    say(
        f"{summary['num_events']} events: {summary['elastic_lost_seconds']:.1f} s lost, with "
        f"restarts {summary['restart_lost_seconds']:.1f} s; "
        f"largest gap in loss {summary['loss_gap_max']:.1e}"
    )
    say(f"Written: {options.out}/summary.json, losses.png, course.png")
    return 0 if summary["loss_gap_max"] <= LARGEST_GAP else 1


if __name__ == "__main__":
    BEGIN = time.monotonic()
    sys.exit(main())
