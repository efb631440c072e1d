"""The pictures of the elastic demo: both loss curves, and what each way of going on costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from gpt.pictures import EQUAL, FAINT, INK, STYLE

from .records import Happened, Step, stops

BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"
STEPS_PER_BAR = 5
ALLOWED = 1e-3


@dataclass(frozen=True)
class Course:
    """One run as it is drawn."""

    title: str
    steps: Sequence[Step]
    history: Sequence[Happened]

    @property
    def seconds(self) -> float:
        """From the first step's begin to the last one's end."""
        return self.steps[-1].end - self.steps[0].begin


def draw_losses(
    path: Path, elastic: Sequence[float], undisturbed: Sequence[float], history: Sequence[Happened]
) -> None:
    """Draw both loss curves, every event, and below the gap between the curves."""
    steps = range(1, len(elastic) + 1)
    with plt.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(11, 6.2), sharex=True, height_ratios=(3, 1.2), layout="constrained"
        )
        label = "2 processes, undisturbed"
        upper.plot(steps, undisturbed, color=ORANGE, linewidth=6, alpha=0.55, label=label)
        upper.plot(steps, elastic, color=BLUE, linewidth=1.4, label="processes come, go and die")
        upper.set(ylabel="training loss (nats per byte)")
        upper.legend(loc="upper right", frameon=False, bbox_to_anchor=(1, 0.9))
        title = "One training run whose processes come, go and die, and one left alone"
        upper.set_title(title, pad=38)
        mark_events(upper, lower, len(steps), history)
        gaps = [max(EQUAL, abs(a - b)) for a, b in zip(elastic, undisturbed, strict=True)]
        lower.semilogy(steps, gaps, color=INK, linewidth=0.8)
        lower.axhline(ALLOWED, color=RED, linestyle="--", linewidth=1)
        lower.text(1, 1.3e-3, "allowed: 1e-3", color=RED, fontsize=8.5, va="bottom")
        lower.set(xlabel="step", ylabel="gap in loss", xlim=(0.5, len(gaps) + 0.5))
        lower.set(ylim=(EQUAL / 2, 2e-2), yticks=(EQUAL, 1e-6, 1e-4, 1e-2))
        lower.set_yticklabels(("equal", "1e-6", "1e-4", "1e-2"))
        figure.savefig(path)
        plt.close(figure)


def mark_events(upper: Axes, lower: Axes, num_steps: int, history: Sequence[Happened]) -> None:
    """Shade every other world, name its size, and write above what has happened."""
    top = upper.get_xaxis_transform()
    edges = [0.5, *(each.step + 1.5 for each in history), num_steps + 0.5]
    sizes = [history[0].stops[0].source.world_size]
    sizes += [each.stops[-1].target.world_size for each in history]
    for index, size in enumerate(sizes):
        begin, end = edges[index : index + 2]
        if index % 2:
            upper.axvspan(begin, end, color="#000000", alpha=0.045, linewidth=0)
        place = {"transform": top, "ha": "center", "va": "top", "fontsize": 9}
        upper.text((begin + end) / 2, 0.98, f"{size}" if index else f"{size} processes", **place)
    for each, edge in zip(history, edges[1:], strict=False):
        for axes in (upper, lower):
            axes.axvline(edge, color=FAINT, linewidth=0.8, linestyle=":")
        words = each.event.kind.words
        broken = words.replace(": ", ":\n") if ":" in words else "\n".join(words.rsplit(" ", 1))
        upper.text(edge, 1.02, broken, transform=top, fontsize=8, ha="center", va="bottom")


def draw_course(path: Path, elastic: Course, restarted: Course, note: str) -> None:
    """Draw throughput and number of processes of both runs over one axis of time."""
    longest = max(elastic.seconds, restarted.seconds)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            4, 1, figsize=(14, 6.8), sharex=True, height_ratios=(3, 1, 3, 1), layout="constrained"
        )
        for course, rate, size in ((elastic, *axes[:2]), (restarted, *axes[2:])):
            rate.set_title(course.title, fontsize=11)
            draw_rate(rate, course)
            draw_size(size, course)
            mark_stops(rate, course, in_words=course is restarted)
        most = max(rate for _, _, rate in (*bars(elastic.steps), *bars(restarted.steps)))
        for rate in (axes[0], axes[2]):
            rate.set(ylim=(0, 1.3 * most), ylabel="steps per second")
        list_events(axes[0], elastic, restarted)
        axes[3].set(xlim=(0, 1.01 * longest), xlabel=f"seconds since the first step\n{note}")
        figure.savefig(path)
        plt.close(figure)


def bars(steps: Sequence[Step]) -> Iterator[tuple[float, float, float]]:
    """Begin, end and steps per second of a few steps at a time, never of two worlds."""
    group: list[Step] = []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        group.append(step)
        ends = following is None or following.epoch != step.epoch
        if ends or len(group) == STEPS_PER_BAR:
            end = step.end if following is None or ends else following.begin
            yield group[0].begin, end, len(group) / (end - group[0].begin)
            group = []


def draw_rate(axes: Axes, course: Course) -> None:
    """Draw steps per second; those that are done again in another colour."""
    zero = course.steps[0].begin
    again = [(stop.end, stop.regained) for stop in stops(course.steps) if stop.repeated_steps]
    for begin, end, rate in bars(course.steps):
        repeats = any(first <= begin < last for first, last in again)
        place = [(begin - zero, end - begin)]
        axes.broken_barh(place, (0, rate), color=ORANGE if repeats else BLUE, linewidth=0)


def draw_size(axes: Axes, course: Course) -> None:
    """Draw how many processes train; 0 while nobody does."""
    zero = course.steps[0].begin
    changes = stops(course.steps)
    begins = [course.steps[0].begin, *(stop.end for stop in changes)]
    ends = [*(stop.begin for stop in changes), course.steps[-1].end]
    sizes = [course.steps[0].world_size, *(stop.target.world_size for stop in changes)]
    for begin, end, size in zip(begins, ends, sizes, strict=True):
        axes.broken_barh([(begin - zero, end - begin)], (0, size), color="#999999", linewidth=0)
        words = {"ha": "center", "va": "center", "fontsize": 8, "color": "white"}
        axes.text((begin + end) / 2 - zero, size / 2, str(size), fontweight="bold", **words)
    axes.set(ylim=(0, 4.2), yticks=(0, 2, 4), ylabel="processes")


def mark_stops(axes: Axes, course: Course, *, in_words: bool) -> None:
    """Shade each stop and write its event's number above, and what it has cost."""
    zero, top = course.steps[0].begin, axes.get_xaxis_transform()
    for number, each in enumerate(course.history, 1):
        for stop in each.stops:
            axes.axvspan(stop.begin - zero, stop.end - zero, color=RED, alpha=0.25, linewidth=0)
        middle = (each.stops[0].begin + each.stops[-1].end) / 2 - zero
        words = {"transform": top, "ha": "center", "va": "top", "color": RED, "fontsize": 9}
        text = f"{number}\n{each.stop_seconds:.1f} s" if in_words else str(number)
        if in_words and each.repeated_steps:
            text += f",\n{each.repeated_steps} step{'s' * (each.repeated_steps > 1)}\nagain"
        axes.text(middle, 0.98, text, fontweight="bold", **words)


def list_events(axes: Axes, elastic: Course, restarted: Course) -> None:
    """Write beside the pictures what each event has cost both of them."""
    lines = [f"{'  time lost to training':<26}{'in place':>9}{'restart':>10}"]
    for number, pair in enumerate(zip(elastic.history, restarted.history, strict=True), 1):
        ours, usual = f"{pair[0].lost_seconds:.2f} s", f"{pair[1].lost_seconds:.1f} s"
        lines.append(f"{number} {pair[0].event.kind.words:<24}{ours:>9}{usual:>10}")
    ours, usual = (sum(e.lost_seconds for e in c.history) for c in (elastic, restarted))
    lines.append(f"{'  in all':<26}{f'{ours:.2f} s':>9}{f'{usual:.1f} s':>10}")
    words = {"transform": axes.transAxes, "ha": "left", "va": "top", "fontsize": 8.5}
    axes.text(1.01, 1, "\n".join(lines), family="monospace", **words)
