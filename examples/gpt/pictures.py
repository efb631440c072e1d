"""The demo's two pictures: both loss curves, and the timeline of one switch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from dynatrain import SwitchReport

INK, FAINT = "#222222", "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 110,
}
COLORS = {  # Okabe and Ito's and some greys, told apart by colour-blind readers too
    "meet": "#DDDDDD",
    "world": "#D55E00",
    "build": "#E69F00",
    "plan": "#888888",
    "replicas": "#117733",
    "values": "#CC79A7",
    "fingerprint": "#332288",
    "agree": "#999933",
    "pack": "#56B4E9",
    "wire": "#0072B2",
    "unpack": "#009E73",
    "local": "#F0E442",
    "sums": "#88CCEE",
    "verify": "#88CCEE",
    "release": "#882255",
    "acknowledge": "#661100",
    "arrival": "#BBBBBB",
    "commit": "#000000",
}
LABELS = {
    "meet": "meet: all have called",
    "world": "world: groups are made",
    "build": "build: your code, memory",
    "plan": "plan: what goes where",
    "values": "values: what is no tensor",
    "fingerprint": "fingerprint of the state",
    "pack": "pack into staging",
    "wire": "wire: send and receive",
    "unpack": "unpack from staging",
    "local": "local: stays on the rank",
    "verify": "verify: sums of what came",
    "arrival": "arrival: wait for all ranks",
    "commit": "commit: vote and swap",
}
#: They overlap; all else is in lane 0.
LANES = {"pack": 1, "wire": 2, "unpack": 3, "local": 3, "verify": 3}
NUM_LANES = 4
EQUAL = 1e-8  # where a gap of 0 is drawn on the logarithmic scale


def draw_losses(
    path: Path, switching: list[float], still: list[float], switches: Sequence[SwitchReport]
) -> None:
    """Draw both loss curves, every switch, and below the gap between the curves."""
    steps = range(1, len(switching) + 1)
    with plt.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(11, 6.2), sharex=True, height_ratios=(3, 1.2), layout="constrained"
        )
        never = f"always {switches[0].source}"
        upper.plot(steps, still, color="#E69F00", linewidth=6, alpha=0.55, label=never)
        upper.plot(steps, switching, color="#0072B2", linewidth=1.6, label="switching its layout")
        upper.set(ylabel="training loss (nats per byte)")
        upper.legend(loc="lower left", frameon=False)
        upper.set_title(f"One training run with {len(switches)} switches, and one without", pad=34)
        mark_switches(upper, len(switching), switches)
        gaps = [abs(a - b) for a, b in zip(switching, still, strict=True)]
        lower.semilogy(steps, [max(gap, EQUAL) for gap in gaps], color=INK, linewidth=1)
        lower.axhline(1e-3, color="#D55E00", linestyle="--", linewidth=1)
        lower.text(1, 1.3e-3, "allowed: 1e-3", color="#D55E00", fontsize=8.5, va="bottom")
        lower.set(xlabel="step", ylabel="gap in loss", xlim=(0.5, len(gaps) + 0.5))
        lower.set(ylim=(EQUAL / 2, 2e-2), yticks=(EQUAL, 1e-6, 1e-4, 1e-2))
        lower.set_yticklabels(("equal", "1e-6", "1e-4", "1e-2"))
        for report in switches:
            lower.axvline(report.step + 0.5, color=FAINT, linewidth=0.8, linestyle=":")
        figure.savefig(path)
        plt.close(figure)


def mark_switches(axes: Axes, num_steps: int, switches: Sequence[SwitchReport]) -> None:
    """Shade every other layout, and write layouts and stop times above the picture."""
    edges = [0.5, *(report.step + 0.5 for report in switches), num_steps + 0.5]
    names = [switches[0].source, *(report.target for report in switches)]
    top = axes.get_xaxis_transform()
    for index, name in enumerate(names):
        begin, end = edges[index : index + 2]
        if index % 2:
            axes.axvspan(begin, end, color="#000000", alpha=0.045, linewidth=0)
        label = str(name).replace(",", "\n")
        axes.text((begin + end) / 2, 1.02, label, transform=top, ha="center", va="bottom")
    for report, edge in zip(switches, edges[1:], strict=False):
        axes.axvline(edge, color=FAINT, linewidth=0.8, linestyle=":")
        stop = f"stopped\n{report.stop_seconds * 1e3:.0f} ms"
        axes.text(edge + 0.4, 0.97, stop, transform=top, fontsize=8, color=INK, va="top")


def draw_timeline(path: Path, report: SwitchReport) -> None:
    """Draw what every rank did in one switch: the whole of it, and the transfer enlarged."""
    ranks = sorted({span.rank for span in report.timeline})
    moving = [span for span in report.timeline if span.phase in ("pack", "wire", "unpack", "local")]
    with plt.rc_context(STYLE):
        figure, (whole, zoom) = plt.subplots(
            2, 1, figsize=(11, 2.3 + 1.25 * len(ranks)), layout="constrained"
        )
        how = "prepared ahead" if report.prepared else "cold: built and planned in the stop"
        whole.set_title(
            f"{report.source} → {report.target} ({how}): stopped {report.stop_seconds * 1e3:.0f} ms"
        )
        zoom.set_title("The transfer, enlarged")
        for axes in (whole, zoom):
            draw_lanes(axes, report, ranks)
        if moving:
            begin = min(span.begin_seconds for span in moving) * 1e3
            end = max(span.end_seconds for span in moving) * 1e3
            margin = 0.02 * (end - begin)
            zoom.set_xlim(begin - margin, end + margin)
        zoom.set_xlabel("milliseconds since the call")
        phases = [phase for phase in COLORS if any(s.phase == phase for s in report.timeline)]
        handles = [Patch(color=COLORS[p], label=LABELS.get(p, p)) for p in phases]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path)
        plt.close(figure)


def draw_lanes(axes: Axes, report: SwitchReport, ranks: Sequence[int]) -> None:
    """Draw one band per rank, in which pack, wire and unpack have a lane each."""
    height = 0.84 / NUM_LANES
    for span in report.timeline:
        row = ranks.index(span.rank) - 0.42 + height * LANES.get(span.phase, 0)
        width = (span.end_seconds - span.begin_seconds) * 1e3
        color = COLORS.get(span.phase, INK)
        place = (row, height * 0.92)
        axes.broken_barh([(span.begin_seconds * 1e3, width)], place, color=color, linewidth=0)
    for row in range(len(ranks)):
        axes.axhspan(row - 0.46, row + 0.46, color="#000000", alpha=0.03, linewidth=0)
    axes.set_yticks(range(len(ranks)), [f"rank {rank}" for rank in ranks])
    axes.set_ylim(len(ranks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, report.stop_seconds * 1e3)
