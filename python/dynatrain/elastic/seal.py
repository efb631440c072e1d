"""Lines between a member and the coordinator, each with an authentication code of its own.

A connection begins with one nonce of either side, in clear; the code of a line covers both, its
direction and its number, so that a line of another connection, one said twice or one of the other
side is refused. What is said is not hidden: the network is trusted with that.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from dynatrain._errors import TransportError

_GREETING = "dynatrain-membership 1"
_CODE_DIGITS = 64
#: What stands before a line of the protocol, of an operator, and of a script's policy.
MEMBER, OPERATOR, POLICY = "m ", "o ", "p "
#: Of a line with its code and its end; a message of the protocol is shorter.
MAX_LINE_BYTES = 1 << 16
#: What a code and an end of line add to a line.
SEALED_BYTES = _CODE_DIGITS + len(" \n")


def new_nonce() -> str:
    """What tells a connection from all others."""
    return secrets.token_hex(16)


def greeting(nonce: str) -> bytes:
    """The first line of either side, without the end of line."""
    return f"{_GREETING} {nonce}".encode()


def nonce_of(line: bytes) -> str:
    """The nonce of a greeting.

    Raises:
        TransportError: it is none, or one of another version.
    """
    said, _, nonce = line.decode(errors="replace").strip().rpartition(" ")
    if said != _GREETING or len(nonce) != 32 or not nonce.isalnum():
        raise TransportError(
            f"elastic: a peer began with {line[:80]!r}\n"
            f"  expected {_GREETING!r} and a nonce\n"
            "  the connection was closed; nothing else was changed\n"
            "  give it the coordinator's address, and run one version of dynatrain everywhere",
            retryable=False,
        )
    return nonce


class Seal:
    """Writes and reads the lines of one side of a connection.

    Args:
        secret: of the job.
        nonces: of the coordinator and of the member, in this order.
        is_coordinator: whose side it is.
    """

    def __init__(self, secret: bytes, nonces: tuple[str, str], *, is_coordinator: bool) -> None:
        self._secret = secret
        self._nonces = "/".join(nonces)
        self._is_coordinator = is_coordinator
        self._num_sealed = self._num_opened = 0

    def close(self, line: str) -> bytes:
        """The line with its code and an end of line."""
        code = self._code(line, self._num_sealed, from_coordinator=self._is_coordinator)
        self._num_sealed += 1
        return f"{code} {line}\n".encode()

    def open(self, sealed: bytes) -> str:
        """The line that was sealed.

        Raises:
            TransportError: its code is not that of the next line of the other side.
        """
        code, _, line = sealed.decode(errors="replace").rstrip("\n").partition(" ")
        wanted = self._code(line, self._num_opened, from_coordinator=not self._is_coordinator)
        if len(code) != _CODE_DIGITS or not hmac.compare_digest(code.encode(), wanted.encode()):
            raise TransportError(
                "elastic: a line does not carry the job's code\n"
                "  expected every line to be signed with the job's secret, in its order\n"
                "  the connection was closed; nothing else was changed\n"
                "  give all members and commands the secret of this job's coordinator",
                retryable=False,
            )
        self._num_opened += 1
        return line

    def _code(self, line: str, number: int, *, from_coordinator: bool) -> str:
        side = "coordinator" if from_coordinator else "member"
        covered = f"{self._nonces}/{side}/{number}/{line}".encode()
        return hmac.new(self._secret, covered, hashlib.sha256).hexdigest()
