"""What a plan on paper says, of each rank and of all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dynatrain.report import SCHEMA_VERSION


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
        sent_far_bytes: the part of ``sent_bytes`` that goes to other nodes.
        received_far_bytes: the part of ``received_bytes`` that comes from other nodes.
        source_bytes: its state before.
        target_bytes: its state after.
        peak_bytes: the most that it holds: staging, and both states, but for what is adopted as it
            is; of a switch that streams, what stands side by side of them.
        bound_seconds: the least time that its links and its memory allow.
        predicted_seconds: when it has ended, in a run of the schedules in virtual time.
    """

    rank: int
    sent_bytes: int
    received_bytes: int
    kept_bytes: int
    lower_bound_bytes: int
    staging_bytes: int
    num_moves: int
    sent_far_bytes: int = 0
    received_far_bytes: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    peak_bytes: int = 0
    bound_seconds: float = 0.0
    predicted_seconds: float = 0.0


@dataclass
class StagePrediction:
    """When a rank does what in one stage, in virtual time; seconds since the switch began.

    Attributes:
        pack_begin, pack_end: it packs what it sends, and copies what it keeps.
        wire_begin, wire_end: from the first of its messages to the last.
        unpack_begin, unpack_end: it unpacks what it was sent.
    """

    pack_begin: float
    pack_end: float
    wire_begin: float
    wire_end: float
    unpack_begin: float
    unpack_end: float


@dataclass
class MemoryPoint:
    """What a rank holds from a moment on.

    Attributes:
        seconds: in virtual time, since the switch began.
        held_bytes: of source, target and staging.
    """

    seconds: float
    held_bytes: int


@dataclass
class Egress:
    """How even the senders are: bytes of the busiest one.

    The bound and the other rules take all links as alike.

    Attributes:
        planned_bytes: as this library chooses senders, those on the needer's node first.
        bound_bytes: no choice of senders has a busiest one with fewer, where links are alike and
            owners alone send; what is handed on by its receivers may go below it.
        bound_ranks: the proof: what these alone own is as much for each of them.
        modulo_bytes: had the n-th rank that lacks a box been served by its owner n modulo owners.
        first_owner_bytes: had the lowest owner of each box served all.
        least_loaded_bytes: had each box been sent by the owner with the fewest bytes until then.
    """

    planned_bytes: int
    bound_bytes: int
    bound_ranks: list[int]
    modulo_bytes: int
    first_owner_bytes: int
    least_loaded_bytes: int


@dataclass
class Bottleneck:
    """The link that bounds a switch.

    Attributes:
        rank: whose it is.
        link: ``node`` within a node, ``network`` between nodes, ``memory`` for what is kept and
            changes its address.
        direction: ``send`` or ``receive``; empty of memory.
        size_bytes: what goes through it.
        seconds: how long that takes at least.
    """

    rank: int
    link: str
    direction: str
    size_bytes: int
    seconds: float


@dataclass
class PlanReport:
    """What a switch would move, and the least time it could take.

    Attributes:
        source: text form of the layout before.
        target: text form of the layout after.
        num_stages: stages that the staging budget asks for, of both passes where it is handed on.
        bound_seconds: the least time of the busiest rank.
        ranks: one RankPlan for each rank of the larger world, or of both where they are disjoint.
        model: what the model is called; empty for one that was given by its tensors.
        num_params: elements of its parameters.
        egress: how even the senders are, beside what other rules would do.
        bottleneck: the busiest link; None where nothing moves.
        timeline: the stages of the rank that ends last, in virtual time.
        mode: ``retain``, or ``stream`` where the source is freed while the target arrives.
        memory: of the rank that holds most, over time.
        is_disjoint: whether the target's ranks are numbered behind the source's.
        handed_on_bytes: the part of what moves that receivers hand on in a second pass; 0 where
            there is one pass.
        is_relabelled: whether ranks take those places of the target that leave least to be moved.
        relabel_saved_bytes: what that saves, or would, of what moves in natural order.
    """

    source: str
    target: str
    num_stages: int
    bound_seconds: float
    ranks: list[RankPlan] = field(default_factory=list)
    model: str = ""
    num_params: int = 0
    egress: Egress | None = None
    bottleneck: Bottleneck | None = None
    timeline: list[StagePrediction] = field(default_factory=list)
    mode: str = "retain"
    memory: list[MemoryPoint] = field(default_factory=list)
    is_disjoint: bool = False
    handed_on_bytes: int = 0
    is_relabelled: bool = False
    relabel_saved_bytes: int = 0

    @property
    def last_rank(self) -> RankPlan:
        """The rank that ends last, in virtual time; the lowest of them."""
        return max(self.ranks, key=lambda rank: (rank.predicted_seconds, -rank.rank))

    @property
    def fullest_rank(self) -> RankPlan:
        """The rank that holds most; the lowest of them."""
        return max(self.ranks, key=lambda rank: (rank.peak_bytes, -rank.rank))

    @property
    def predicted_seconds(self) -> float:
        """What a prepared switch takes, in virtual time."""
        return self.last_rank.predicted_seconds

    @property
    def bytes_moved(self) -> int:
        """Bytes that would cross between ranks."""
        return sum(rank.received_bytes for rank in self.ranks)

    @property
    def bytes_moved_far(self) -> int:
        """The part of them that would cross between nodes."""
        return sum(rank.received_far_bytes for rank in self.ranks)

    @property
    def bytes_kept(self) -> int:
        """Bytes that ranks have already and need in the target."""
        return sum(rank.kept_bytes for rank in self.ranks)

    @property
    def lower_bound_bytes(self) -> int:
        """Bytes that any switch between these layouts must move."""
        return sum(rank.lower_bound_bytes for rank in self.ranks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "predicted_seconds": self.predicted_seconds,
            "bytes_moved": self.bytes_moved,
            "bytes_moved_far": self.bytes_moved_far,
            "bytes_kept": self.bytes_kept,
            "lower_bound_bytes": self.lower_bound_bytes,
        }
