"""Plans a switch on paper: no process group, no GPU, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from dynatrain import _native
from dynatrain._errors import BudgetError, LayoutError
from dynatrain.door import checked_count, looking, wrong_argument
from dynatrain.given import number, text, whole
from dynatrain.layout import Layout, as_layout
from dynatrain.report import SCHEMA_VERSION

ADAMW_SLOTS = ("param", "exp_avg", "exp_avg_sq")
_ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
#: Every rank is planned against every other one: this many take about an hour.
_MAX_RANKS = 1 << 14
_MAX_STAGES = 1 << 20
_MAX_BYTES = 1 << 60


@dataclass(frozen=True)
class TensorSpec:
    """One parameter of a model that is described, not built.

    Attributes:
        fqn: its name.
        shape: its global shape.
        tp_dim: the dimension that tensor parallelism cuts, None when it replicates.
        layers: layers of the model that hold it; several when it is tied. Layer 0 stands for what
            comes before it, the last one for what comes after.
        dtype: torch's name of its element type.
    """

    fqn: str
    shape: tuple[int, ...]
    tp_dim: int | None = None
    layers: tuple[int, ...] = (0,)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        shape, layers = _wholes(self.shape), _wholes(self.layers)
        tp_dim = None if self.tp_dim is None else whole(self.tp_dim)
        fqn, dtype = text(self.fqn), text(self.dtype)
        if not fqn:
            raise wrong_argument("TensorSpec", "fqn", self.fqn, "the name of a parameter")
        if shape is None or any(size < 0 for size in shape):
            raise wrong_argument("TensorSpec", "shape", self.shape, "sizes, none negative")
        if not layers or any(layer < 0 for layer in layers):
            raise wrong_argument(
                "TensorSpec", "layers", self.layers, "numbers of layers, one or more"
            )
        if self.tp_dim is not None and (tp_dim is None or not 0 <= tp_dim < len(shape)):
            expected = f"None or a dimension of {list(shape)}"
            raise wrong_argument("TensorSpec", "tp_dim", self.tp_dim, expected)
        if dtype not in _ITEMSIZE:
            raise wrong_argument("TensorSpec", "dtype", self.dtype, f"one of {sorted(_ITEMSIZE)}")
        if prod(size or 1 for size in shape) * _ITEMSIZE[dtype] > _MAX_BYTES:
            expected = f"a tensor of at most {_MAX_BYTES} bytes"
            raise wrong_argument("TensorSpec", "shape", self.shape, expected)
        plain = {"fqn": fqn, "shape": shape, "tp_dim": tp_dim, "layers": layers, "dtype": dtype}
        self.__dict__.update(plain)  # of Python's own classes from here on


def _wholes(values: object) -> tuple[int, ...] | None:
    """The whole numbers in ``values``; None where it holds anything else, or is no sequence."""
    try:
        found = [whole(value) for value in values]  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - an object of the caller's
        return None
    return None if None in found else tuple(value for value in found if value is not None)


@dataclass(frozen=True)
class Topology:
    """Link speeds for the time bound.

    Attributes:
        link_bytes_per_second: of one rank's link, each direction.
        stage_latency_seconds: of one stage.
        memory_bytes_per_second: for kept bytes that change address.
        ranks_per_node: senders on the needer's node are preferred; None for one node.
    """

    link_bytes_per_second: float = 25e9
    stage_latency_seconds: float = 20e-6
    memory_bytes_per_second: float = 1e12
    ranks_per_node: int | None = None

    def __post_init__(self) -> None:
        for name in ("link_bytes_per_second", "stage_latency_seconds", "memory_bytes_per_second"):
            found = number(getattr(self, name))
            may_be_zero = name == "stage_latency_seconds"
            if found is None or not (found > 0 or (may_be_zero and found == 0)):  # a NaN neither
                expected = "a number, 0 or more" if may_be_zero else "a number above 0"
                raise wrong_argument("Topology", name, getattr(self, name), expected)
            self.__dict__[name] = float(found)
        nodes = None if self.ranks_per_node is None else whole(self.ranks_per_node)
        if self.ranks_per_node is not None and (nodes is None or nodes < 1):
            expected = "None, or a whole number, 1 or more"
            raise wrong_argument("Topology", "ranks_per_node", self.ranks_per_node, expected)
        self.__dict__["ranks_per_node"] = nodes


@dataclass
class RankPlan:
    """What a planned switch is to one rank.

    Attributes:
        rank: its number, of the larger world.
        sent_bytes: bytes that other ranks get from it.
        received_bytes: bytes that it gets from other ranks.
        kept_bytes: bytes that it has already and needs in the target.
        lower_bound_bytes: bytes that it needs and lacks; no switch moves fewer to it.
        staging_bytes: staging memory that it takes at most.
        num_moves: its sends, receives and local moves together.
    """

    rank: int
    sent_bytes: int
    received_bytes: int
    kept_bytes: int
    lower_bound_bytes: int
    staging_bytes: int
    num_moves: int


@dataclass
class PlanReport:
    """What a switch would move, and the least time it could take.

    Attributes:
        source: text form of the layout before.
        target: text form of the layout after.
        num_stages: stages that the staging budget asks for.
        bound_seconds: the least time of the busiest rank.
        ranks: one RankPlan for each rank of the larger world.
    """

    source: str
    target: str
    num_stages: int
    bound_seconds: float
    ranks: list[RankPlan] = field(default_factory=list)

    @property
    def bytes_moved(self) -> int:
        """Bytes that would cross between ranks."""
        return sum(rank.received_bytes for rank in self.ranks)

    @property
    def lower_bound_bytes(self) -> int:
        """Bytes that any switch between these layouts must move."""
        return sum(rank.lower_bound_bytes for rank in self.ranks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "bytes_moved": self.bytes_moved,
            "lower_bound_bytes": self.lower_bound_bytes,
        }


def llama_tensors(
    num_layers: int, hidden: int, ffn: int, vocab: int, kv_hidden: int | None = None
) -> list[TensorSpec]:
    """The parameters of a Llama-like model with an untied head, in float32.

    Raises:
        LayoutError: a size is none that a model can have.
    """
    kv = hidden if kv_hidden is None else kv_hidden
    sizes = {"num_layers": num_layers, "hidden": hidden, "ffn": ffn, "vocab": vocab}
    for name, size in {**sizes, "kv_hidden": kv}.items():
        if (whole(size) or 0) < 1:
            raise wrong_argument("llama_tensors", name, size, "a whole number, 1 or more")
    last = num_layers - 1
    specs = [
        TensorSpec("tok_embeddings.weight", (vocab, hidden), 0, (0,)),
        TensorSpec("norm.weight", (hidden,), None, (last,)),
        TensorSpec("output.weight", (vocab, hidden), 0, (last,)),
    ]
    for layer in range(num_layers):
        block = (
            ("attention.wq.weight", (hidden, hidden), 0),
            ("attention.wk.weight", (kv, hidden), 0),
            ("attention.wv.weight", (kv, hidden), 0),
            ("attention.wo.weight", (hidden, hidden), 1),
            ("feed_forward.w1.weight", (ffn, hidden), 0),
            ("feed_forward.w2.weight", (hidden, ffn), 1),
            ("feed_forward.w3.weight", (ffn, hidden), 0),
            ("attention_norm.weight", (hidden,), None),
            ("ffn_norm.weight", (hidden,), None),
        )
        specs += [
            TensorSpec(f"layers.{layer}.{name}", shape, tp_dim, (layer,))
            for name, shape, tp_dim in block
        ]
    return specs


def describe(
    layout: Layout | str,
    tensors: Sequence[TensorSpec],
    slots: Sequence[str] = ADAMW_SLOTS,
) -> _native.ShardMap:
    """The shard map of a described model: FSDP2 on dimension 0 inside TP, stages by layer.

    Args:
        layout: where the model would live.
        tensors: its parameters.
        slots: what each parameter brings: itself and its optimizer state, all of its dtype.

    Raises:
        LayoutError: there are fewer layers than stages.
    """
    target = as_layout(layout)
    num_layers = 1 + max(layer for spec in tensors for layer in spec.layers)
    ranks_of: dict[int, list[int]] = {}
    for rank in range(target.world_size):
        ranks_of.setdefault(target.coordinate(rank, "pp"), []).append(rank)
    publications = []
    for pp_rank, ranks in sorted(ranks_of.items()):
        layers = {layer for part in target.layers(pp_rank, num_layers) for layer in part}
        stage = [spec for spec in tensors if layers.intersection(spec.layers)]
        publications.append((_stage_table(target, ranks, stage, slots).encode(), ranks))
    return _native.ShardMap.merge(publications)


def _stage_table(
    layout: Layout, ranks: list[int], stage: Sequence[TensorSpec], slots: Sequence[str]
) -> _native.StateTable:
    table = _native.StateTable()
    axes = [axis for axis in layout.order if axis != "pp"]
    mesh = table.add_mesh([layout.size(axis) for axis in axes], ranks)
    for spec in stage:
        placements = [_placement(layout, axis, spec) for axis in axes]
        for slot in slots:
            name, itemsize = f"{spec.fqn}|{slot}", _ITEMSIZE[spec.dtype]
            # No memory stands behind a described tensor: address 0, and no local extents.
            table.add_sharded(
                name, list(spec.shape), spec.dtype, itemsize, mesh, placements, 0, [], []
            )
    return table


def _placement(layout: Layout, axis: str, spec: TensorSpec) -> tuple[int, int]:
    if axis == "tp" and spec.tp_dim is not None:
        return (spec.tp_dim, 1)
    if axis in ("dp_shard", "cp"):
        return (0, layout.tp if spec.tp_dim == 0 else 1)
    return (-1, 1)


def _checked_tensors(tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    expected = "one dynatrain.TensorSpec or more"
    with looking("plan", "tensors", tensors, expected):
        listed = list(tensors)
    if not listed or not all(type(spec) is TensorSpec for spec in listed):
        raise wrong_argument("plan", "tensors", tensors, expected)
    return listed


def _checked_world(layout: Layout | str) -> Layout:
    found = as_layout(layout)
    if found.world_size > _MAX_RANKS:
        raise LayoutError(
            f"plan: {found} has {found.world_size} ranks\n"
            f"  expected at most {_MAX_RANKS}: each of them is planned against all others\n"
            "  nothing was planned\n"
            "  plan fewer ranks, for example with a smaller dp"
        )
    return found


def _num_stages(plans: Sequence[_native.Plan], options: _native.ScheduleOptions) -> int:
    stages = max(_native.num_stages_wanted(item, options) for item in plans)
    if stages > _MAX_STAGES:
        raise BudgetError(
            f"plan: {stages} stages are needed under a staging budget of "
            f"{options.staging_budget_bytes} bytes\n"
            f"  expected at most {_MAX_STAGES}\n"
            "  nothing was planned\n  raise the staging budget, or plan a smaller model"
        )
    return stages


def plan(
    source: Layout | str,
    target: Layout | str,
    tensors: Sequence[TensorSpec],
    topology: Topology | None = None,
    staging_budget_bytes: int = 256 << 20,
) -> PlanReport:
    """Plans the switch of a described model from ``source`` to ``target``.

    Every tensor counts three times: the parameter, and the two moments that AdamW keeps of it, of
    its dtype. Buffers and whatever else travels are not counted.

    Returns:
        Traffic of every rank, stages, and the least time that the links allow.

    Raises:
        LayoutError: a layout does not fit the model or has too many ranks to be planned, or an
            argument is none of its kind.
        BudgetError: a stage cannot be cut as small as the budget asks, or there are too many.
    """
    budget_bytes = checked_count("plan", "staging_budget_bytes", staging_budget_bytes)
    if budget_bytes > _MAX_BYTES:
        expected = f"a whole number, {_MAX_BYTES} at most"
        raise wrong_argument("plan", "staging_budget_bytes", budget_bytes, expected)
    source, target = _checked_world(source), _checked_world(target)
    tensors = _checked_tensors(tensors)
    if topology is not None and type(topology) is not Topology:
        raise wrong_argument("plan", "topology", topology, "a dynatrain.Topology, or None")
    links = topology or Topology()
    before, after = describe(source, tensors), describe(target, tensors)
    num_ranks = max(before.num_ranks, after.num_ranks)
    nodes = (
        [rank // links.ranks_per_node for rank in range(num_ranks)] if links.ranks_per_node else []
    )
    plans = [_native.make_plan(before, after, rank, nodes) for rank in range(num_ranks)]
    options = _native.ScheduleOptions(staging_budget_bytes=budget_bytes)
    stages = _num_stages(plans, options)
    ranks = []
    for item in plans:
        schedule = _native.make_schedule(item, before, after, stages, options)
        ranks.append(_of_rank(item, schedule.staging_peak_bytes))
    bound = max(_bound_seconds(item, stages, links) for item in plans)
    return PlanReport(str(source), str(target), stages, bound, ranks)


def _of_rank(found: _native.Plan, staging_bytes: int) -> RankPlan:
    return RankPlan(
        found.rank,
        found.sent_bytes,
        found.received_bytes,
        found.kept_bytes,
        found.lower_bound_bytes,
        staging_bytes,
        found.num_moves,
    )


def _bound_seconds(found: _native.Plan, num_stages: int, links: Topology) -> float:
    return _native.time_bound_seconds(
        found,
        num_stages,
        links.link_bytes_per_second,
        links.stage_latency_seconds,
        links.memory_bytes_per_second,
    )
