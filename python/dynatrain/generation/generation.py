"""A generation: some members of a job, how they meet, and what they talk over."""

from __future__ import annotations

from contextlib import suppress

import torch

from dynatrain._errors import Error
from dynatrain.generation.control import Control
from dynatrain.generation.lanes import Lane, LaneMaker, unconnected
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from dynatrain.generation.rendezvous import Rendezvous


class Generation:
    """Owns the groups of its members; several may stand at a time, and be made in any thread.

    Args:
        members: who takes part; their name is that of no other generation of the job.
        options: of the session.
        device: where parameters live.

    Attributes:
        members: as given.
        meeting: where all members meet.
        control: their small exchanges, once connected.
        lanes: the ways of bytes, by kind of memory; empty while they are not connected.
    """

    def __init__(self, members: Members, options: Options, device: torch.device) -> None:
        self.members = members
        self.options = options
        self.meeting = Rendezvous(members.store, members.rank, members.num_ranks, options.timeout)
        self.control: Control
        self.lanes: dict[str, Lane] = {}
        self.maker = LaneMaker(
            members, device, options.transport, options.timeout, options.num_threads
        )
        self._connections: list[str] = []
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the control groups and the lanes stand."""
        return bool(self.lanes) and not self.control.lost

    def connect(self, connection: str) -> None:
        """Makes the control groups and the lanes. Collective.

        ``connection`` names them, and is the same on all ranks: a rank that fails on the way cannot
        count differently from then on.

        Raises:
            TransportError: a rank does not come, or the groups cannot be made.
            DeviceError: the transport that was asked for cannot be had.
        """
        self._connections.append(connection)
        try:
            self.control = Control(self.members, self.options.timeout, connection)
            self.lanes = self.maker.make(self.control, connection)
        except Error:
            raise
        except RuntimeError as error:  # what Gloo raises has no class of its own
            raise unconnected(error, self.members.num_ranks) from error
        self._sweep_former()

    def _sweep_former(self) -> None:
        """Deletes what former connections left in the store: all ranks are past them."""
        former, self._connections = self._connections[:-1], self._connections[-1:]
        if self.members.rank == 0:
            with suppress(RuntimeError):  # who cannot clean up is connected all the same
                for connection in former:
                    self.members.sweep(connection)

    def disconnect(self, reason: str) -> None:
        """Ends the lanes; they are made again before the next call."""
        for lane in self.lanes.values():
            lane.transport.abort(reason)
        self.lanes = {}

    def release(self, reason: str) -> None:
        """Lets go of all groups; nothing is exchanged any more."""
        self.disconnect(reason)
        if hasattr(self, "control"):
            self.control.release()

    def close(self) -> None:
        """Lets go of all groups, and of the keys in the store when all members have done so.

        Not collective. A member that dies before leaves the keys of the generation behind.
        """
        self.release("the session was closed")
        if self._closed:
            return
        self._closed = True
        store = self.members.store
        with suppress(RuntimeError):  # the store may have ended before
            if store.add("closed", 1) == self.members.num_ranks:
                for key in store.list_keys():
                    if not self.meeting.is_ahead(key):  # of a rank that calls behind its close
                        store.delete_key(key)
