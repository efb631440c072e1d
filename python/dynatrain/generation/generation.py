"""A generation: some members of a job, how they meet, and what they talk over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakMethod

import torch
from torch._C._distributed_c10d import Store

from dynatrain._errors import Error, of_family
from dynatrain._limits import room_for_groups
from dynatrain._threads import started
from dynatrain.generation.control import Control
from dynatrain.generation.lanes import Lane, LaneMaker, unconnected
from dynatrain.generation.late import beside
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from dynatrain.generation.rendezvous import Meeting, Rendezvous

#: A store that has stopped must not keep a rank from ending.
_CLOSING_SECONDS = 2.0


class Generation:
    """Owns the groups of its members; several may stand at a time, and be made in any thread.

    Args:
        members: who takes part; their name is that of no other generation of the job.
        options: of the session.
        device: where parameters live.
        meets_in_store: whether members meet over the store: they learn who did not come, and meet
            again when groups are lost. Members of an elastic job meet over their groups alone:
            their coordinator tells when they meet and who has died, and what hangs in a group can
            be ended at once, which no wait for a store can.

    Attributes:
        members: as given.
        meeting: where all members meet over the store; None where they do not.
        control: their small exchanges, once connected.
        lanes: the ways of bytes, by kind of memory; empty while they are not connected.
    """

    def __init__(
        self,
        members: Members,
        options: Options,
        device: torch.device,
        *,
        meets_in_store: bool = True,
    ) -> None:
        self.members = members
        self.options = options
        self.meeting: Rendezvous | None = None
        if meets_in_store:
            place = members.store, members.rank, members.num_ranks
            self.meeting = Rendezvous(*place, options.timeout)
        self._num_met = 0
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

    def check_room(self) -> None:
        """Raises OSError or RuntimeError where the system has no room for groups to be made."""
        if not self.connected:
            with self.maker.room(connected=False):
                pass

    def connect(self, connection: str) -> None:
        """Makes the control groups and the lanes. Collective.

        ``connection`` names them, and is the same on all ranks: a rank that fails on the way cannot
        count differently from then on.

        Raises:
            TransportError: a rank does not come, or the groups cannot be made.
            DeviceError: the transport that was asked for cannot be had, or the system refuses this
                rank a descriptor or a thread.
        """
        self._connections.append(connection)
        if hasattr(self, "control"):
            self.control.release()  # frames of an error may hold it
        try:
            with room_for_groups(self.members.num_ranks):
                self.control = Control(
                    self.members, self.options.timeout, connection, _disconnecting(self)
                )
            self.lanes = self.maker.make(self.control, connection)
        except Error:
            raise
        except OSError as error:
            raise of_family(error, "connecting the ranks") from error
        except RuntimeError as error:  # what Gloo raises has no class of its own
            raise unconnected(error, self.members.num_ranks, self.options.timeout) from error
        if self.members.rank == 0:  # all ranks are past what they have talked over before
            for former in self._connections[:-1]:
                self.give_up_keys(self.members.store, former)
        self._connections = self._connections[-1:]

    def meet(self, payload: bytes, moment: str = "", *, is_dated: bool = True) -> Meeting:
        """Arrives with ``payload`` and waits for all others; see :meth:`Rendezvous.meet`.

        Over the groups meetings have no other order than that of the calls: all arrive at this one.
        """
        if self.meeting is not None:
            return self.meeting.meet(payload, moment, is_dated=is_dated)
        name, self._num_met = str(self._num_met), self._num_met + 1
        return Meeting(name, self.control.gather(payload, "the call"))

    def give_up_keys(self, store: Store, purpose: str) -> None:
        """Has keys of a purpose be deleted where members meet over the store; all have met since.

        Elsewhere the coordinator deletes keys of the job.
        """
        if self.meeting is not None:
            self.meeting.leftovers.add(store, purpose)

    def abort(self, reason: str) -> None:
        """Ends all that waits for another member, from any thread; nothing is exchanged after it.

        Of members whose connections are noted.
        """
        if self.members.connections is not None:
            self.members.connections.cut(reason)
        for lane in [*self.lanes.values()]:
            lane.transport.abort(reason)

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

    def close(self, *, with_worlds: bool = True, in_store: bool = True) -> None:
        """Lets go of all groups, and of the keys in the store when all members have done so.

        Not collective. A store that does not answer is waited for two seconds. A member that dies
        before, or one whose groups are lost, leaves the keys of the generation behind.

        Args:
            with_worlds: whether keys of its worlds go as well; those of a world that lives on are
                its own to give up.
            in_store: whether the keys go at all: not where the store ends with the process.
        """
        connected = self.connected
        self.release("the session was closed")
        if self._closed or not in_store or not connected:
            return
        self._closed = True
        ending = started("dynatrain deletes keys", self._end_in_store, with_worlds)
        if ending is not None:  # else the keys stay, as those of a member that died
            ending.join(_CLOSING_SECONDS)

    def close_beside(self) -> None:
        """Lets go of all groups beside training, and leaves the keys: Gloo takes 40 ms for it."""
        close = partial(self.close, in_store=False)
        beside("dynatrain closes groups", close, self.options.timeout.total_seconds())

    def _end_in_store(self, with_worlds: bool) -> None:
        """The last member that closes deletes what all have left."""
        with suppress(Exception):  # the store may have ended, and nobody waits for this thread
            store = self.members.store
            if store.add("closed", 1) != self.members.num_ranks:
                return
            for key in store.list_keys():
                # Of a rank that calls behind its close.
                is_ahead = self.meeting is not None and self.meeting.is_ahead(key)
                if not is_ahead and (with_worlds or not key.startswith("world/")):
                    store.delete_key(key)


def _disconnecting(generation: Generation) -> Callable[[str], None]:
    """Ends the lanes of a generation, and does not hold it: what it holds goes with it at once."""
    held = WeakMethod(generation.disconnect)

    def disconnect(reason: str) -> None:
        method = held()
        if method is not None:
            method(reason)

    return disconnect
