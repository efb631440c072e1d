"""A plan on one page of HTML that needs nothing beside it: what goes where, and what bounds it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dynatrain._errors import LayoutError
from dynatrain.amounts import bytes_text, seconds_text, unit_of
from dynatrain.layout import Layout
from dynatrain.planning.passes import Pass, maps_of, relabelled
from dynatrain.planning.report import PlanReport
from dynatrain.planning.tensors import Model
from dynatrain.planning.topologies import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SENT, _RECEIVED, _THIRD, _QUIET = "#0072B2", "#D55E00", "#009E73", "#B8B8B8"
#: Of the picture of traffic, in either direction.
_MOST_POINTS, _MOST_LINES = 256, 16
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ report.source }} → {{ report.target }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.2rem; }
p { margin: 0.3rem 0; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: 0.15rem 1.2rem 0.15rem 0; text-align: left; font-weight: normal; }
th { color: #666; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>{{ report.source }} → {{ report.target }}</h1>
<p>{{ summary }}</p>
<table>
{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
{% for title, words, image in pictures %}<h2>{{ title }}</h2>
<p>{{ words }}</p>
<img alt="{{ title }}" src="data:image/png;base64,{{ image }}">
{% endfor %}</body>
</html>
"""


def page(report: PlanReport, model: Model, links: Topology) -> str:
    """The page of a plan, as text.

    Args:
        report: what was planned.
        model: of what.
        links: over which.

    Raises:
        LayoutError: matplotlib is not there to draw it.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401 - is it there
    except ImportError as error:
        raise LayoutError(
            f"plan: a page cannot be drawn: {error}\n"
            "  expected jinja2, which torch brings, and matplotlib\n"
            "  the plan was made; no page was written\n"
            "  pip install matplotlib, or print the plan"
        ) from error
    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_PAGE).render(
        report=report,
        summary=_summary(report),
        facts=_facts(report),
        pictures=_pictures(report, model, links),
    )


def _summary(report: PlanReport) -> str:
    name = report.model or "a model"
    return f"{name}, {report.num_params / 1e9:,.2f} B parameters, {len(report.ranks):,} ranks"


def _facts(report: PlanReport) -> list[tuple[str, str]]:
    facts = [
        (
            "moved",
            f"{bytes_text(report.bytes_moved)}, the least possible: "
            f"{bytes_text(report.lower_bound_bytes)}",
        ),
        ("between nodes", bytes_text(report.bytes_moved_far)),
        ("kept", bytes_text(report.bytes_kept)),
        *_handed_on(report),
        *_relabelled(report),
        ("stop, at least", f"{seconds_text(report.bound_seconds)} in {report.num_stages:,} stages"),
        (
            "stop, predicted",
            f"{seconds_text(report.predicted_seconds)}, when rank {report.last_rank.rank} ends",
        ),
    ]
    if report.bottleneck is not None:
        found = report.bottleneck
        where = {"network": "between nodes", "node": "within its node", "memory": "in its memory"}
        verb = {"send": "sends", "receive": "receives", "": "copies"}[found.direction]
        size = bytes_text(found.size_bytes)
        facts.append(("bottleneck", f"rank {found.rank} {verb} {size} {where[found.link]}"))
    if report.egress is not None:
        egress = report.egress
        facts.append(
            (
                "busiest sender",
                f"{bytes_text(egress.planned_bytes)}; no choice among owners is below "
                f"{bytes_text(egress.bound_bytes)} where links are alike",
            )
        )
        facts.append(
            (
                "by other rules",
                f"modulo {bytes_text(egress.modulo_bytes)}, first owner "
                f"{bytes_text(egress.first_owner_bytes)}, least loaded "
                f"{bytes_text(egress.least_loaded_bytes)}",
            )
        )
    return facts


def _handed_on(report: PlanReport) -> list[tuple[str, str]]:
    if not report.handed_on_bytes:
        return []
    return [("handed on", f"{bytes_text(report.handed_on_bytes)}, in a second pass")]


def _relabelled(report: PlanReport) -> list[tuple[str, str]]:
    if not report.relabel_saved_bytes:
        return []
    saved = bytes_text(report.relabel_saved_bytes)
    return [("relabelling", f"saves {saved}" if report.is_relabelled else f"would save {saved}")]


def _pictures(report: PlanReport, model: Model, links: Topology) -> list[tuple[str, str, str]]:
    source, target = Layout.parse(report.source), Layout.parse(report.target)
    maps = maps_of(source, target, model, links, report.is_disjoint)
    if report.is_relabelled:
        maps, _ = relabelled(maps, target, model)
    passes = maps.passes()
    per_node = links.ranks_per_node
    has_lines = per_node is not None and len(report.ranks) <= _MOST_LINES * per_node
    nodes = f" Lines part nodes of {per_node} ranks." if has_lines else ""
    if (width := _ranks_a_point(len(report.ranks))) > 1:
        nodes += f" A point is {width} ranks by {width}."
    return [
        (
            "Who sends to whom",
            f"Bytes from each rank to each other one, on a logarithmic scale.{nodes}",
            _drawn(
                lambda axes: _draw_traffic(axes, passes, per_node if has_lines else None), (8.5, 7)
            ),
        ),
        (
            "Loads of the links",
            "What each rank sends and receives; hollow: the part that crosses between nodes.",
            _drawn(lambda axes: _draw_links(axes, report)),
        ),
        (
            "Memory",
            "State before and after, and the most that a rank holds while its source is retained.",
            _drawn(lambda axes: _draw_memory(axes, report)),
        ),
        (
            "Stages",
            f"What rank {report.last_rank.rank}, which ends last, does in virtual time, in two "
            "stages at a time: every other one above.",
            _drawn(lambda axes: _draw_timeline(axes, report), (8.5, 2)),
        ),
        (
            "Where each layer goes",
            "The pipeline rank that holds a layer, before and after.",
            _drawn(lambda axes: _draw_layers(axes, (source, target), model.num_layers)),
        ),
    ]


def _drawn(draw: Callable[[Axes], None], size: tuple[float, float] = (8.5, 3)) -> str:
    """A picture, as it is written into a page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _draw_traffic(axes: Axes, passes: Sequence[Pass], per_node: int | None) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    plans = [plan for each in passes for plan in each.plans]
    num_ranks = len(passes[0].plans)
    width = _ranks_a_point(num_ranks)
    num_points = -(-num_ranks // width)
    matrix = np.zeros((num_points, num_points))
    for plan in plans:
        for dst, _, size_bytes, _ in plan.sends():
            matrix[plan.rank // width, dst // width] += size_bytes
    matrix[matrix == 0] = np.nan
    axes.set_xlabel("receives")
    axes.set_ylabel("sends")
    if np.isnan(matrix).all():
        axes.text(0.5, 0.5, "nothing crosses", ha="center", transform=axes.transAxes)
        return
    edges = (-0.5, num_points * width - 0.5)
    image = axes.imshow(
        matrix,
        norm=LogNorm(),
        cmap="viridis_r",
        interpolation="nearest",
        extent=(*edges, *edges[::-1]),
    )
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label="bytes")
    if per_node is not None:
        for edge in range(per_node, num_ranks, per_node):
            axes.axhline(edge - 0.5, color="#888888", linewidth=0.4)
            axes.axvline(edge - 0.5, color="#888888", linewidth=0.4)


def _ranks_a_point(num_ranks: int) -> int:
    """Ranks that a point of the picture stands for: all are seen, also of many."""
    return -(-num_ranks // _MOST_POINTS)


def _draw_links(axes: Axes, report: PlanReport) -> None:
    name, unit = unit_of(max(max(r.sent_bytes, r.received_bytes) for r in report.ranks))
    ranks = [rank.rank for rank in report.ranks]
    for label, color, all_of, far in (
        ("sent", _SENT, "sent_bytes", "sent_far_bytes"),
        ("received", _RECEIVED, "received_bytes", "received_far_bytes"),
    ):
        axes.plot(
            ranks,
            [getattr(r, all_of) / unit for r in report.ranks],
            ".",
            ms=4,
            color=color,
            label=label,
        )
        if report.bytes_moved_far:
            axes.plot(
                ranks,
                [getattr(r, far) / unit for r in report.ranks],
                ".",
                ms=6,
                markerfacecolor="none",
                color=color,
                alpha=0.5,
                label=f"{label}, far",
            )
    _label(axes, "rank", name)


def _draw_memory(axes: Axes, report: PlanReport) -> None:
    name, unit = unit_of(max(rank.peak_bytes for rank in report.ranks))
    ranks = [rank.rank for rank in report.ranks]
    for label, color, attribute in (
        ("before", _SENT, "source_bytes"),
        ("after", _RECEIVED, "target_bytes"),
        ("peak", _THIRD, "peak_bytes"),
    ):
        values = [getattr(rank, attribute) / unit for rank in report.ranks]
        axes.step(ranks, values, where="mid", color=color, label=label, linewidth=1.2)
    _label(axes, "rank", name)


def _draw_timeline(axes: Axes, report: PlanReport) -> None:
    lanes = (("unpack", _THIRD), ("wire", _RECEIVED), ("pack", _SENT))
    for at, (what, color) in enumerate(lanes):
        for slot, low in ((0, at + 0.02), (1, at - 0.36)):
            spans = [
                (begin, getattr(stage, f"{what}_end") - begin)
                for stage in report.timeline[slot::2]
                for begin in [getattr(stage, f"{what}_begin")]
            ]
            axes.broken_barh(spans, (low, 0.34), color=color, edgecolor=color, linewidth=0.4)
    axes.set_yticks(range(len(lanes)), [what for what, _ in lanes])
    axes.set_xlim(0, max(report.predicted_seconds, 1e-9))
    axes.set_xlabel("seconds")


def _draw_layers(axes: Axes, layouts: tuple[Layout, Layout], num_layers: int) -> None:
    for layout, color, label, shift in zip(
        layouts, (_SENT, _RECEIVED), ("before", "after"), (-0.12, 0.12), strict=True
    ):
        for pp_rank in range(layout.pp):
            for part in layout.layers(pp_rank, num_layers):
                axes.plot(
                    [part.start - 0.4, part.stop - 0.6],
                    [pp_rank + shift] * 2,
                    color=color,
                    linewidth=4,
                    solid_capstyle="butt",
                    label=label if part.start == 0 else None,
                )
    axes.invert_yaxis()
    _label(axes, "layer", "pipeline rank")


def _label(axes: Axes, below: str, beside: str) -> None:
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    if beside != "pipeline rank":
        axes.set_ylim(0)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
