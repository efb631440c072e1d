"""The connections of groups, ended together from any thread, so that nobody hangs in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

from torch._C._distributed_c10d import Store
from torch.distributed import DistStoreError

from dynatrain._errors import TransportError
from dynatrain._threads import started
from dynatrain._torch_private.gloo_links import Links, cut, give_up_after, links_of
from dynatrain._torch_private.groups import gloo_group
from dynatrain.generation.late import outlives

_T = TypeVar("_T")


class Connections:
    """Those of the groups that were noted; once they are cut, no further group is made.

    Args:
        patience: a connection ends when the host on its other side has not answered for so long.
        within: others; once these are cut, no further group of these ones is made either.
    """

    def __init__(self, patience: timedelta, within: Connections | None = None) -> None:
        self.patience = patience
        self._within = within
        self._lock = threading.Lock()
        self._links: list[Links] = []
        self._backends: list[Any] = []
        self._making: set[Future[Any]] = set()
        self._why = ""

    @property
    def are_cut(self) -> bool:
        """Whether they have been ended, or those that they are within."""
        return bool(self._why) or (self._within is not None and self._within.are_cut)

    def check(self) -> None:
        """Raises TransportError where they have been cut, or those that they are within."""
        if self._within is not None:
            self._within.check()
        if self._why:
            raise TransportError(
                f"elastic: the groups of this world were ended: {self._why}\n"
                "  expected what is done over them to be given up\n"
                "  the state is as it was, but for the step that was under way\n"
                "  the loop goes on with the members that remain"
            )

    def group(
        self, store: Store, place: tuple[int, int], timeout: timedelta, address: str = ""
    ) -> Any:
        """A ``ProcessGroupGloo`` whose members meet in ``store`` first; see :func:`gloo_group`.

        ``place`` is this rank and the number of ranks. Nothing ends Gloo's own wait for a member:
        until its deadline it tries a port that may be another group's by then, whose members take
        what comes for one of theirs. So no member begins with Gloo before all are there.

        Raises:
            DistStoreError: a member does not come in time.
            RuntimeError: what else Gloo meets.
            TransportError: the connections have been cut, before or meanwhile.
        """
        try:
            return self._apart(
                lambda: _meet(store, *place, timeout),
                lambda: gloo_group(store, *place, timeout, address),
                lambda: _give_up(store),
            )
        except DistStoreError as error:
            late = _first_late(store, place[1])
            if late is None:
                raise  # it is the store that does not answer
            raise DistStoreError(
                f"member {late} of the group's {place[1]} did not come within "
                f"{timeout.total_seconds():g} s"
            ) from error

    def _apart(
        self, meet: Callable[[], None], make: Callable[[], _T], give_up: Callable[[], None]
    ) -> _T:
        """What ``make`` returns behind ``meet``, both of which wait for others.

        A thread of its own does; this one waits for that no longer than until the connections are
        cut: then nothing is made any more, what is made all the same is dropped, and ``give_up``
        ends ``meet``, in a thread.
        """
        made: Future[_T] = Future()
        try:
            with self._ending(made):
                self.check()
                thread = started("dynatrain makes a group", _make, meet, make, made)
                if thread is None:  # the system has none left
                    meet()
                    return make()
                try:
                    return made.result()
                except BaseException:
                    if made.cancel():  # else it is what the thread has met
                        ending = started("dynatrain gives up a group", give_up)
                        if ending is not None:
                            outlives(ending, self.patience.total_seconds())
                        outlives(thread, self.patience.total_seconds())
                        self.check()
                    raise
        finally:
            del made  # its error has this frame

    @contextmanager
    def _ending(self, made: Future[Any]) -> Iterator[None]:
        """Has nobody wait for ``made`` any more once these, or those around them, are cut."""
        with self._lock:
            self._making.add(made)
        try:
            with nullcontext() if self._within is None else self._within._ending(made):
                yield
        finally:
            with self._lock:
                self._making.discard(made)

    def note(self, store: Store, prefix: str, place: tuple[int, int]) -> None:
        """A group of Gloo was made in ``store``; ``place`` is this rank and the number of ranks.

        Raises:
            TransportError: they have been cut.
        """
        links = links_of(store, prefix, *place)
        with self._lock:
            if links is not None:
                self._links.append(links)
                give_up_after([links], self.patience.total_seconds())
            if self._why:
                cut(self._links)
        self.check()

    def note_backend(self, backend: Any) -> None:
        """A group was made of a backend that can end what hangs by itself, as NCCL can.

        Raises:
            TransportError: the connections have been cut.
        """
        with self._lock:
            self._backends.append(backend)
            if self._why:
                _abort(backend)
        self.check()

    def cut(self, why: str) -> None:
        """Ends all that waits for a peer in one of the groups, here and on the peers."""
        with self._lock:
            self._why = self._why or why
            cut(self._links)
            for backend in self._backends:
                _abort(backend)
            for made in self._making:
                made.cancel()


#: How many members have come to a group, and what has become of their meeting: written once.
_NUM_HERE, _OUTCOME = "here", "outcome"
_ALL_HERE, _GIVEN_UP = "all here", "given up"


def _key(rank: int) -> str:
    return f"here/{rank}"


def _meet(store: Store, rank: int, num_ranks: int, timeout: timedelta) -> None:
    """Waits for the other members of a group; raises DistStoreError where one has left, or late.

    The last one to come says that all are there. Who leaves says so in its place: one that comes
    later would begin with Gloo alone. Four messages of a member, whatever their number.
    """
    store.set(_key(rank), "")
    try:
        if store.add(_NUM_HERE, 1) == num_ranks:
            outcome = _decided(store, _ALL_HERE)
        else:
            store.wait([_OUTCOME], timeout)
            outcome = store.get(_OUTCOME).decode()
    except BaseException as error:
        outcome = ""
        with suppress(Exception):
            outcome = _decided(store, str(rank))
        if outcome == _ALL_HERE and isinstance(error, DistStoreError):
            return  # the last one has come meanwhile, and all the others go on
        raise
    if outcome == _GIVEN_UP:
        raise DistStoreError("the group was given up before all of its members had come")
    if outcome != _ALL_HERE:
        raise DistStoreError(
            f"member {outcome} of the group's {num_ranks} had come, and did not wait any longer"
        )


def _decided(store: Store, outcome: str) -> str:
    """What has become of a meeting: this, where nobody has said anything else before."""
    told = store.compare_set(_OUTCOME, "", outcome)
    if told.decode() == outcome:
        store.set(_OUTCOME, outcome)  # once more, as that alone wakes waits in every store
    return told.decode()


def _give_up(store: Store) -> None:
    """Has nobody wait in :func:`_meet` any longer: waiting threads would outlive the script."""
    with suppress(Exception):  # the store is gone, and so is their waiting
        own: Any = store.clone()  # the connection of the other is the waiting thread's
        _decided(own, _GIVEN_UP)


def _first_late(store: Store, num_ranks: int) -> int | None:
    """A member that is not there, found by halves; None where all are, or the store is not."""
    with suppress(RuntimeError):
        begin, end = 0, num_ranks
        while end - begin > 1:
            middle = (begin + end) // 2
            if store.check([_key(each) for each in range(begin, middle)]):
                begin = middle
            else:
                end = middle
        return None if store.check([_key(begin)]) else begin
    return None


def _make(meet: Callable[[], None], make: Callable[[], _T], made: Future[_T]) -> None:
    """Has ``made`` be what ``make`` returns or raises, unless nobody waits for it any more."""
    try:
        meet()
        if made.cancelled():
            return
        found = make()
    except BaseException as error:  # noqa: BLE001 - the waiting thread's to treat
        with suppress(InvalidStateError):
            made.set_exception(error)
    else:
        with suppress(InvalidStateError):
            made.set_result(found)
    finally:
        del made  # an error of it has this frame


def _abort(backend: Any) -> None:
    with suppress(Exception):  # it has ended by itself
        backend.abort()
