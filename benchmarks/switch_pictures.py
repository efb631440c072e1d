"""Draws what benchmarks/switch.py --json has measured: switch_pictures.py <rows.json>... <picture>.

A panel for each pair of layouts, a bar for each contender: the median, with the minimum marked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

#: What a bar is called, the slowest contenders first.
LABELS = {
    "restart": "restart, checkpoint",
    "dcp-tmpfs": "torch's checkpoint",
    "c10d-per-tensor": "a message per box",
    "dynatrain-c10d": "dynatrain, messages",
    "dynatrain-shared_memory": "dynatrain, in place",
    "c10d-ceiling": "raw messages alone",
    "copy-ceiling": "plain copies alone",
}
OURS, OTHERS, BOUNDS = "#0072B2", "#E69F00", "#B8B8B8"


def main() -> None:
    """Reads the rows, and draws them."""
    *files, picture = map(Path, sys.argv[1:])
    pairs: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for file in files:
        for row in json.loads(file.read_text()):
            of_pair = pairs.setdefault((row["source"], row["target"]), {})
            of_pair.setdefault(row["contender"], row)
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            1, len(pairs), figsize=(3.2 * len(pairs) + 1.2, 3), sharey=True, layout="constrained"
        )
        named = [name for name in LABELS if any(name in rows for rows in pairs.values())]
        for one, (pair, rows) in zip(axes, pairs.items(), strict=True):
            draw(one, pair, [(name, rows.get(name)) for name in named])
        axes[0].invert_yaxis()  # of all, which share it
        figure.supxlabel(
            "seconds until the slowest rank has its state, on a logarithmic scale; "
            "marks: the fastest run"
        )
        figure.savefig(picture, dpi=120)


def draw(axes: Axes, pair: tuple[str, str], rows: list[tuple[str, dict[str, Any] | None]]) -> None:
    """One pair."""
    axes.set_title(f"{pair[0]} → {pair[1]}")
    axes.set_xscale("log")
    axes.set_xlim(0.03, 60)
    axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.set_yticks(range(len(rows)), [LABELS[name] for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    for at, (name, row) in enumerate(rows):
        if row is None:
            continue
        median, least = row["seconds_median"], row["seconds_min"]
        kind = OURS if "dynatrain" in name else BOUNDS if "ceiling" in name else OTHERS
        axes.barh(at, median - 0.03, left=0.03, color=kind, height=0.66)
        axes.plot([least, least], [at - 0.33, at + 0.33], color="white", linewidth=1.2)
        axes.text(median * 1.12, at, f"{median:.2g}", va="center")


if __name__ == "__main__":
    main()
