"""A member's line to the coordinator: it connects, again after a loss, and signs what it says."""

from __future__ import annotations

import logging
import select
import socket
from contextlib import suppress

from dynatrain._errors import TransportError
from dynatrain.elastic.seal import MAX_LINE_BYTES, Seal, greeting, new_nonce, nonce_of

_log = logging.getLogger("dynatrain.elastic")
_CONNECT_S = 1.0
#: Connections in a row that may end before the coordinator has said a line, as when it is killed.
_MOST_UNHEARD = 3


class Line:
    """The way to the coordinator; what cannot be said is lost, as any message may be.

    One thread connects and hears; others may say lines meanwhile, one at a time.

    Args:
        address: host and port of the coordinator.
        secret: of the job.
    """

    def __init__(self, address: tuple[str, int], secret: bytes) -> None:
        self._address = address
        self._secret = secret
        self._socket: socket.socket | None = None
        self._seal: Seal | None = None
        self._read = b""
        self._num_unheard = 0

    @property
    def host(self) -> str:
        """Of the coordinator."""
        return self._address[0]

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._socket is not None

    def connect(self) -> bool:
        """Connects where no connection stands; False where the coordinator is not there.

        Raises:
            TransportError: what is there is no coordinator of this version.
        """
        if self._socket is not None:
            return True
        try:
            made = socket.create_connection(self._address, _CONNECT_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own = new_nonce()
            made.sendall(greeting(own) + b"\n")
            self._socket, self._read = made, b""
            theirs = nonce_of(self._next(_CONNECT_S) or b"")
        except OSError as error:
            _log.debug("no coordinator at %s: %s", self._address, error)
            self.end()
            return False
        except TransportError:
            self.end()
            raise
        self._seal = Seal(self._secret, (theirs, own), is_coordinator=False)
        return True

    def say(self, line: str) -> None:
        """Sends a line where a connection stands."""
        to, seal = self._socket, self._seal
        if to is None or seal is None:
            return
        try:
            to.sendall(seal.close(line))
        except OSError as error:
            _log.debug("the coordinator does not hear: %s", error)
            self.end()

    def hear(self, seconds: float) -> str | None:
        """The next line, or None when none has come in time or the connection has ended.

        Raises:
            TransportError: a line does not carry the job's code.
        """
        if self._seal is None:
            return None
        try:
            line = self._next(seconds)
            if line is None:
                return None
            said = self._seal.open(line)
            self._num_unheard = 0
            return said
        except OSError as error:
            _log.debug("the connection to the coordinator has ended: %s", error)
            self.end()
            self._count_unheard()
            return None
        except TransportError:
            self.end()
            raise

    def _count_unheard(self) -> None:
        self._num_unheard += 1
        if self._num_unheard > _MOST_UNHEARD:
            raise TransportError(
                f"elastic: the coordinator at {self._address[0]}:{self._address[1]} ends every "
                "connection without a word\n"
                "  expected it to answer lines with the code of its secret\n"
                "  nothing was changed by this process\n"
                "  give it the secret of this job's coordinator, and the same version of dynatrain",
                retryable=False,
            )

    def end(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
        self._socket = self._seal = None

    def _next(self, seconds: float) -> bytes | None:
        """The next line as it came, None when none has come in time; OSError at the end."""
        came_from = self._socket
        if came_from is None:
            raise ConnectionError("ended by this side")
        while b"\n" not in self._read:
            if not select.select([came_from], [], [], seconds)[0]:
                return None
            came = came_from.recv(1 << 16)
            if not came:
                raise ConnectionError("closed by the coordinator")
            if len(self._read) > MAX_LINE_BYTES:
                raise ConnectionError("a line is too long")
            self._read += came
        line, _, self._read = self._read.partition(b"\n")
        return line
