"""What a switch that frees its source has left where it fails, kept as a snapshot is."""

from __future__ import annotations

import logging

from dynatrain import _native
from dynatrain.elastic.copies import CopiedState
from dynatrain.elastic.driven import Driven
from dynatrain.elastic.snapshots import Noted, Snapshots
from dynatrain.given import described
from dynatrain.switch.remains import Remains

_log = logging.getLogger("dynatrain.elastic")


class RescueOfParts:
    """The port of a switch that streams (``switch.remains``), over the copies of a member.

    Args:
        snapshots: of this member.
        session: whose state they are of.
    """

    def __init__(self, snapshots: Snapshots, session: Driven) -> None:
        self._snapshots = snapshots
        self._session = session
        self._noted: Noted | None = None

    def note(self) -> None:
        """Notes what is no tensor of the present state, which is whole for the last time."""
        self._noted = None
        try:
            self._noted = self._snapshots.read()
        except Exception as error:  # noqa: BLE001 - older copies do without
            _log.warning("what this switch may leave is not kept: %s", described(error))

    def keep(self, remains: Remains) -> None:
        """Copies what is left of that state, and what has landed of the next one."""
        step, (noted, self._noted) = self._session.completed, (self._noted, None)
        if step in self._snapshots.versions:
            return  # that is whole here
        try:
            parts = [*([] if noted is None else [_left(noted)]), _landed(remains)]
            self._snapshots.keep(step, parts, {} if noted is None else noted.own_kept)
        except Exception as error:  # noqa: BLE001 - older copies do without
            _log.warning("what is left of step %d is not kept: %s", step, described(error))
        else:
            sizes = ", ".join(f"{packed.size_bytes} bytes" for _, packed in parts)
            _log.info("what is left of step %d is kept in host memory: %s", step, sizes)


def _left(noted: Noted) -> tuple[CopiedState, _native.PackedState]:
    """The tensors of a source whose memory was not freed yet."""
    storages = noted.inventory.storages()
    live = {number for number, each in enumerate(storages.each) if each.nbytes()}
    names = {name for name, (number, _) in storages.of_tensor.items() if number in live}
    return noted.told, _native.PackedState(noted.table.only(names), noted.rank)


def _landed(remains: Remains) -> tuple[CopiedState, _native.PackedState]:
    """The parts of a target that have come; all that is no tensor is told with the source."""
    told = CopiedState.of_parts("what has landed", remains.on_host)
    return told, _native.PackedState(remains.landed, 0)
