"""The picture of a replayed trace: who trained when, and where the GPU-hours went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from elastic.pictures import BLUE, ORANGE, RED
from elastic_course import AGAIN, HOUR, SAVE, STOP, TRAIN, Course, Piece, gpu_hours
from gpt.pictures import INK, STYLE

IDLE = "idle"
COLORS = {TRAIN: BLUE, STOP: RED, AGAIN: ORANGE, SAVE: "#CC79A7", IDLE: "#D4D4D4"}
LABELS = {
    TRAIN: "trains",
    STOP: "stands still",
    AGAIN: "does lost steps again",
    SAVE: "saves a checkpoint",
    IDLE: "there, but not in use",
}


def draw(
    path: Path, real: Mapping[str, Course], virtual: Mapping[str, Course], notes: tuple[str, str]
) -> None:
    """Draws the courses that were run, above those in virtual time; notes are their titles."""
    height = 1.7 * len(real) + 3.4
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, height), layout="constrained")
        parts = figure.subfigures(2, 1, height_ratios=(1.7 * len(real), 3.4)) if real else None
        if parts is not None:
            parts[0].suptitle(notes[0], x=0.01, ha="left", fontweight="bold")
            axes = parts[0].subplots(len(real), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
            for one, (name, course) in zip(axes, real.items(), strict=True):
                draw_course(one, course, 1.0)
                draw_title(one, name, course)
                one.set_ylabel("processes")
            axes[-1].set_xlabel("seconds")
        whole = parts[1] if parts is not None else figure
        whole.suptitle(notes[1], x=0.01, ha="left", fontweight="bold")
        nodes, hours = whole.subplots(1, 2, width_ratios=(1.5, 1))
        draw_nodes(nodes, virtual)
        draw_hours(hours, virtual)
        handles = [Patch(color=COLORS[kind], label=label) for kind, label in LABELS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path)
        plt.close(figure)


def draw_course(axes: Axes, course: Course, unit: float) -> None:
    """Draws what all that are there do, over time."""
    zero = course.pieces[0].begin
    for piece in course.pieces:
        place = [((piece.begin - zero) / unit, piece.seconds / unit)]
        busy = piece.used if piece.kind == TRAIN or piece.kind == AGAIN else piece.present
        axes.broken_barh(place, (0, busy), color=COLORS[piece.kind], linewidth=0)
        if busy < piece.present:
            size = (busy, piece.present - busy)
            axes.broken_barh(place, size, color=COLORS[IDLE], linewidth=0)
    most = max(piece.present for piece in course.pieces)
    axes.set(xlim=(0, (course.pieces[-1].end - zero) / unit), ylim=(0, 1.05 * most))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def draw_title(axes: Axes, name: str, course: Course) -> None:
    """Names a job, and says what it has come to."""
    first, last = course.pieces[0], course.pieces[-1]
    share = course.seconds_of(TRAIN) / (last.end - first.begin)
    steps = last.done - first.done_before
    axes.set_title(f"{name}: {steps:.0f} new steps, {share:.0%} of the time in them", fontsize=10)


def draw_nodes(axes: Axes, virtual: Mapping[str, Course]) -> None:
    """Draws the nodes that are there, and those that the first and the last job use."""
    names = list(virtual)
    draw_course(axes, virtual[names[0]], HOUR)
    last = virtual[names[-1]].pieces
    zero = last[0].begin
    times = [(piece.begin - zero) / HOUR for piece in last]
    label = f"{names[-1]}: nodes in use"
    axes.step(times, [piece.used for piece in last], where="post", color=INK, lw=0.9, label=label)
    axes.legend(loc="lower left", frameon=True, fontsize=9)
    axes.set(xlabel="hours", ylabel="nodes (GPUs)")
    axes.set_title(f"{names[0]}: what its nodes do", fontsize=10)


def draw_hours(axes: Axes, virtual: Mapping[str, Course]) -> None:
    """Draws for each job the GPU-hours in which no new step was done."""
    kinds = (STOP, AGAIN, SAVE, IDLE)
    for place, course in enumerate(virtual.values()):
        left = 0.0
        for kind in kinds:
            width = gpu_hours_of(course, kind)
            axes.barh(place, width, left=left, color=COLORS[kind], height=0.6)
            left += width
        lost = gpu_hours_of(course, STOP, AGAIN, SAVE)
        words = f" {lost:.1f} lost, {left - lost:.1f} not in use"
        axes.text(left, place, words, va="center", fontsize=9)
    longest = max(gpu_hours_of(course, *kinds) for course in virtual.values())
    axes.set(yticks=range(len(virtual)), xlim=(0, 1.75 * longest), xlabel="GPU-hours")
    axes.set_yticklabels(virtual)
    axes.invert_yaxis()
    axes.set_title("GPU-hours without new steps", fontsize=10)


def gpu_hours_of(course: Course, *kinds: str) -> float:
    """GPU-hours of what is there in pieces of these kinds; for `IDLE` of what is not in use."""
    return gpu_hours(course.pieces, [of_kinds(piece, kinds) for piece in course.pieces])


def of_kinds(piece: Piece, kinds: tuple[str, ...]) -> int:
    """How many GPUs of a piece do one of these."""
    if piece.kind != TRAIN:
        return piece.present if piece.kind in kinds else 0
    return (piece.used if TRAIN in kinds else 0) + (
        piece.present - piece.used if IDLE in kinds else 0
    )
