"""Layouts for a number of ranks by an estimate of a step's time, and what it costs to go there.

The estimate is a roofline: operations over what kernels usually reach of the data sheet, bytes of
collectives over the links' full rates. It says which layouts are worth a try, not how fast they
are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from dynatrain._errors import LayoutError
from dynatrain.door import wrong_argument
from dynatrain.given import whole
from dynatrain.layout import Layout, as_layout
from dynatrain.planning.maps import describe
from dynatrain.planning.plan import checked_world, plan
from dynatrain.planning.tensors import ITEMSIZE, Model, checked_model
from dynatrain.planning.topologies import Topology
from dynatrain.report import SCHEMA_VERSION
from dynatrain.switch.room import RETAIN, STREAM

#: Of the data sheet's operations, what large matrices reach.
_EFFICIENCY = 0.5
#: Bytes of an element while it is computed with, and sent between ranks.
_COMPUTED = 2
#: Bytes of activations a token, layer and element of the hidden size, with attention recomputed.
_ACTIVATION = 34
#: Of device memory, what is left to state and activations.
_USABLE = 0.9
_MOST_PP, _MOST_CP, _LEAST_TOKENS_A_CP_RANK = 64, 16, 4096
_MOST_SEQUENCES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        sequences: of all ranks together.
        sequence_length: tokens of each.
        micro: sequences that go through a rank at once.
    """

    sequences: int
    sequence_length: int = 4096
    micro: int = 1

    def __post_init__(self) -> None:
        for name in ("sequences", "sequence_length", "micro"):
            found = whole(getattr(self, name))
            if found is None or not 1 <= found <= _MOST_SEQUENCES:
                expected = f"a whole number from 1 to {_MOST_SEQUENCES}"
                raise wrong_argument("Batch", name, getattr(self, name), expected)
            self.__dict__[name] = found


@dataclass
class RankedLayout:
    """A layout, and what a step in it takes at best.

    Attributes:
        layout: its text form.
        step_seconds: of a step, all below together: the larger of compute and dp, then tp and ep.
        compute_seconds: operations, and what pipeline ranks wait for.
        dp_seconds: gathering parameters, and reducing gradients, beside the computation.
        tp_seconds: what tensor parallelism reduces.
        ep_seconds: what goes to experts and back.
        memory_bytes: of the rank that holds most: state, gradients and activations.
        state_bytes: of that, parameters and what the optimizer keeps.
        fits: whether that is within the memory of the topology's devices.
        switch_seconds: what the way there takes, in virtual time; None where nothing was asked, or
            no way has room.
        switch_mode: of it, ``retain`` or ``stream``; empty likewise.
        through: layouts in between, where there is room for no direct way.
    """

    layout: str
    step_seconds: float
    compute_seconds: float
    dp_seconds: float
    tp_seconds: float
    ep_seconds: float
    memory_bytes: int
    state_bytes: int
    fits: bool
    switch_seconds: float | None = None
    switch_mode: str = ""
    through: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def rank_layouts(  # noqa: PLR0913 - what is trained, on what, and from where
    model: Model,
    topology: Topology,
    batch: Batch,
    num_ranks: int,
    current: Layout | str | None = None,
    most: int = 10,
) -> list[RankedLayout]:
    """Layouts that fit, the fastest first, by a roofline of the step; then others, by memory.

    Args:
        model: of ``load_model`` or ``model_of``.
        topology: links, and ``flops_per_second`` and ``device_memory_bytes`` of its devices.
        batch: of one step.
        num_ranks: of every layout.
        current: the layout that is trained in now: the way from it to each one is planned.
        most: so many are returned.

    Raises:
        LayoutError: an argument is none of its kind, the topology says nothing of its devices, or
            no layout has so many ranks.
    """
    model = checked_model("rank_layouts", model)
    _check(topology, batch)
    ranks, number = whole(num_ranks), whole(most)
    if ranks is None or ranks < 1:
        raise wrong_argument("rank_layouts", "num_ranks", num_ranks, "a whole number above 0")
    if number is None or number < 1:
        raise wrong_argument("rank_layouts", "most", most, "a whole number above 0")
    start = None if current is None else checked_world(as_layout(current))
    estimate = _Estimate(model, topology, batch)
    found = [estimate.of(layout) for layout in _layouts(model, topology, batch, ranks)]
    if not found:
        raise LayoutError(
            f"plan: no layout of this model and batch has {ranks} ranks\n"
            "  expected sizes whose product it is, with no more data parallel ranks than "
            f"sequences ({batch.sequences})\n"
            "  nothing was planned\n  give another number of ranks, or more sequences"
        )
    found.sort(key=lambda row: (row.fits, -row.memory_bytes), reverse=True)
    found.sort(key=lambda row: (not row.fits, row.step_seconds if row.fits else 0.0))
    shown = found[:number]
    if start is not None:
        ways = _Ways(model, topology, [row.layout for row in found if row.fits])
        for row in shown:
            ways.fill(start, row)
    return shown


def _check(topology: Topology, batch: Batch) -> None:
    if type(topology) is not Topology:
        raise wrong_argument("rank_layouts", "topology", topology, "a dynatrain.Topology")
    if type(batch) is not Batch:
        raise wrong_argument("rank_layouts", "batch", batch, "a dynatrain.planning.Batch")
    for name in ("flops_per_second", "device_memory_bytes"):
        if getattr(topology, name) is None:
            expected = f"one with {name}, as dgx-h100 has it"
            raise wrong_argument("rank_layouts", "topology", topology, expected)


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]


def _layouts(model: Model, links: Topology, batch: Batch, num_ranks: int) -> Iterator[Layout]:
    """Layouts of so many ranks.

    Tensor parallelism within a node, as many stages as there are layers, FSDP over all of the rest
    or within nodes, or replicas.
    """
    per_node = links.ranks_per_node or num_ranks
    cut = [spec.shape[spec.tp_dim] for spec in model.tensors if spec.tp_dim is not None]
    experts = max((spec.shape[0] for spec in model.tensors if spec.has_experts), default=1)
    for tp in _divisors(num_ranks, per_node):
        if any(size % tp for size in cut):
            continue
        for pp in _divisors(num_ranks // tp, min(_MOST_PP, model.num_layers)):
            rest = num_ranks // tp // pp
            for cp in _divisors(rest, _MOST_CP):
                if cp > 1 and batch.sequence_length // cp < _LEAST_TOKENS_A_CP_RANK:
                    continue
                dp = rest // cp
                if dp * batch.micro > batch.sequences or batch.sequences % (dp * batch.micro):
                    continue
                shards = {1, dp, max(1, per_node // (tp * cp))}
                for dp_shard in (size for size in sorted(shards) if dp % size == 0):
                    for ep in _divisors(experts, dp_shard * cp * tp):
                        sizes = {"dp_replicate": dp // dp_shard, "dp_shard": dp_shard}
                        sizes |= {"cp": cp, "tp": tp, "pp": pp, "ep": ep}
                        with suppress(LayoutError):  # experts that cannot be spread so
                            yield Layout.parse(",".join(f"{k}={v}" for k, v in sizes.items()))


class _Estimate:
    """What a step of one model takes at best, by layout."""

    def __init__(self, model: Model, links: Topology, batch: Batch) -> None:
        self._model, self._links, self._batch = model, links, batch
        self._per_node = links.ranks_per_node
        self._near = links.node_link_bytes_per_second or links.link_bytes_per_second
        sizes = {spec.fqn: prod(spec.shape) for spec in model.tensors}
        experts = [spec for spec in model.tensors if spec.has_experts]
        self._expert_params = sum(sizes[spec.fqn] for spec in experts)
        self._dense_params = sum(sizes.values()) - self._expert_params
        self._num_experts = max((spec.shape[0] for spec in experts), default=1)
        self._routed = min(max(model.experts_per_token, 1), self._num_experts) if experts else 0
        widths = Counter(spec.shape[-1] for spec in model.tensors if len(spec.shape) > 1)
        self._hidden = widths.most_common(1)[0][0] if widths else 1
        self._gradient = ITEMSIZE[model.slots[0].dtype or model.tensors[0].dtype]

    def of(self, layout: Layout) -> RankedLayout:
        """The row of a layout."""
        batch, model = self._batch, self._model
        dp = layout.dp_replicate * layout.dp_shard
        passes = batch.sequences // (dp * batch.micro)
        tokens = batch.sequences * batch.sequence_length // (dp * layout.cp)
        compute = self._operations(tokens) / (layout.tp * layout.pp)
        waits = 1 + (layout.pp - 1) / (layout.vpp * passes)
        flops = _EFFICIENCY * (self._links.flops_per_second or 1.0)
        of_layers = tokens * _COMPUTED * self._hidden * model.num_layers / layout.pp
        tp_bytes = 8 * (layout.tp - 1) / layout.tp * of_layers
        ep_bytes = 4 * self._routed * (layout.ep - 1) / layout.ep * of_layers / layout.tp
        row = RankedLayout(
            str(layout),
            0.0,
            compute_seconds=waits * compute / flops,
            dp_seconds=self._dp_seconds(layout),
            tp_seconds=tp_bytes / self._speed(layout.tp),
            ep_seconds=ep_bytes / self._speed(layout.ep * layout.etp),
            memory_bytes=0,
            state_bytes=self._state_bytes(layout),
            fits=True,
        )
        row.step_seconds = max(row.compute_seconds, row.dp_seconds)
        row.step_seconds += row.tp_seconds + row.ep_seconds
        in_flight = min(layout.pp, passes) * batch.micro * batch.sequence_length
        activations = _ACTIVATION * in_flight * self._hidden * model.num_layers
        activations //= layout.pp * layout.tp * layout.cp
        gradients = row.state_bytes * self._gradient // self._bytes_a_param()
        row.memory_bytes = row.state_bytes + gradients + activations
        row.fits = row.memory_bytes <= _USABLE * (self._links.device_memory_bytes or 0)
        return row

    def _operations(self, tokens: int) -> float:
        """Of forward and backward, attention to half of the tokens before included."""
        active = self._dense_params + self._expert_params * self._routed / self._num_experts
        attention = self._model.num_layers * self._hidden * self._batch.sequence_length
        return 6.0 * tokens * (active + attention)

    def _dp_seconds(self, layout: Layout) -> float:
        """Parameters are gathered twice and gradients reduced once; replicas reduce their parts."""
        params = self._dense_params + self._expert_params / layout.ep
        held = _COMPUTED * params / (layout.tp * layout.pp)
        shards = layout.dp_shard * layout.cp
        gathered = 3 * (shards - 1) / shards * held / self._speed(shards * layout.tp)
        copies = layout.dp_replicate
        summed = 2 * (copies - 1) / copies * held / shards
        return gathered + summed / self._speed(shards * copies * layout.tp)

    def _speed(self, extent: int) -> float:
        """Of a collective over ranks that lie within so many."""
        is_near = self._per_node is None or extent <= self._per_node
        return self._near if is_near else self._links.link_bytes_per_second

    def _state_bytes(self, layout: Layout) -> int:
        found = describe(layout, self._model.tensors, self._model.slots)
        stages = {layout.native.stage_mesh(pp_rank)[1][0] for pp_rank in range(layout.pp)}
        return max(found.bytes_of_rank(rank) for rank in stages)

    def _bytes_a_param(self) -> int:
        first = self._model.tensors[0]
        return sum(ITEMSIZE[slot.dtype or first.dtype] for slot in self._model.slots)


class _Ways:
    """How to get from one layout to another one within the memory of a device."""

    def __init__(self, model: Model, links: Topology, fitting: list[str]) -> None:
        self._model, self._links = model, links
        self._between = fitting[:3]  # each is planned twice for every layout that lacks a way
        self._most = links.device_memory_bytes or 0

    def fill(self, start: Layout, row: RankedLayout) -> None:
        """Notes the quickest way to a layout that there is room for."""
        direct = self._way(str(start), row.layout)
        if direct is not None:
            row.switch_seconds, row.switch_mode = direct
            return
        for between in self._between:
            first = self._way(str(start), between)
            second = None if first is None else self._way(between, row.layout)
            if first is None or second is None:
                continue
            seconds = first[0] + second[0]
            if row.switch_seconds is None or seconds < row.switch_seconds:
                modes = {first[1], second[1]}
                row.switch_seconds, row.through = seconds, (between,)
                row.switch_mode = STREAM if STREAM in modes else RETAIN

    def _way(self, source: str, target: str) -> tuple[float, str] | None:
        for mode in (RETAIN, STREAM):
            report = plan(source, target, self._model, self._links, mode=mode)
            if report.fullest_rank.peak_bytes <= self._most:
                return report.predicted_seconds, mode
        return None
