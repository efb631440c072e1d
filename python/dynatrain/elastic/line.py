"""A member's line to the coordinator: it connects, again after a loss, and signs what it says."""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from dynatrain import given
from dynatrain._errors import Error, TransportError
from dynatrain.elastic.addresses import Address, text_of
from dynatrain.elastic.deadlines import office_deadlines
from dynatrain.elastic.seal import MAX_LINE_BYTES, Seal, greeting, new_nonce, nonce_of

_log = logging.getLogger("dynatrain.elastic")
#: Of a job with the default timeout_s, for those who do not know its own.
_CONNECT_S = office_deadlines(60.0).connect
#: Connections in a row that may end before the coordinator has said a line, as when it is killed.
_MOST_UNHEARD = 3


class _Connection:
    """One that the coordinator at ``address`` has greeted.

    Raises:
        OSError: nobody is there.
        TransportError: who is there is no coordinator of this version.
    """

    def __init__(self, address: Address, secret: bytes, connect_s: float) -> None:
        self._socket = _connected(address, connect_s)
        self._read = b""
        try:
            if self._socket.getsockname() == self._socket.getpeername():
                # The kernel may choose the port that nobody listens on for this side.
                raise ConnectionError("connected to itself")
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own = new_nonce()
            self._socket.sendall(greeting(own) + b"\n")
            greeted = self.next(connect_s)
            if greeted is None:
                raise ConnectionError("it does not greet")  # as one that is stopped
            theirs = nonce_of(greeted)
        except (OSError, TransportError):
            self.close()
            raise
        self.seal = Seal(secret, (theirs, own), is_coordinator=False)
        self.own_host = str(self._socket.getsockname()[0]).removeprefix("::ffff:")

    def say(self, line: str) -> None:
        """Sends a line; OSError where that cannot be."""
        self._socket.sendall(self.seal.close(line))

    def next(self, seconds: float) -> bytes | None:
        """The next line as it came, None when none has come in time; OSError at the end."""
        until = time.monotonic() + seconds
        while b"\n" not in self._read:
            if not self._has_come(max(0.0, until - time.monotonic())):
                return None
            came = self._socket.recv(1 << 16)
            if not came:
                raise ConnectionError("closed by the coordinator")
            if len(self._read) > MAX_LINE_BYTES:
                raise ConnectionError("a line is too long")
            self._read += came
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _has_come(self, seconds: float) -> bool:
        """Whether there is something to read, or the end; waits for it so long."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise ConnectionError("ended by this side")
        coming = select.poll()  # select() takes none above 1023, as processes of large jobs have
        coming.register(descriptor, select.POLLIN)
        return bool(coming.poll(seconds * 1000))

    def close(self) -> None:
        """Ends it."""
        with suppress(OSError):
            self._socket.close()


def _connected(address: Address, connect_s: float) -> socket.socket:
    try:
        return socket.create_connection(address, connect_s)
    except ValueError as error:  # before anybody is asked, where it cannot be a name
        raise OSError(f"{given.shown(address[0])} is no name of a host: {error}") from error


class Line:
    """The way to the coordinator; what cannot be said is lost, as any message may be.

    One thread connects and hears; others may say lines meanwhile, one at a time.

    Args:
        addresses: of the coordinator, and of those that may take its place.
        secret: of the job.
        silent_s: a coordinator that is not heard this long is left for another one that is there.
        connect_s: for a connection to one address, and as long again for its greeting.

    Attributes:
        is_heard: whether the coordinator has said something over the connection that stands.
        own_host: from which the coordinator was reached last.
        why_not: why it was not, the last time that it could not be.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        secret: bytes,
        silent_s: float = math.inf,
        connect_s: float = _CONNECT_S,
    ) -> None:
        self._addresses = tuple(addresses)
        self._at = 0
        self._secret = secret
        self._silent_s = silent_s
        self._connect_s = connect_s
        self._connection: _Connection | None = None
        self._heard_s = 0.0
        self._num_unheard = 0
        self._is_known = self._is_distrusted = False
        self.is_heard = False
        self.own_host = self.why_not = ""

    @property
    def host(self) -> str:
        """Of the coordinator that is connected, or tried next."""
        return self._addresses[self._at][0]

    @property
    def addresses(self) -> str:
        """All of them, as users write them."""
        return ",".join(text_of(each) for each in self._addresses)

    @property
    def num_addresses(self) -> int:
        """How many there are to try."""
        return len(self._addresses)

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._connection is not None

    def connect(self) -> bool:
        """Connects where no connection stands; False where the coordinator is not there.

        Every call tries one address, and the next one after that has failed.

        Raises:
            TransportError: what is there is no coordinator of this version, and none is known.
        """
        return self._connection is not None or self._connected_to(self._at)

    def say(self, line: str) -> None:
        """Sends a line where a connection stands."""
        connection = self._connection
        if connection is None:
            return
        try:
            connection.say(line)
        except OSError as error:
            _log.debug("the coordinator does not hear: %s", error)
            self._end(connection)

    def hear(self, seconds: float) -> str | None:
        """The next line, or None when none has come in time or the connection has ended.

        Raises:
            TransportError: a line does not carry the job's code, and no coordinator is known.
        """
        connection = self._connection
        if connection is None:
            return None
        try:
            line = connection.next(seconds)
            if line is None:
                self._leave_if_silent()
                return None
            said = connection.seal.open(line)
        except OSError as error:
            _log.info("the coordinator is lost: %s", error)
            self._end(connection)
            self._count_unheard()
            return None
        except TransportError as error:
            self.distrust(error)
            return None
        self._num_unheard, self._heard_s = 0, time.monotonic()
        self.is_heard = True
        return said

    def trust(self) -> None:
        """What was heard makes sense: this is the coordinator of this job.

        From now on what is at an address and is none is taken for nobody: the job does not end for
        that.
        """
        self._is_known, self._is_distrusted = True, False

    def distrust(self, error: Error) -> None:
        """Ends the connection to what is no coordinator of this job, or none that can be read.

        Raises ``error`` where none is known: this process was given another address or secret.
        """
        self.end()
        self._tell_of_stranger(error)
        self._at = (self._at + 1) % len(self._addresses)

    def _tell_of_stranger(self, error: Error) -> None:
        if not self._is_known:
            raise error
        level = logging.DEBUG if self._is_distrusted else logging.WARNING
        self._is_distrusted = True
        _log.log(
            level,
            "what answers in the place of the coordinator is not this job's; training goes on, and "
            "changes wait for the coordinator: %s",
            error,
        )

    def end(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._end(self._connection)

    def _end(self, connection: _Connection) -> None:
        connection.close()
        if self._connection is connection:
            self._connection, self.is_heard = None, False

    def _connected_to(self, at: int) -> bool:
        """Connects to another address than that of a connection that stands, and ends that one."""
        try:
            made = _Connection(self._addresses[at], self._secret, self._connect_s)
        except (OSError, TransportError) as error:
            if isinstance(error, TransportError):
                self._tell_of_stranger(error)
            _log.debug("no coordinator at %s: %s", self._addresses[at], error)
            self.why_not = given.described(error)
            if self._connection is None:
                self._at = (at + 1) % len(self._addresses)
            return False
        self.end()
        self._at, self._connection, self._heard_s = at, made, time.monotonic()
        self.own_host = made.own_host
        return True

    def _leave_if_silent(self) -> None:
        """Leaves a coordinator that is stopped or cut off, once another one is in office.

        Not before: it counts whoever hangs up as lost.
        """
        if time.monotonic() - self._heard_s > self._silent_s:
            others = (each for each in range(len(self._addresses)) if each != self._at)
            if any(self._connected_to(each) for each in others):
                _log.info("the coordinator was silent; now at %s", self.host)

    def _count_unheard(self) -> None:
        self._num_unheard += 1
        if self._num_unheard > _MOST_UNHEARD:
            self._num_unheard = 0
            self.distrust(
                TransportError(
                    f"elastic: the coordinator at {text_of(self._addresses[self._at])} ends every "
                    "connection without a word\n"
                    "  expected it to answer lines with the code of its secret\n"
                    "  nothing was changed by this process\n"
                    "  give it the secret of this job's coordinator, and the same version of "
                    "dynatrain",
                    retryable=False,
                )
            )
