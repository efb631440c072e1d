"""What a switch that frees its source has left where it fails, kept as a snapshot is."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dynatrain import _native
from dynatrain.elastic.copies import CopiedState
from dynatrain.elastic.driven import Driven
from dynatrain.elastic.sharing import Part, Sharing
from dynatrain.elastic.snapshots import Noted, Snapshots
from dynatrain.given import described
from dynatrain.switch.remains import Remains

_log = logging.getLogger("dynatrain.elastic")
#: The part of ``timeout_s`` that copies have: half of the time in which a halted member reports.
_COPYING = 1 / 12


class RescueOfParts:
    """The port of a switch that streams (``switch.remains``), over the copies of a member.

    Args:
        snapshots: of this member.
        session: whose state they are of.
        timeout_s: of the job.
    """

    def __init__(self, snapshots: Snapshots, session: Driven, timeout_s: float) -> None:
        self._snapshots = snapshots
        self._session = session
        self._seconds = timeout_s * _COPYING
        self._noted: Noted | None = None

    def note(self) -> None:
        """Notes what is no tensor of the present state, which is whole for the last time."""
        self._noted = None
        try:
            self._noted = self._snapshots.read()
        except Exception as error:  # noqa: BLE001 - older copies do without
            _log.warning("what this switch may leave is not kept: %s", described(error))

    def let_go(self) -> None:
        """The switch is done, or given up: what was noted is of no use any more."""
        self._noted = None

    def keep(self, remains: Callable[[], Remains]) -> None:
        """Copies what is left of that state, and what has landed of the next one.

        Not on a member that has no place in the new world, where nobody would ask for it.
        """
        step = self._session.completed
        if step in self._snapshots.versions:
            return  # the own part of that version is here, as a copy that the switch began with
        try:
            found = remains()
            if not found.has_place and not self._snapshots.are_asked_for:
                return
            parts = [*([] if self._noted is None else [_left(self._noted)]), _landed(found)]
            sharing = Sharing(found.num_neighbours, self._seconds)
            sizes = self._snapshots.keep(step, parts, sharing)
        except Exception as error:  # noqa: BLE001 - older copies do without
            _log.warning("what is left of step %d is not kept: %s", step, described(error))
        else:
            told = ", ".join(f"{size} bytes" for size in sizes)
            _log.info("what is left of step %d is kept in host memory: %s", step, told)


def _left(noted: Noted) -> Part:
    """The tensors of a source whose memory was not freed yet."""
    storages = noted.inventory.storages()
    live = {number for number, each in enumerate(storages.each) if each.nbytes()}
    names = {name for name, (number, _) in storages.of_tensor.items() if number in live}
    packed = _native.PackedState(noted.table.only(names), noted.rank)
    return noted.told, packed, noted.own_kept


def _landed(remains: Remains) -> Part:
    """The parts of a target that have come; all that is no tensor is told with the source."""
    told = CopiedState.of_parts("what has landed", remains.on_host)
    return told, _native.PackedState(remains.landed, 0), {}
