"""Links between ranks: given, or those of machines that many have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.door import wrong_argument
from dynatrain.given import number, shown, text, whole

#: Bytes in a second, and seconds: what is divided and multiplied stays a number.
_LEAST, _MOST = 1, 1e36
_SPEEDS = ("link_bytes_per_second", "memory_bytes_per_second")
#: None where nothing bounds it.
_SPEEDS_OF_A_HOST = (
    "node_link_bytes_per_second",
    "host_bytes_per_second",
    "host_memory_bytes_per_second",
    "flops_per_second",
    "device_memory_bytes",
)
#: Of no unit, and above 0.
_LEAST_COST = 1e-3
_TIMES = ("stage_latency_seconds", "switch_seconds")


@dataclass(frozen=True)
class Topology:
    """Link speeds; of one rank, each direction.

    Attributes:
        link_bytes_per_second: of the link between nodes.
        stage_latency_seconds: of one stage.
        memory_bytes_per_second: of a copy on one rank.
        ranks_per_node: senders on the needer's node are preferred; None for one node.
        node_link_bytes_per_second: of the link within a node; None for the same as between nodes.
        num_nodes: nodes that there are; None for as many as it takes.
        host_bytes_per_second: of the messages of all ranks of a node together, where its cores
            carry them; None where links alone bound them. Of predictions, not of the time bound.
        host_memory_bytes_per_second: of the copies of all ranks of a node together; likewise.
        pack_cost: plain copies that take as long as packing, or unpacking, as many bytes, with
            their sums. Likewise.
        switch_seconds: what a switch takes whatever it moves: votes, sums, installing. Likewise.
        flops_per_second: operations of one rank's device on dense bfloat16 matrices, for estimates
            of a step; None where nobody asks for one.
        device_memory_bytes: of one rank's device; likewise.
    """

    link_bytes_per_second: float = 25e9
    stage_latency_seconds: float = 20e-6
    memory_bytes_per_second: float = 1e12
    ranks_per_node: int | None = None
    node_link_bytes_per_second: float | None = None
    num_nodes: int | None = None
    host_bytes_per_second: float | None = None
    host_memory_bytes_per_second: float | None = None
    pack_cost: float = 1.0
    switch_seconds: float = 0.0
    flops_per_second: float | None = None
    device_memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name in (*_SPEEDS, *_SPEEDS_OF_A_HOST, *_TIMES, "pack_cost"):
            value = getattr(self, name)
            if value is None and name in _SPEEDS_OF_A_HOST:
                continue
            found = number(value)
            least = 0 if name in _TIMES else _LEAST_COST if name == "pack_cost" else _LEAST
            if found is None or not least <= found <= _MOST:  # a NaN neither
                expected = f"a number from {least} to {_MOST:g}"
                raise wrong_argument("Topology", name, value, expected)
            self.__dict__[name] = float(found)
        for name in ("ranks_per_node", "num_nodes"):
            value = getattr(self, name)
            count = None if value is None else whole(value)
            if value is not None and (count is None or count < 1):
                expected = "None, or a whole number, 1 or more"
                raise wrong_argument("Topology", name, value, expected)
            self.__dict__[name] = count
        if self.num_nodes is not None and self.ranks_per_node is None and self.num_nodes > 1:
            expected = "None without ranks_per_node: all ranks share one node then"
            raise wrong_argument("Topology", "num_nodes", self.num_nodes, expected)

    def node_of_rank(self, num_ranks: int) -> list[int]:
        """The node of each rank, empty when all share one.

        Raises:
            LayoutError: there are not as many places.
        """
        per_node = self.ranks_per_node or num_ranks
        if self.num_nodes is not None and num_ranks > self.num_nodes * per_node:
            raise LayoutError(
                f"plan: this topology cannot hold {num_ranks} ranks\n"
                f"  expected at most {self.num_nodes * per_node}, on {self.num_nodes} nodes of "
                f"{per_node} ranks\n  nothing was planned\n"
                "  give it more nodes, or plan layouts of fewer ranks"
            )
        if self.ranks_per_node is None:
            return []
        return [rank // self.ranks_per_node for rank in range(num_ranks)]

    @property
    def native(self) -> _native.Topology:
        """What the core knows of it."""
        return _native.Topology(
            link_bytes_per_second=self.link_bytes_per_second,
            node_link_bytes_per_second=self.node_link_bytes_per_second
            or self.link_bytes_per_second,
            stage_latency_seconds=self.stage_latency_seconds,
            memory_bytes_per_second=self.memory_bytes_per_second,
            host_bytes_per_second=self.host_bytes_per_second or 0.0,
            host_memory_bytes_per_second=self.host_memory_bytes_per_second or 0.0,
            pack_cost=self.pack_cost,
        )


def _nodes(
    links: tuple[float, float], device: tuple[float, float, float], ranks_per_node: int = 8
) -> Topology:
    """As their makers give them: one network card a GPU, NVLink in one direction.

    ``links``: GB/s between nodes and within one; ``device``: GB/s and GB of its memory, and
    teraflops of dense bfloat16.
    """
    (link, node_link), (memory, size, teraflops) = links, device
    return Topology(
        link * 1e9,
        20e-6,
        memory * 1e9,
        ranks_per_node,
        node_link * 1e9,
        flops_per_second=teraflops * 1e12,
        device_memory_bytes=size * 1e9,
    )


#: By name. Numbers are those of data sheets: what arrives is less.
PRESETS = {
    "dgx-a100": _nodes((25, 300), (2039, 80, 312)),  # 8 cards of 200 Gb/s, NVLink 3
    "dgx-h100": _nodes((50, 450), (3350, 80, 989)),  # 8 cards of 400 Gb/s, NVLink 4
    "dgx-h200": _nodes((50, 450), (4800, 141, 989)),
    # NVLink 5 over the whole rack
    "gb200-nvl72": _nodes((50, 900), (8000, 186, 2500), ranks_per_node=72),
    # Processes of one host that read each other's memory, as docs/performance.md measured two.
    "one-host": Topology(6.5e9, 20e-6, 10e9, num_nodes=1),
}


def topology(name: str, num_nodes: int | None = None) -> Topology:
    """Links of a known machine; as many nodes of it as it takes, unless their number is given.

    Raises:
        LayoutError: there is none of that name; the message lists them.
    """
    if text(name) not in PRESETS:
        raise LayoutError(
            f"plan: no topology is called {shown(name)}\n"
            f"  expected one of {', '.join(PRESETS)}\n  nothing was planned\n"
            "  choose one, or give the links themselves"
        )
    preset = PRESETS[name]
    return preset if num_nodes is None else replace(preset, num_nodes=num_nodes)
