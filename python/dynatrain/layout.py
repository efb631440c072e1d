"""Parallel layouts as the user writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from dynatrain import _native, given
from dynatrain._errors import Error, LayoutError

MESH_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
_MAX_SIZE = 1 << 30
_T = TypeVar("_T")


@contextmanager
def _reading(asked: str) -> Iterator[None]:
    """Says in the library's words that the core cannot take a value of such a type."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise LayoutError(
            f"layout: {asked} was given what it cannot read\n"
            "  expected ranks and sizes as whole numbers, and axes and layouts as text, such as "
            f"'tp' and 'dp=2,tp=2'\n  nothing was changed\n"
            f"  mend the arguments of {asked}; the error above this one shows them"
        ) from error


def _checked_size(axis: str, size: int) -> int:
    found = given.whole(size)
    if found is None or found > _MAX_SIZE:
        raise LayoutError(
            f"layout: cannot use {axis}={given.shown(size)}\n"
            f"  expected a whole number from 1 to {_MAX_SIZE}\n"
            "  no layout was made, nothing changed\n"
            f"  give {axis} a number of ranks, or leave it out"
        )
    return found


def _number(value: object) -> int:
    found = given.whole(value)
    if found is None:
        raise TypeError(f"{given.shown(value)} is no whole number")
    return found


def _items(
    name: str, value: object, read: Callable[[object], _T | None], expected: str
) -> list[_T]:
    """What ``read`` finds in each item of a sequence; raises LayoutError when it is none."""
    found = None
    with suppress(Exception):
        found = [read(item) for item in value]  # type: ignore[attr-defined]
    if found is None or None in found:
        raise LayoutError(
            f"layout: cannot use {name}={given.shown(value)}\n  expected {expected}\n"
            "  no layout was made, nothing changed\n"
            f"  give {name} a sequence of them, or leave it out"
        )
    return [item for item in found if item is not None]


class Layout:
    """The size of every parallel axis. Immutable, hashable, checked when made.

    ``world_size`` is ``dp_replicate * dp_shard * cp * tp * pp``; ``ep`` divides
    ``dp_shard * cp * tp / etp``. The text form (``str``, :meth:`parse`) is ``"dp=2,tp=2"``.

    Args:
        dp: shorthand for ``dp_shard``.
        dp_shard: ranks that shard parameters and optimizer state among them (FSDP, ZeRO).
        dp_replicate: replicas of those groups (HSDP, DDP).
        cp: context parallel size.
        tp: tensor parallel size.
        pp: pipeline stages.
        ep: expert parallel size.
        etp: tensor parallel size inside an expert, 1 or ``tp``.
        vpp: virtual stages per pipeline rank.
        stages: layers of each of the ``pp * vpp`` virtual stages; as even as can be when None.
        order: mesh axes from the slowest to the fastest varying rank.

    Raises:
        LayoutError: a size is below 1 or does not divide; the message names the axis.
    """

    __slots__ = ("_native",)

    def __init__(  # noqa: PLR0913 - one keyword per axis is the plainest form
        self,
        *,
        dp: int | None = None,
        dp_shard: int = 1,
        dp_replicate: int = 1,
        cp: int = 1,
        tp: int = 1,
        pp: int = 1,
        ep: int = 1,
        etp: int = 1,
        vpp: int = 1,
        stages: Sequence[int] | None = None,
        order: Sequence[str] = MESH_AXES,
    ) -> None:
        if dp is not None and given.whole(dp_shard) != 1:
            raise LayoutError(
                f"layout: dp={given.shown(dp)} and dp_shard={given.shown(dp_shard)} "
                "were both given\n"
                "  dp is shorthand for dp_shard\n  nothing was changed\n  give one of them"
            )
        sizes = {
            "dp_shard": dp_shard if dp is None else dp,
            "dp_replicate": dp_replicate,
            "cp": cp,
            "tp": tp,
            "pp": pp,
            "ep": ep,
            "etp": etp,
            "vpp": vpp,
        }
        # A shorthand is named as it was written.
        names = {axis: "dp" if axis == "dp_shard" and dp is not None else axis for axis in sizes}
        checked = {axis: _checked_size(names[axis], size) for axis, size in sizes.items()}
        counts = () if stages is None else stages
        numbers = _items("stages", counts, given.whole, "numbers of layers, such as (5, 4, 4, 3)")
        names_of_axes = _items("order", order, given.text, f"names of axes, such as {MESH_AXES}")
        with _reading("Layout()"):
            self._native = _native.Layout(**checked, stages=numbers, order=names_of_axes)

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Reads the text form, e.g. ``"dp=2,tp=2"``; raises LayoutError naming what is wrong."""
        layout = cls.__new__(cls)
        with _reading("Layout.parse()"):
            layout._native = _native.Layout.parse(text)
        return layout

    @property
    def native(self) -> _native.Layout:
        """The C++ value behind this layout."""
        return self._native

    @property
    def world_size(self) -> int:
        """Ranks that the layout occupies."""
        return self._native.world_size

    def size(self, axis: str) -> int:
        """Size of one axis, ``"dp"`` meaning ``"dp_shard"``."""
        with _reading("Layout.size()"):
            return self._native.size(axis)

    @property
    def dp_shard(self) -> int:
        """Size of the sharding data parallel axis."""
        return self.size("dp_shard")

    @property
    def dp_replicate(self) -> int:
        """Size of the replicating data parallel axis."""
        return self.size("dp_replicate")

    @property
    def cp(self) -> int:
        """Context parallel size."""
        return self.size("cp")

    @property
    def tp(self) -> int:
        """Tensor parallel size."""
        return self.size("tp")

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return self.size("pp")

    @property
    def ep(self) -> int:
        """Expert parallel size."""
        return self.size("ep")

    @property
    def etp(self) -> int:
        """Tensor parallel size inside an expert."""
        return self.size("etp")

    @property
    def vpp(self) -> int:
        """Virtual stages per pipeline rank."""
        return self.size("vpp")

    @property
    def order(self) -> tuple[str, ...]:
        """Mesh axes from the slowest to the fastest varying rank."""
        return tuple(self._native.order)

    def coordinate(self, rank: int, axis: str) -> int:
        """Coordinate of ``rank`` along a mesh axis."""
        with _reading("Layout.coordinate()"):
            return self._native.coordinate(_number(rank), axis)

    def group(self, rank: int, *axes: str) -> list[int]:
        """Ranks that differ from ``rank`` only along ``axes``, ascending."""
        with _reading("Layout.group()"):
            return self._native.group(_number(rank), list(axes))

    def layers(self, pp_rank: int, num_layers: int) -> list[range]:
        """Layers of each virtual stage of ``pp_rank``, in model order."""
        with _reading("Layout.layers()"):
            found = self._native.layers(_number(pp_rank), _number(num_layers))
            return [range(begin, end) for begin, end in found]

    def __str__(self) -> str:
        return str(self._native)

    def __repr__(self) -> str:
        return f"Layout({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._native == other._native

    def __hash__(self) -> int:
        return hash(self._native)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Layout.parse, (str(self),))


def as_layout(value: Layout | str) -> Layout:
    """Accepts a Layout or its text form."""
    return value if isinstance(value, Layout) else Layout.parse(value)


class Place(Protocol):
    """One rank's place in a layout, such as a :class:`dynatrain.World`."""

    @property
    def layout(self) -> Layout:
        """The layout."""

    def size(self, axis: str) -> int:
        """Size of an axis."""

    def coordinate(self, axis: str) -> int:
        """This rank's coordinate along an axis."""
