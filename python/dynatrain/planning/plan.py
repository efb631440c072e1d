"""Plans the switch of a described model, of all ranks, and says what bounds it."""

from __future__ import annotations

from collections.abc import Sequence

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.door import checked_count, wrong_argument
from dynatrain.given import text
from dynatrain.layout import Layout, as_layout
from dynatrain.planning.passes import Maps, Pass, maps_of, relabelled
from dynatrain.planning.report import Bottleneck, Egress, PlanReport, RankPlan
from dynatrain.planning.runs import Runs, run_in_virtual_time
from dynatrain.planning.tensors import Model, TensorSpec, checked_model
from dynatrain.planning.topologies import Topology
from dynatrain.switch.room import RETAIN, STREAM

#: Every rank is planned against every other one: this many take about an hour.
_MAX_RANKS = 1 << 14
_MAX_BYTES = 1 << 60


def plan(  # noqa: PLR0913 - what moves where, and how, all but three with defaults
    source: Layout | str,
    target: Layout | str,
    tensors: Sequence[TensorSpec] | Model,
    topology: Topology | None = None,
    staging_budget_bytes: int = 256 << 20,
    *,
    disjoint: bool = False,
    relabel: bool = False,
    mode: str = RETAIN,
) -> PlanReport:
    """Plans the switch of a described model from ``source`` to ``target``.

    Args:
        source: the layout before, or its text.
        target: the layout after, or its text.
        tensors: a model of ``dynatrain.planning.load_model``, or its parameters: these count three
            times, with the two moments that AdamW keeps of each, of its dtype. Buffers and
            whatever else travels are not counted.
        topology: the links; by default all ranks are on one node.
        staging_budget_bytes: of each rank.
        disjoint: the ranks of the target are others than those of the source, behind them: rank 0
            of a target of ``dp=4`` is rank 4.
        relabel: ranks take those places of the target that leave least to be moved, as in a session
            of ``init(..., relabel=True)``.
        mode: ``retain``, or ``stream``: the source is freed while the target arrives. Each tensor
            is taken to lie in memory of its own.

    Returns:
        Traffic of every rank, stages, the least time that the links allow, and the time that the
        schedules take in virtual time.

    Raises:
        LayoutError: a layout does not fit the model or the topology or has too many ranks to be
            planned, or an argument is none of its kind.
        BudgetError: a stage cannot be cut as small as the budget asks, or there are too many.
    """
    budget_bytes = checked_count("plan", "staging_budget_bytes", staging_budget_bytes)
    if budget_bytes > _MAX_BYTES:
        expected = f"a whole number, {_MAX_BYTES} at most"
        raise wrong_argument("plan", "staging_budget_bytes", budget_bytes, expected)
    for name, flag in (("disjoint", disjoint), ("relabel", relabel)):
        if type(flag) is not bool:
            raise wrong_argument("plan", name, flag, "True or False")
    if text(mode) not in (RETAIN, STREAM):
        raise wrong_argument("plan", "mode", mode, f"{RETAIN!r} or {STREAM!r}")
    source, target = checked_world(source), checked_world(target)
    model = checked_model("plan", tensors)
    if topology is not None and type(topology) is not Topology:
        raise wrong_argument("plan", "topology", topology, "a dynatrain.Topology, or None")
    links = topology or Topology()
    maps = maps_of(source, target, model, links, disjoint)
    saving, saved_bytes = (maps, 0) if disjoint else relabelled(maps, target, model)
    maps = saving if relabel else maps
    passes = maps.passes() if mode == RETAIN else [maps.in_one_pass()]
    runs = run_in_virtual_time(maps, passes, links, budget_bytes, mode)
    ranks = [_of_rank(maps, passes, rank, runs) for rank in range(maps.num_ranks)]
    adopted = [found.adoptable_bytes for found in passes[0].plans]
    report = PlanReport(
        str(source),
        str(target),
        runs.num_stages,
        max(rank.bound_seconds for rank in ranks),
        ranks,
        model.name,
        model.num_params,
        _egress(maps, ranks),
        _bottleneck(ranks, adopted, links),
        mode=mode,
        is_disjoint=disjoint,
        is_relabelled=relabel and not disjoint,
        relabel_saved_bytes=saved_bytes,
        handed_on_bytes=sum(found.received_bytes for each in passes[1:] for found in each.plans),
    )
    report.timeline = runs.timeline(report.last_rank.rank)
    report.memory = runs.memory(report.fullest_rank.rank)
    return report


def checked_world(layout: Layout | str) -> Layout:
    """A layout of not too many ranks to be planned on paper; raises LayoutError."""
    found = as_layout(layout)
    if found.world_size > _MAX_RANKS:
        raise LayoutError(
            f"plan: {found} has {found.world_size} ranks\n"
            f"  expected at most {_MAX_RANKS}: each of them is planned against all others\n"
            "  nothing was planned\n"
            "  plan fewer ranks, for example with a smaller dp"
        )
    return found


def _of_rank(maps: Maps, passes: Sequence[Pass], rank: int, runs: Runs) -> RankPlan:
    plans, links = [each.plans[rank] for each in passes], runs.links
    by_link = [found.by_link(maps.nodes) for found in plans]
    return RankPlan(
        rank=rank,
        sent_bytes=sum(found.sent_bytes for found in plans),
        received_bytes=sum(found.received_bytes for found in plans),
        kept_bytes=plans[0].kept_bytes,
        lower_bound_bytes=sum(found.lower_bound_bytes for found in plans),
        staging_bytes=runs.staging_bytes[rank],
        num_moves=sum(found.num_moves for found in plans),
        sent_far_bytes=sum(sent for _, _, sent, _ in by_link),
        received_far_bytes=sum(received for _, _, _, received in by_link),
        source_bytes=maps.source.bytes_of_rank(rank),
        target_bytes=maps.target.bytes_of_rank(rank),
        peak_bytes=runs.peak_bytes[rank] + runs.staging_bytes[rank],
        bound_seconds=sum(
            _native.time_bound_seconds(found, maps.nodes, links.native) for found in plans
        ),
        predicted_seconds=runs.ends[rank],
    )


def _egress(maps: Maps, ranks: Sequence[RankPlan]) -> Egress:
    others = _native.world_traffic(maps.source, maps.target)
    bound_bytes, bound_ranks = others.least_egress()
    return Egress(
        max(rank.sent_bytes for rank in ranks),
        bound_bytes,
        bound_ranks,
        max(others.modulo),
        max(others.first_owner),
        max(others.least_loaded),
    )


def _bottleneck(
    ranks: Sequence[RankPlan], adopted_bytes: Sequence[int], links: Topology
) -> Bottleneck | None:
    far = links.link_bytes_per_second
    near = links.node_link_bytes_per_second or far
    busiest = []
    for rank, adopted in zip(ranks, adopted_bytes, strict=True):
        sides = {
            ("network", "send"): (rank.sent_far_bytes, far),
            ("network", "receive"): (rank.received_far_bytes, far),
            ("node", "send"): (rank.sent_bytes - rank.sent_far_bytes, near),
            ("node", "receive"): (rank.received_bytes - rank.received_far_bytes, near),
            ("memory", ""): (rank.kept_bytes - adopted, links.memory_bytes_per_second),
        }
        for (link, direction), (size_bytes, speed) in sides.items():
            seconds = size_bytes / speed
            busiest.append(Bottleneck(rank.rank, link, direction, size_bytes, seconds))
    found = max(busiest, key=lambda each: each.seconds)
    return found if found.size_bytes else None
