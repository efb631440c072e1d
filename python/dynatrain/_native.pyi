"""The C++ core, as Python sees it. Internal: use the package's own names where they exist.

Heavy calls release the GIL. Errors are the classes of ``dynatrain._errors``; where that module
cannot be imported (the package needs torch, this module does not) they are ``RuntimeError``. Boxes
are two lists, ``begin`` and ``end``, with one entry per dimension; ranges are half open. Addresses
are plain integers (``Tensor.data_ptr()``); whoever passes one keeps the memory alive.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any

__version__: str

def set_log_sink(sink: Callable[[int, str, str], None] | None, least_level: int = 0) -> None:
    """Sends every log line to ``sink(level, room, text)``; None means silence (the default).

    Levels are those of ``logging``; a line below ``least_level`` waits for nothing. Called from any
    thread, one call at a time; what it raises is reported and dropped.
    """

def hash64(data: bytes) -> int:
    """A 64-bit digest, equal on every machine and build."""

def trim_heap() -> None:
    """Gives the system what the C library's heap keeps of freed memory; some milliseconds."""

def probe_c10d() -> dict[str, bool]:
    """What this torch offers of the things that ``C10dTransport`` stands on, by dotted name."""

class Store:
    """Words between ranks that have no transport yet."""

class TorchStore(Store):
    """A torch Store; give it a prefix that nobody else uses."""

    def __init__(self, store: object) -> None: ...
    def set(self, key: str, value: bytes) -> None:
        """Lets all ranks get ``value``. Raises TransportError when the store is gone."""

    def get(self, key: str, timeout_s: float) -> bytes:
        """Waits until ``key`` is set. Raises TransportError at the deadline."""

def NcclTransport(  # noqa: N802 - named for what it returns
    rank: int,
    size: int,
    store: Store,
    device: int,
    timeout_s: float,
    register_staging: bool = ...,
) -> Transport:
    """Messages between GPUs over a communicator of its own. Collective over the ``size`` ranks.

    ``store`` was never used before. ``register_staging``, the same on all ranks: staging that NCCL
    reads and writes without a copy of its own. Raises TransportError when a rank
    does not come, DeviceError when NCCL or CUDA refuse; nothing is left behind.
    """

class PeerMemoryReport:
    """What ranks found when they tried to read each other's memory; equal on all."""

    @property
    def problem(self) -> str:
        """Why there is no one-sided part; empty when there is one."""

    @property
    def handle_problem(self) -> str:
        """Why memory of ``cudaMalloc`` cannot be read; empty when it can."""

    @property
    def file_problem(self) -> str:
        """The same for what is handed over as files: expandable segments, and host memory."""

class PeerMemoryConnection:
    """A transport over ``messages`` where ranks of a machine read each other's memory in place."""

    @property
    def transport(self) -> Transport:
        """Forwards all messages; ``is_one_sided`` unless the report has a problem."""

    @property
    def report(self) -> PeerMemoryReport: ...

def connect_cuda_ipc(
    messages: Transport, store: Store, ranks: Sequence[int], device: int, timeout_s: float
) -> PeerMemoryConnection:
    """For memory of devices. Collective over ``ranks``, those of this machine in ascending order.

    ``store`` is theirs alone, and was never used before. Raises TransportError when a rank does not
    come; nothing is left behind.
    """

def connect_shared_memory(
    messages: Transport, store: Store, ranks: Sequence[int], timeout_s: float
) -> PeerMemoryConnection:
    """For host memory that lies in a :class:`SharedBlock`; else as :func:`connect_cuda_ipc`."""

class SharedBlock:
    """Zeroed host memory that other processes of the machine can map, as a buffer of bytes.

    Its pages are there. Raises MemoryError, and DeviceError where there are no more files.
    """

    def __init__(self, size_bytes: int) -> None: ...
    @property
    def size_bytes(self) -> int: ...
    @staticmethod
    def holds(address: int) -> bool:
        """Whether an address lies in a block of this process."""

def cuda_ipc_problem() -> str:
    """Why this process alone cannot share device memory; empty when it may. No device is asked."""

class NcclReport:
    """What this process can do with NCCL."""

    @property
    def problem(self) -> str:
        """Why there is no NCCL transport; empty when there is one. No device is looked at."""

    @property
    def version(self) -> str:
        """Of the library; empty when there is none."""

    @property
    def newer_calls(self) -> list[str]:
        """Calls newer than NCCL 2.27 that the library has."""

    @property
    def registration_problem(self) -> str:
        """Why staging cannot be registered with a communicator; empty when it can."""

def nccl_report() -> NcclReport:
    """Looks for NCCL: the library that is loaded, else by name. Never raises."""

def local_intervals(
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[tuple[int, int]],
) -> list[list[tuple[int, int]]]:
    """For each tensor dimension, the ranges of global indices that a mesh coordinate holds.

    A placement is ``(dim, split_factor)``; dim -1 is Replicate, a split factor above 1 is torch's
    ``_StridedShard``. An entry is empty when the coordinate holds nothing of that dimension.
    """

class Layout:
    """The sizes of all parallel axes, the order of the ranks and the layers of each stage."""

    def __init__(
        self,
        *,
        dp_shard: int = 1,
        dp_replicate: int = 1,
        cp: int = 1,
        tp: int = 1,
        pp: int = 1,
        ep: int = 1,
        etp: int = 1,
        vpp: int = 1,
        stages: Sequence[int] = (),
        order: Sequence[str] = ("pp", "dp_replicate", "dp_shard", "cp", "tp"),
    ) -> None:
        """Raises LayoutError naming the axis when the sizes do not fit together."""

    @staticmethod
    def parse(text: str) -> Layout:
        """Reads the text form, ``"dp=2,tp=2"``; raises LayoutError naming the word at fault."""

    @property
    def dp_shard(self) -> int: ...
    @property
    def dp_replicate(self) -> int: ...
    @property
    def cp(self) -> int: ...
    @property
    def tp(self) -> int: ...
    @property
    def pp(self) -> int: ...
    @property
    def ep(self) -> int: ...
    @property
    def etp(self) -> int: ...
    @property
    def vpp(self) -> int: ...
    @property
    def stages(self) -> list[int]:
        """Layers of each virtual stage as they were given; empty means even."""

    @property
    def order(self) -> list[str]:
        """Mesh axes from the slowest to the fastest varying rank."""

    @property
    def world_size(self) -> int: ...
    @property
    def efsdp_size(self) -> int:
        """What remains of dp_shard * cp * tp after ep * etp."""

    def size(self, axis: str) -> int:
        """The size of an axis; ``"dp"`` means ``"dp_shard"``."""

    def coordinate(self, rank: int, axis: str) -> int:
        """The coordinate of a rank along a mesh axis."""

    def group(self, rank: int, axes: Sequence[str]) -> list[int]:
        """The ranks that differ from ``rank`` only along ``axes``, ascending, itself included."""

    def expert_coordinate(self, rank: int) -> tuple[int, int, int]:
        """``(efsdp, ep, etp)`` of a rank."""

    def stage_mesh(self, pp_rank: int) -> tuple[list[int], list[int]]:
        """Sizes and ranks of a pipeline rank's mesh: the axes of ``order`` without pp."""

    def expert_mesh(self, pp_rank: int) -> tuple[list[int], list[int]]:
        """The same ranks over (dp_replicate, efsdp, ep, etp)."""

    def layers(self, pp_rank: int, num_layers: int) -> list[tuple[int, int]]:
        """The layer ranges of the virtual stages of ``pp_rank``, in model order."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class StateTable:
    """One rank's live tensors: descriptors to publish, and addresses to keep."""

    def __init__(self) -> None: ...
    def add_mesh(self, shape: Sequence[int], ranks: Sequence[int]) -> int:
        """Adds a row-major mesh of global ranks and returns its index."""

    def add_sharded(
        self,
        name: str,
        shape: Sequence[int],
        dtype_name: str,
        itemsize: int,
        mesh_index: int,
        placements: Sequence[tuple[int, int]],
        data_ptr: int,
        local_shape: Sequence[int],
        local_strides: Sequence[int],
    ) -> None:
        """Adds a tensor that a mesh shares by placements (see local_intervals).

        Raises LayoutError when the name is there already or the mesh index is not.
        """

    def add_whole(
        self,
        name: str,
        shape: Sequence[int],
        dtype_name: str,
        itemsize: int,
        data_ptr: int,
        local_strides: Sequence[int],
    ) -> None:
        """Adds a tensor that this rank holds whole, dense or strided."""

    def add_fragments(
        self,
        name: str,
        shape: Sequence[int],
        dtype_name: str,
        itemsize: int,
        fragments: Sequence[tuple[Sequence[int], Sequence[int], int, Sequence[int]]],
        data_ptr: int,
        nbytes: int,
    ) -> None:
        """Adds a buffer that holds boxes of a tensor: ``(begin, end, offset_elems, strides)``."""

    def with_names(self, names: Sequence[tuple[str, str]]) -> StateTable:
        """The same with further names: each is told with the name of the tensor it stands for.

        Raises LayoutError when the table lacks a tensor, or has a new name already.
        """

    def only(self, names: Set[str]) -> StateTable:
        """Some of the tensors; names that the table lacks are passed over."""

    def encode_as(self, ranks: Sequence[int]) -> bytes:
        """The bytes to publish where the rank r of a mesh is ``ranks[r]`` of those that hear it."""

    def encode(self) -> bytes:
        """What to publish; equal on ranks that hold the same, as it has no address in it."""

    def hash(self) -> int:
        """A digest of what is published."""

    def signature(self) -> int:
        """A digest of what is published and of all addresses."""

    def names(self) -> list[str]:
        """The tensors in the order in which they were added."""

    def data_ptrs(self) -> dict[str, int]:
        """The address of every tensor; for tests."""

    def __len__(self) -> int: ...

class HostRun:
    """Host memory whose pages are there, as a buffer of bytes. Raises MemoryError."""

    def __init__(self, size_bytes: int) -> None: ...
    @property
    def size_bytes(self) -> int: ...
    def sum(self, begin: int, end: int) -> int:
        """The sum of the bytes ``[begin, end)``, which depends on their order.

        Raises LayoutError where these are no multiples of 8 inside of the run.
        """

def available_address_bytes() -> int:
    """What this process may still map where its address space is limited (``ulimit -v``)."""

def available_host_bytes() -> int:
    """What processes of this host, and the control group around this one, can still take."""

class PackedState:
    """The live tensors of a table as one run of bytes. The tensors outlive every copy."""

    def __init__(self, table: StateTable, rank: int) -> None:
        """``rank`` is this rank in the meshes of the table.

        Raises LayoutError for a shard that is not dense, and for elements that cannot be aligned.
        """

    @property
    def size_bytes(self) -> int: ...
    def blob(self) -> bytes:
        """What the run holds, for packed_table()."""

    def copy(
        self,
        copier: Copier,
        run: HostRun,
        after: Sequence[Token],
        timeout_s: float,
        begin_bytes: int = 0,
    ) -> None:
        """Copies all tensors to ``run``, from ``begin_bytes`` on, once ``after`` are done; waits.

        Raises LayoutError where the run is too short, TransportError at the deadline.
        """

def packed_boxes(
    blob: bytes,
) -> list[tuple[str, list[int], str, int, list[tuple[list[int], list[int], int]]]]:
    """What a run holds, by tensor: ``(name, shape, dtype name, bytes per element, pieces)``.

    A piece is ``(begin, end, offset_bytes)``, dense in the run. Raises LayoutError where the blob
    cannot be read.
    """

def packed_table(
    shares: Sequence[tuple[bytes, int]],
    run: HostRun,
    on_device: int = ...,
    on_host: Collection[str] = ...,
) -> StateTable:
    """What lies in a run that has the states of several ranks: each blob, and where it begins.

    Args:
        shares: what several of them hold is told of the first one alone.
        run: not owned.
        on_device: address of a copy of it on the device, 0 for none.
        on_host: names of tensors that are told where they lie in ``run`` all the same.

    Raises LayoutError where a blob cannot be read, or two disagree about a tensor.
    """

class ShardMap:
    """Which rank holds which box of each logical tensor. Immutable."""

    @staticmethod
    def merge(
        publications: Sequence[tuple[bytes, Sequence[int]]], num_present: int = ...
    ) -> ShardMap:
        """Joins what all ranks published: ``StateTable.encode()`` and the ranks that said it.

        Ranks of meshes from ``num_present`` on have gone, and own nothing.

        Raises LayoutError when two ranks disagree about a tensor.
        """

    @property
    def num_tensors(self) -> int: ...
    def bytes_of_rank(self, rank: int) -> int:
        """Bytes of all that the rank holds."""

    @property
    def num_ranks(self) -> int:
        """One past the largest rank that takes part."""

    def hash(self) -> int:
        """Equal on all ranks that hold the same map."""

    def names(self) -> list[str]:
        """All tensors, sorted; a tensor's place in the list is its id."""

    def info(self, name: str) -> tuple[list[int], str, int]:
        """``(shape, dtype name, bytes per element)``; raises LayoutError for an unknown name."""

    def fragments(self, name: str, rank: int) -> list[tuple[list[int], list[int]]]:
        """The boxes ``(begin, end)`` that a rank holds, sorted."""

    def owners(self, name: str) -> list[tuple[list[int], list[int], list[int]]]:
        """All distinct boxes with their owners, ``(begin, end, ranks)``, sorted."""

    def prove_live(self, rank: int, table: StateTable) -> None:
        """Raises LayoutError unless the map's answer for a rank equals its live tensors."""

    def axes_without_cut(self, layout: Layout, ranks: Sequence[int]) -> list[str]:
        """Of dp_shard, pp and tp, those that cut no tensor.

        ``ranks`` are those of the map by rank of the layout.
        """

    def prove_coverage(self) -> None:
        """Raises LayoutError naming a box that nobody holds."""

    def holes(self) -> list[tuple[str, list[tuple[list[int], list[int]]]]]:
        """The boxes that nobody holds, by tensor; disjoint, and none where all is held."""

class Plan:
    """All moves of one rank for one switch."""

    @property
    def rank(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def kept_bytes(self) -> int:
        """Bytes that the rank needs and already holds."""

    @property
    def lower_bound_bytes(self) -> int:
        """Bytes that the rank needs and lacks; computed apart from the moves."""

    @property
    def adoptable_bytes(self) -> int:
        """The part of ``kept_bytes`` whose memory the target may take over as it is."""

    @property
    def num_moves(self) -> int:
        """Sends, receives and local moves together."""

    def part_of(self, names: Sequence[str]) -> Plan:
        """The moves of the named tensors alone; the names are equal on all ranks."""

    def adoptable(self) -> list[str]:
        """Tensors whose source memory may serve as target memory as it is."""

    def sends(self) -> list[tuple[int, int, int, int]]:
        """Per peer ``(peer, number of moves, bytes, hash of the list)``."""

    def receives(self) -> list[tuple[int, int, int, int]]:
        """As ``sends()``."""

    def by_link(self, node_of_rank: Sequence[int] = ()) -> tuple[int, int, int, int]:
        """Bytes sent and received within a node, then sent and received between nodes."""

    def moves(self) -> list[tuple[str, list[int], list[int], int, int]]:
        """``(name, begin, end, src rank, dst rank)`` of all sends, receives and local moves."""

def check_same_tensors(source: ShardMap, target: ShardMap) -> None:
    """Raises LayoutError listing missing, extra and differing tensors."""

def make_plan(
    source: ShardMap, target: ShardMap, rank: int, node_of_rank: Sequence[int] = ()
) -> Plan:
    """Derives the moves of ``rank``, without communication.

    Raises LayoutError when the maps' tensors differ or a needed box has no owner.
    """

def check_plans(source: ShardMap, target: ShardMap, plans: Sequence[Plan]) -> list[str]:
    """Checks the plans of all ranks together; one line per violation, empty when complete."""

class FanOut:
    """A switch in two passes: slices of what many ranks lack, which they hand on."""

    @property
    def scattered(self) -> ShardMap:
        """What each rank has behind the first pass, where the target has it."""

    @property
    def given(self) -> ShardMap:
        """What of it is handed on."""

    @property
    def wanted(self) -> ShardMap:
        """What ranks shall have of the target behind the second pass."""

    def hand_on_plan(self, rank: int, node_of_rank: Sequence[int]) -> Plan:
        """The second pass of a rank; its source is the target's memory."""

def fan_out(
    source: ShardMap,
    target: ShardMap,
    node_of_rank: Sequence[int],
    by_node: bool,
    least_slice_bytes: int,
) -> FanOut | None:
    """How a switch is handed on; None where owners are enough, or parts are small.

    With ``by_node`` the ranks of each node share a box apart, else all that lack it.
    """

def way_of_least_load(ranks: Sequence[Sequence[Sequence[int]]]) -> int:
    """The way to switch whose passes take least, by bytes of each rank, way and pass.

    Way 0 is left only for one that carries clearly less.
    """

class Relabelling:
    """Who takes which place of a target, and what that leaves to be moved."""

    @property
    def ranks(self) -> list[int]:
        """By place: the rank that takes it; the last ones take none."""

    @property
    def moved_bytes(self) -> int:
        """What ranks need and lack."""

    @property
    def moved_far_bytes(self) -> int:
        """The part of it that no rank of their node has."""

    @property
    def natural_moved_bytes(self) -> int:
        """As ``moved_bytes``, had nothing been relabelled."""

    @property
    def natural_moved_far_bytes(self) -> int: ...

def relabel(
    source: ShardMap, target: ShardMap, node_of_rank: Sequence[int], ranks: Sequence[int]
) -> Relabelling:
    """Gives each place to a rank that has much of what belongs there, never worse than naturally.

    ``ranks[p]`` is at place ``p`` naturally, and in ``target``. What is on one node stays together.
    """

class Topology:
    """Link speeds of one rank, each direction; between nodes, and within one.

    The cores of a host may bound what its ranks send and copy together; 0 where they do not.
    """

    def __init__(
        self,
        link_bytes_per_second: float = ...,
        node_link_bytes_per_second: float = ...,
        stage_latency_seconds: float = ...,
        memory_bytes_per_second: float = ...,
        host_bytes_per_second: float = ...,
        host_memory_bytes_per_second: float = ...,
        pack_cost: float = ...,
    ) -> None: ...

def time_bound_seconds(plan: Plan, node_of_rank: Sequence[int], topology: Topology) -> float:
    """The least time that a plan can take over such links."""

class WorldTraffic:
    """Bytes that each rank of the source would send by simpler rules than ``make_plan``'s."""

    @property
    def first_owner(self) -> list[int]: ...
    @property
    def modulo(self) -> list[int]: ...
    @property
    def least_loaded(self) -> list[int]: ...
    def least_egress(self) -> tuple[int, list[int]]:
        """As the function of that name, of this switch."""

def world_traffic(source: ShardMap, target: ShardMap) -> WorldTraffic:
    """Walks the cells of all ranks."""

def least_egress(demands: Sequence[tuple[Sequence[int], int]]) -> tuple[int, list[int]]:
    """What the busiest sender sends at least, and the ranks that prove it.

    A demand is its owners, ascending, and the bytes that any of them may send.
    """

def cells_of(
    source: ShardMap, target: ShardMap, name: str
) -> list[tuple[list[int], list[int], list[int], list[int]]]:
    """``(begin, end, owners, needers)`` of the cells of a tensor, by begin."""

class ScheduleOptions:
    """What bounds the cutting of a plan into stages; equal on all ranks."""

    def __init__(
        self,
        staging_budget_bytes: int = ...,
        direct_threshold_bytes: int = ...,
        max_direct_per_pair: int = ...,
        num_stages_to_overlap: int = ...,
        min_message_bytes: int = ...,
        with_sums: bool = ...,
    ) -> None: ...
    @property
    def staging_budget_bytes(self) -> int: ...
    @property
    def direct_threshold_bytes(self) -> int: ...
    @property
    def max_direct_per_pair(self) -> int: ...
    @property
    def num_stages_to_overlap(self) -> int: ...
    @property
    def min_message_bytes(self) -> int: ...
    @property
    def with_sums(self) -> bool: ...

class Schedule:
    """The stages of one rank."""

    @property
    def rank(self) -> int: ...
    @property
    def num_stages(self) -> int: ...
    @property
    def slot_bytes(self) -> int: ...
    @property
    def staging_peak_bytes(self) -> int: ...
    def summary(self) -> dict[str, int]:
        """Totals over all stages: messages and bytes each way, direct messages, local parts."""

class VirtualRun:
    """The schedules of all ranks of a switch, run in virtual time."""

    def __init__(
        self, node_of_rank: Sequence[int], topology: Topology, begin_of_rank: Sequence[float] = ()
    ) -> None:
        """``begin_of_rank``: seconds at which each rank begins; all at 0 where it is empty."""

    def add(self, plan: Plan, schedule: Schedule, map: ShardMap) -> None:
        """Adds the rank of ``schedule``; ``map`` is the source's or the target's."""

    def end_of_rank(self) -> list[float]:
        """Seconds until each rank has ended."""

    def times_of(self, rank: int) -> list[list[float]]:
        """By stage: begin and end of packing, of the wire, and of unpacking."""

def num_stages_wanted(plan: Plan, options: ScheduleOptions) -> int:
    """Stages that this rank asks for; the switch uses the maximum over all ranks."""

def make_schedule(
    plan: Plan, source: ShardMap, target: ShardMap, num_stages: int, options: ScheduleOptions
) -> Schedule:
    """Cuts a plan into stages; raises BudgetError when a stage would exceed the budget."""

class Token:
    """The completion of submitted messages."""

    def done(self) -> bool:
        """True once they have ended, well or badly."""

    def wait(self, timeout_s: float) -> None:
        """Blocks until they have ended; raises TransportError if they failed or are late."""

class Transport:
    """Moves messages between ranks. A message is ``(peer, tag, address, bytes)``.

    The memory belongs to the transport until the token is done. A tag is used once per direction
    and pair while a transport lives.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def submit_sends(
        self,
        messages: Sequence[tuple[int, int, int, int]],
        timeout_s: float,
        after: Sequence[Token] = (),
    ) -> Token:
        """Posts all messages at once, after ``after``; never waits for a peer."""

    def submit_receives(
        self,
        messages: Sequence[tuple[int, int, int, int]],
        timeout_s: float,
        after: Sequence[Token] = (),
    ) -> Token:
        """As ``submit_sends``."""

    @property
    def is_one_sided(self) -> bool:
        """Whether receivers can read where the data lies, without messages."""

    def abort(self, reason: str) -> None:
        """Ends every pending and later operation with a TransportError that says ``reason``."""

class C10dTransport(Transport):
    """Messages over a torch process group that moves host memory, such as Gloo's."""

    def __init__(self, group: object, rank: int, size: int, timeout_s: float) -> None:
        """Takes a ``ProcessGroup`` or the name of one, used by nothing else.

        ``timeout_s`` bounds every wait. Raises LayoutError when the group has another rank or size.
        """

class LoopbackWorld:
    """Ranks as threads of one process; for tests and for planning without a process group."""

    def __init__(
        self, size: int, rendezvous: bool = True, adversary_seed: int = 0, one_sided: bool = False
    ) -> None: ...
    def transport(self, rank: int) -> Transport:
        """The transport of one rank; ask once per rank."""

    def kill(self, rank: int) -> None:
        """Makes a rank fall silent as a killed process does."""

class Copier:
    """Moves boxes inside a rank."""

def CpuCopier(num_threads: int) -> Copier:  # noqa: N802 - named for what it returns
    """A copier on ``num_threads`` host threads."""

def CudaCopier(device: int) -> Copier:  # noqa: N802 - named for what it returns
    """A copier on a CUDA device; raises DeviceError when it cannot be used."""

def cuda_problem() -> str:
    """Why no CUDA device can be used here, in CUDA's words; empty when one can."""

def cuda_stream_token(device: int, stream: int) -> Token:
    """Ends when everything that is on a stream by now has (``torch.cuda.Stream.cuda_stream``)."""

class RunResult:
    """What a run did."""

    @property
    def seconds(self) -> float: ...
    @property
    def staging_peak_bytes(self) -> int: ...
    @property
    def spans(self) -> list[tuple[str, int, int, float, float, int]]:
        """``(phase, stage, stream, begin, end, bytes)``; seconds since the run began.

        The stream is that of the copier's device, counted from 0, or -1.
        """

class PreparedRun:
    """A run that ``Executor.prepare`` made; it keeps all it refers to, and runs once.

    Attributes:
        table_bytes: device memory, beside staging, in which its copies are laid out.
    """

    @property
    def table_bytes(self) -> int: ...

class NamedStorages:
    """The storages of one side of a rank, each a ``torch.UntypedStorage``.

    ``size_bytes`` are what they have when there is memory; ``of_tensor`` has the storage of each
    tensor, and where in it it begins, in bytes. ``gaps`` are the numbers of those of which some
    bytes are no tensor's: they are zeros when they are taken.
    """

    def __init__(
        self,
        storages: Sequence[Any],
        size_bytes: Sequence[int],
        of_tensor: Mapping[str, tuple[int, int]],
        gaps: Sequence[int],
    ) -> None: ...

class Watermark:
    """How far all ranks of a run that streams are."""

class StreamingRun:
    """What one run frees of its source and takes of its target, and when; used once.

    ``last_reads_of_all`` is from :func:`largest_last_reads`; ``kept`` are the numbers of source
    storages that are not freed.
    """

    def __init__(
        self,
        schedule: Schedule,
        maps: tuple[ShardMap, ShardMap],
        last_reads_of_all: bytes,
        storages: tuple[NamedStorages, NamedStorages],
        kept: Sequence[int],
        watermark: Watermark,
    ) -> None: ...
    @property
    def peak_bytes(self) -> int:
        """The most that source and target hold together."""

    @property
    def source_bytes(self) -> int:
        """What the source holds before the run."""

class RunControl:
    """How far a run is; any thread may ask."""

    def __init__(self) -> None: ...
    @property
    def landed_stages(self) -> int:
        """Of which what this rank receives has arrived, and is verified."""

    @property
    def freed_stages(self) -> int:
        """That all ranks have landed: what they read of the source is freed, or about to be."""

def held_by_stage(
    plan: Plan, schedule: Schedule, source: ShardMap, target: ShardMap, last_reads_of_all: bytes
) -> tuple[list[int], int]:
    """Of a run that streams: what the rank holds in each stage, and the most that it holds.

    Each tensor lies in a storage of its own; staging is not counted.
    """

def last_reads(schedule: Schedule, source: ShardMap) -> bytes:
    """The last stage in which this rank reads each tensor of its source, for all ranks."""

def largest_last_reads(encoded: Sequence[bytes]) -> bytes:
    """The last stage in which any rank reads each tensor, of what each has."""

def landed_parts(
    schedules_and_stages: Sequence[tuple[Schedule, int]],
    map: ShardMap,
    places: Mapping[str, tuple[int, int]],
) -> StateTable:
    """What the first stages of some schedules have brought to this rank's target, by boxes.

    ``places`` has the address of each tensor that has memory, and how many bytes are there.
    """

class Executor:
    """Runs schedules of one rank. One run at a time; it may be used again."""

    def __init__(self, transport: Transport, copier: Copier, first_tag: int = 0) -> None: ...
    def agree(self, plan: Plan, timeout_s: float) -> None:
        """Compares the hash of every pair's list with the peer; collective over the plan's peers.

        Raises TransportError naming the peer and both hashes; nothing was moved.
        """

    def map_sources(
        self, plan: Plan, source: ShardMap, source_table: StateTable, timeout_s: float
    ) -> tuple[Plan, Plan, str]:
        """Makes peers' sources readable in place for the next run to be prepared. Collective.

        Returns the moves that are read in place, all others, and why some of these are not read.
        Unless no rank has any of one kind, the first run takes the former, and a run with
        ``allow_one_sided=False`` the latter. Raises TransportError when a peer is gone or late.
        """

    def prepare(
        self,
        plan: Plan,
        schedule: Schedule,
        source: ShardMap,
        target: ShardMap,
        source_table: StateTable,
        target_table: StateTable,
        timeout_s: float,
        verify_sums: bool = True,
        allow_one_sided: bool = True,
        streaming: StreamingRun | None = None,
    ) -> PreparedRun:
        """Makes a run ahead: takes staging, turns parts into copies, binds them to their memory.

        The tables' memory must stay where it is until the run has ended, but for what ``streaming``
        takes and frees while it goes. Collective only where peers are read in place and
        ``map_sources`` was not called before.
        """

    def make_watermark(self) -> Watermark:
        """Tells and hears how far all ranks are, for one run that streams; in host memory."""

    def run(
        self,
        prepared: PreparedRun,
        timeout_s: float,
        after: Sequence[Token] = (),
        ranges: tuple[Callable[[str], None], Callable[[], None]] | None = None,
        control: RunControl | None = None,
    ) -> RunResult:
        """Moves everything; source memory is only read, unless the run streams. Collective.

        Nothing is read or written before the tokens in ``after`` are done. ``ranges`` are called at
        the begin and the end of every phase's submission, for profilers.

        Raises TransportError: target memory is undefined, source memory untouched, the transport of
        no further use.
        """

class HashMeans:
    """What hashing takes: threads, and a copier that fetches what lies on its device."""

    def __init__(
        self,
        num_threads: int = 1,
        copier: Copier | None = None,
        after: Sequence[Token] = (),
        timeout_s: float = 60.0,
    ) -> None: ...

def fingerprint_share(map: ShardMap, rank: int, table: StateTable, means: HashMeans = ...) -> int:
    """This rank's share of the state's fingerprint: add up over all ranks, modulo 2**64."""

def content_shares(
    map: ShardMap, rank: int, table: StateTable, names: Sequence[str], means: HashMeans = ...
) -> list[int]:
    """This rank's shares of a sum over each named tensor: add up over all ranks, modulo 2**64.

    Tensors of one shape with equal sums hold the same; their names do not count.
    """

def fragment_hashes(
    map: ShardMap,
    rank: int,
    table: StateTable,
    means: HashMeans = ...,
    names: Sequence[str] = ...,
) -> bytes:
    """The hashes of what a rank holds, to be exchanged and given to ``compare_replicas``.

    Of the tensors that are named, or of all where none is.
    """

def compare_replicas(map: ShardMap, hashes_of_rank: Sequence[bytes]) -> list[str]:
    """One line per box of which two ranks hold different bits; empty when replicas agree."""

class MembershipCoordinator:
    """Decides who trains with whom: a pure state machine, see ``membership/coordinator.hpp``.

    Every method but ``status`` takes the time in milliseconds, of any clock that never goes back,
    and returns what is to be done, in this order: ``("persist", record)``, ``("publish", attempt,
    description)`` and ``("send", member, message)``, the texts one line each. Not thread-safe.

    Args:
        layouts: text and number of ranks of each, from the one that is wanted most.
        timeout_ms: the one number that all deadlines follow from.
        records: of a ledger, in their order; what is in it is gone on from.
        now_ms: the time.

    Raises:
        LayoutError: layouts, deadlines or records do not fit, or a line is none of the protocol.
    """

    def __init__(
        self,
        layouts: Sequence[tuple[str, int]],
        timeout_ms: int,
        records: Sequence[str],
        now_ms: int,
    ) -> None: ...
    def heard(self, now_ms: int, line: str) -> list[tuple[Any, ...]]:
        """A member has said a message."""

    def resize(self, now_ms: int, layout: str) -> list[tuple[Any, ...]]:
        """The operator wishes for a layout; an empty one takes the wish back."""

    def drain(self, now_ms: int, member: int) -> list[tuple[Any, ...]]:
        """The operator wants a member out of the world."""

    def connection_closed(self, now_ms: int, member: int) -> list[tuple[Any, ...]]:
        """The connection of a member has ended."""

    def advises(self, now_ms: int, member: int) -> list[tuple[Any, ...]]:
        """The script of a member has a policy."""

    def advice(
        self, now_ms: int, number: int, layout: str, world_size: int, why: str
    ) -> list[tuple[Any, ...]]:
        """A policy has answered a question; ``why`` says what went wrong where it has not."""

    def tick(self, now_ms: int) -> list[tuple[Any, ...]]:
        """Time has passed."""

    def trace(self, is_on: bool) -> None:
        """Keeps the lines of a trace from now on, or no more; see ``membership/trace.hpp``."""

    def take_trace(self) -> str:
        """The lines since the last call, of whole events."""

    def replay(self, trace: str) -> tuple[int, str, str] | None:
        """Gives the events of a trace to this machine, which has to be as the traced one began.

        Returns the first line at which it does something else, what stands there, and what it did;
        None where it did the same. LayoutError names a line that cannot be read.
        """

    def status(self, now_ms: int) -> dict[str, Any]:
        """Who is there, in which world, and why the next change has not come yet."""

    def why_not(self, layout: str, epoch: int) -> str:
        """Why no switch to a layout, wished for in ``epoch``, follows; empty where it may."""

    def stands_because(self) -> str:
        """Why no change is under way; empty while one is, or is about to be chosen."""

class MembershipWorker:
    """One member's side of the protocol: a pure state machine, see ``membership/worker.hpp``.

    Every method takes the time in milliseconds and returns what is to be done, in this order:
    ``("tell", message)``, ``("train", epoch, version)``, ``("prepare", attempt)``, ``("switch",
    attempt, version)``, ``("discard", attempt)``, ``("install", attempt, epoch, version)``,
    ``("retire", attempt, version)``, ``("forget",)``, ``("stop", epoch, why)``, ``("stand", why,
    is_gone)``, ``("search",)`` and ``("end", reason, why)``. Not thread-safe.

    ``place``: what people call its host, and what tells machines apart.
    """

    def __init__(
        self,
        id: int,
        place: tuple[str, str],
        timeout_ms: int,
        now_ms: int,
        has_checkpoints: bool = False,
        settings: str = "",
    ) -> None: ...
    def trace(self, is_on: bool) -> None:
        """Keeps the lines of a trace from now on, or no more; see ``membership/trace.hpp``."""

    def take_trace(self) -> str:
        """The lines since the last call, of whole events."""

    def replay(self, trace: str) -> tuple[int, str, str] | None:
        """Gives the events of a trace to this machine, which has to be as the traced one began.

        Returns the first line at which it does something else, what stands there, and what it did;
        None where it did the same. LayoutError names a line that cannot be read.
        """

    @property
    def epoch(self) -> int: ...
    @property
    def version(self) -> int: ...
    def heard(self, now_ms: int, line: str) -> list[tuple[Any, ...]]:
        """The coordinator has said a message; LayoutError where it is none."""

    def at_boundary(self, now_ms: int, version: int) -> list[tuple[Any, ...]]:
        """The script stands between two steps, with ``version`` steps completed."""

    def step_broke(self, now_ms: int, suspects: Sequence[int]) -> list[tuple[Any, ...]]:
        """The step that was allowed has failed, and nothing of it runs any more."""

    def prepare_done(self, now_ms: int, attempt: int) -> list[tuple[Any, ...]]:
        """The attempt is prepared here."""

    def prepare_broke(
        self, now_ms: int, attempt: int, why: str, is_uncovered: bool, is_refusal: bool
    ) -> list[tuple[Any, ...]]:
        """The attempt cannot be prepared here.

        ``is_uncovered``: the version of a recovery cannot be put together from its holders.
        ``is_refusal``: the target cannot be taken from the state as it is.
        """

    def switch_moved(self, now_ms: int, attempt: int) -> list[tuple[Any, ...]]:
        """The target is there, and the source still is."""

    def switch_broke(
        self, now_ms: int, attempt: int, why: str, is_refusal: bool
    ) -> list[tuple[Any, ...]]:
        """The transfer has ended, and the source is as it was.

        ``is_refusal``: the target cannot be taken from the state as it is.
        """

    def stopped(
        self, now_ms: int, version: int, is_clean: bool, snapshots: Sequence[int]
    ) -> list[tuple[Any, ...]]:
        """The answer to ``stop``: neither a step nor a transfer runs any more."""

    def found(self, now_ms: int, versions: Sequence[int]) -> list[tuple[Any, ...]]:
        """The answer to ``search``: versions of the job that can be read from disk."""

    def copied(self, now_ms: int, epoch: int, is_on_disk: bool) -> list[tuple[Any, ...]]:
        """A snapshot, or a checkpoint, of the world with this epoch is whole."""

    def leave_wanted(self, now_ms: int, grace_ms: int) -> list[tuple[Any, ...]]:
        """This process is to be left out of the next world."""

    def script_finished(self, now_ms: int) -> list[tuple[Any, ...]]:
        """The script has done its last step."""

    def tick(self, now_ms: int) -> list[tuple[Any, ...]]:
        """Time has passed."""

    def holds_because(self) -> str:
        """Why no step is allowed at this moment; empty while one is."""

class Words:
    """What ranks tell each other in small exchanges, as bytes; see dynatrain/words.py."""

    def __init__(self) -> None: ...
    def add(self, kind: type, name: str, fields: tuple[str, ...]) -> None:
        """Lets values of ``kind`` be told, by ``name``; ``fields`` make it in this order."""

    def encode(self, value: object) -> bytes:
        """The bytes of a value; TypeError with the class of what no word is for."""

    def decode(self, blob: bytes) -> Any:
        """The value of ``blob``.

        ValueError, TypeError or KeyError for bytes that ``encode`` does not write; no size in them
        is believed before it is held against the bytes that are there.
        """

def membership_description(line: str) -> dict[str, Any]:
    """An attempt as it is published.

    Keys: attempt, is_recovery, source, target, holdings, former, cold_because.
    """

def membership_record(line: str) -> tuple[Any, ...]:
    """A record of a ledger: its kind, and what is in it.

    ``("joined", member, host)``, ``("leaves", member)``, ``("released", member)``, ``("lost",
    member, why)``, ``("wished", layout)``, ``("begun", attempt)``, ``("aborted", attempt, why)``,
    ``("committed", attempt, world)``, ``("halted", epoch, why)`` and ``("finished", epoch)``.
    """

def membership_speaker(line: str) -> int:
    """The member that says a message; LayoutError where it is none."""

def membership_tick_ms(timeout_ms: int) -> int:
    """How often both machines are given a tick."""

def membership_deadlines(timeout_ms: int) -> dict[str, int]:
    """Deadlines that others must fit between: heartbeat_ms, lost_after_ms, decision_ms."""
