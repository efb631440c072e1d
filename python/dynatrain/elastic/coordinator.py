"""The coordinator of an elastic job: one process that decides who trains with whom.

It hosts the store that members meet over, and carries out what the protocol's machine asks for:
records go to the ledger before anybody is told.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import TCPStore

from dynatrain import _native
from dynatrain._errors import Error, LayoutError, TransportError
from dynatrain.elastic.advice import Answer, written
from dynatrain.elastic.answers import in_lines
from dynatrain.elastic.attempts import published
from dynatrain.elastic.chronicle import Chronicle
from dynatrain.elastic.deadlines import now_ms
from dynatrain.elastic.json_text import value_of
from dynatrain.elastic.ledger import Ledger
from dynatrain.elastic.questions import Asked
from dynatrain.elastic.said_once import SaidOnce
from dynatrain.elastic.seal import (
    MAX_LINE_BYTES,
    MEMBER,
    OPERATOR,
    POLICY,
    Seal,
    greeting,
    new_nonce,
    nonce_of,
)
from dynatrain.elastic.trace import traced
from dynatrain.generation.leftovers import Leftovers
from dynatrain.given import shown
from dynatrain.layout import Layout

_log = logging.getLogger("dynatrain.elastic")
#: What the kernel says of a connection whose other side is not reached any more: nobody's end.
_NO_ANSWER = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
#: How long keys of former worlds are deleted in each tick: what members say waits for it.
_SWEEP_S = 0.01
#: Of a question's number, at most.
_NUMBER_DIGITS = 15
#: Members that may come at the same time.
_BACKLOG = 4096


@dataclass(frozen=True)
class CoordinatorSettings:
    """How a coordinator is run.

    Attributes:
        address: that it and its store listen on.
        port: where members and commands come; 0 for any that is free.
        layouts: from the one that is wanted most; the first is taken for which members are there.
        timeout_s: the one number that all deadlines follow from; the same for all members.
        secret: of the job.
        trace: file for a trace of the protocol's machine, or None.
    """

    address: str
    port: int
    layouts: tuple[Layout, ...]
    timeout_s: float
    secret: bytes
    trace: Path | None = None


@dataclass
class _Connection:
    """One that has shown the job's secret by its first line.

    Attributes:
        writer: of its socket.
        seal: of the coordinator's side.
        member: whom it speaks for; 0 before it has said so.
    """

    writer: asyncio.StreamWriter
    seal: Seal
    member: int = 0

    def say(self, line: str) -> None:
        """Sends a line; one that cannot be sent is lost, as any may be."""
        with suppress(OSError, RuntimeError):
            self.writer.write(self.seal.close(line))


class Coordinator:
    """Serves one job.

    Args:
        settings: how it is run.
        ledger: of this job; what is in it is gone on from.
        bound: to the address already, as a standby's is while it waits.

    Raises:
        LayoutError: no layouts, or two of one text, or the trace cannot be written.
        TransportError: the address cannot be listened on, or the ledger is none.
    """

    def __init__(
        self, settings: CoordinatorSettings, ledger: Ledger, bound: socket.socket | None = None
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        timeout_ms = int(settings.timeout_s * 1000)
        records = [*ledger.lines()]
        begins = {
            "layouts": [(str(layout), layout.world_size) for layout in settings.layouts],
            "timeout_ms": timeout_ms,
            "records": records,
            "now_ms": now_ms(),
        }
        self._machine, self._trace = traced(settings.trace, "coordinator", **begins)
        self._chronicle = Chronicle(records)
        self._tick_s = _native.membership_tick_ms(timeout_ms) / 1000
        self._connections: dict[int, _Connection] = {}
        self._num_refused = 0
        self._office = secrets.token_hex(8)  #: in questions: former coordinators asked some, too
        self._broken: Error | None = None  #: the ledger cannot be written: nothing is told any more
        self._socket = bound or bound_to(settings.address, settings.port)
        store = bound_to(settings.address, 0)
        self._socket.listen(_BACKLOG)
        store.listen(_BACKLOG)
        self._leftovers = Leftovers()  #: of worlds that are over, and of attempts at them
        self._store_port = int(store.getsockname()[1])
        self._store = TCPStore(
            settings.address,
            self._store_port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=store.detach(),
        )

    @property
    def port(self) -> int:
        """Where members and commands come."""
        return int(self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Serves until it is cancelled.

        Raises:
            TransportError: a record cannot be written, or another coordinator may write them; what
                the ledger has is what was told.
        """
        asyncio.get_running_loop().set_exception_handler(SaidOnce())
        server = await asyncio.start_server(self._attend, sock=self._socket, limit=MAX_LINE_BYTES)
        async with server:
            try:
                while True:
                    if self._broken is not None:
                        raise self._broken
                    self._ledger.check()
                    self._carry_out(self._machine.tick(now_ms()))
                    self._chronicle.waits(self._machine.stands_because())
                    self._trace.write()
                    self._sweep()
                    await asyncio.sleep(self._tick_s)
            finally:
                self._trace.write()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its greeting to its end.

        Whoever comes says something at once: what is silent then is no member and no command, and
        would hold a descriptor of this process for as long as it likes.
        """
        connection, is_told = None, True
        try:
            connection = await self._greeted(reader, writer)
            line = await self._first(reader)
            while line:
                self._hear(connection, connection.seal.open(line))
                await writer.drain()
                line = await reader.readline()
        except (Error, ValueError) as error:
            if self._broken is None:  # else it is what ends this coordinator
                self._num_refused += 1
                _log.warning("a connection was refused: %s", error)
        except OSError as error:
            _log.debug("a connection has ended: %s", error)
            is_told = error.errno not in _NO_ANSWER
        except asyncio.CancelledError:
            is_told = False  # this side ends: nobody is lost by that
        finally:
            if connection is not None:
                self._forget(connection, is_told=is_told)
            writer.close()

    async def _greeted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Connection:
        own = new_nonce()
        writer.write(greeting(own) + b"\n")
        theirs = nonce_of(await self._first(reader))
        seal = Seal(self._settings.secret, (own, theirs), is_coordinator=True)
        return _Connection(writer, seal)

    async def _first(self, reader: asyncio.StreamReader) -> bytes:
        timeout_s = self._settings.timeout_s
        try:
            return await asyncio.wait_for(reader.readline(), timeout_s)
        except asyncio.TimeoutError as error:  # before Python 3.11 it is none of OSError
            raise ConnectionError(f"nothing was said within {timeout_s:g} s") from error

    def _hear(self, connection: _Connection, line: str) -> None:
        if line.startswith(OPERATOR):
            answer = json.dumps(self._answer(value_of(line.removeprefix(OPERATOR))))
            for each in in_lines(answer):
                connection.say(each)
            return
        if line.startswith(POLICY) and connection.member:
            self._hear_policy(connection.member, Answer.of_line(line.removeprefix(POLICY)))
            return
        said = line.removeprefix(MEMBER)
        member = _native.membership_speaker(said)
        if not connection.member:
            connection.member = member
            self._connections[member] = connection
            connection.say(f"store {self._store_port} {self._settings.timeout_s!r}")
        if connection.member != member:
            raise TransportError(
                f"elastic: a connection of member {connection.member} spoke for {member}\n"
                "  expected one connection for each member\n  the connection was closed\n"
                "  run the same version of dynatrain everywhere",
                retryable=False,
            )
        self._carry_out(self._machine.heard(now_ms(), said))

    def _hear_policy(self, member: int, answer: Answer) -> None:
        office, _, number = answer.question.partition(".")
        if not answer.question:
            self._carry_out(self._machine.advises(now_ms(), member))
        elif office == self._office:
            if not number.isdecimal() or len(number) > _NUMBER_DIGITS:
                raise ValueError(f"no question has the number {shown(number)}")
            layout, size, why = answer.taken()
            if why:
                _log.warning("the policy of member %d failed: %s", member, why)
            self._carry_out(self._machine.advice(now_ms(), int(number), layout, size, why))

    def _consult(self, number: int, member: int) -> None:
        """Asks a member for what its script's policy says of who is there."""
        question = f"{self._office}.{number}"
        status = self._machine.status(now_ms())
        self._store.set("consult", written(question, status, self._settings.layouts))
        if member in self._connections:
            self._connections[member].say(f"consult {question}")

    def _forget(self, connection: _Connection, *, is_told: bool) -> None:
        """A connection has ended: by the member's side, or nothing is heard of that side."""
        member = connection.member
        if member and self._connections.get(member) is connection:
            del self._connections[member]
            if is_told and self._broken is None:
                with suppress(Error):  # of the ledger: it ends this coordinator
                    self._carry_out(self._machine.connection_closed(now_ms(), member))

    def _answer(self, asked: Any) -> dict[str, Any]:
        """What an operator is told; an answer with ``error`` refuses."""
        answer = ""
        try:
            if asked["ask"] == "resize":
                layout = self._asked().layout(asked["layout"])
                self._carry_out(self._machine.resize(now_ms(), layout))
                answer = self._asked().after_wish(layout)
            elif asked["ask"] == "drain":
                member = self._asked().drained(rank=asked.get("rank"), member=asked.get("member"))
                self._carry_out(self._machine.drain(now_ms(), member))
                answer = self._asked().after_drain(member)
            elif asked["ask"] == "wish":
                return {"why_not": self._why_not(asked["layout"], asked["epoch"])}
            elif asked["ask"] != "status":
                return {"error": _unknown(asked["ask"])}
        except (Error, KeyError, TypeError, ValueError) as error:
            self._chronicle.refused(str(error))
            return {"error": str(error)}
        status = self._machine.status(now_ms())
        return {**status, "num_refused": self._num_refused, "answer": answer}

    def _asked(self) -> Asked:
        return Asked(self._settings.layouts, self._machine.status(now_ms()))

    def _why_not(self, layout: str, epoch: int) -> str:
        """Why no switch to a layout, wished for in ``epoch``, follows; empty where it may."""
        why = self._asked().why_unlisted(layout)
        return why or str(self._machine.why_not(layout, epoch))

    def _carry_out(self, actions: Iterable[tuple[Any, ...]]) -> None:
        for kind, *facts in actions:
            if self._broken is not None:
                raise self._broken
            if kind == "persist":
                self._persist(facts[0])
            elif kind == "publish":
                self._publish(*facts)
            elif kind == "consult":
                self._consult(*facts)
            elif kind == "abdicate":
                self._abdicate(*facts)
            else:
                member, line = facts
                self._chronicle.told(member, line)
                if member in self._connections:
                    self._connections[member].say(MEMBER + line)

    def _abdicate(self, why: str) -> None:
        """Ends, as members have heard what this ledger does not say."""
        self._broken = LayoutError(
            f"elastic: {why}\n"
            "  expected the ledger by which this job has run so far; this one is new, older or "
            "damaged\n"
            "  nobody was told anything: training goes on, in the world in which it was\n"
            "  start the coordinator with the ledger of this job, or end its members first"
        )
        raise self._broken

    def _persist(self, record: str) -> None:
        """Puts a record on disk; a coordinator that cannot ends, as its machine knows more."""
        try:
            self._ledger.append(record)
        except Error as error:
            self._broken = error
            raise
        self._chronicle.persisted(record)

    def _publish(self, attempt: int, description: str) -> None:
        """Puts an attempt where all who are asked to prepare will look for it."""
        status = self._machine.status(now_ms())
        named = {*status["world"]["members"], *(each["id"] for each in status["members"])}
        places = {each: self._chronicle.places[each] for each in named}
        self._store.set(f"attempt/{attempt}", published(description, places))
        self._chronicle.published(attempt, description)
        self._forget_worlds_before(status["world"]["epoch"], attempt)

    def _forget_worlds_before(self, epoch: int, attempt: int) -> None:
        """Gives up what members have left of worlds, and of attempts at them, that are over."""

        def is_over(key: str) -> bool:
            of, _, rest = key.partition("/")
            if of == "attempt":
                return rest != str(attempt)
            world = of.partition(".")[0]
            return world.isdecimal() and int(world) < epoch

        self._leftovers = Leftovers()  # what remains of the former ones is listed again
        self._leftovers.add_keys(self._store, filter(is_over, self._store.list_keys()))

    def _sweep(self) -> None:
        """Deletes some of what was given up: a large world leaves keys for half a second."""
        until = time.monotonic() + _SWEEP_S
        self._leftovers.sweep(lambda: time.monotonic() > until)


def _unknown(asked: object) -> str:
    return (
        f"elastic: a coordinator is not asked for {shown(asked)}\n"
        "  expected status, resize, drain or wish\n  nothing was changed\n"
        "  run the same version of dynatrain everywhere"
    )


def bound_to(address: str, port: int) -> socket.socket:
    """A socket that has this port, and refuses whoever comes until it listens.

    Raises:
        TransportError: the port cannot be had.
    """
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except (OSError, OverflowError, ValueError) as error:  # a port, or a name, that cannot be
        raise TransportError(
            f"elastic: the coordinator cannot listen on {address}:{port}: {error}\n"
            "  expected an address of this machine and a port that is free\n"
            "  nothing was started\n  give it another --listen, or end what has this port",
            retryable=False,
        ) from error
    return bound
