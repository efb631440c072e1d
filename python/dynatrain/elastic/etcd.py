"""etcd v3 as a ledger needs it: calls of its JSON gateway, at one member after another.

Of the gateway's numbers only zero and false are left out; those of 64 bits are strings.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynatrain._errors import LayoutError, TransportError
from dynatrain.elastic.addresses import addresses_of, text_of
from dynatrain.elastic.deadlines import OfficeDeadlines

if TYPE_CHECKING:
    import urllib3

SCHEME = "etcd://"
_JOB = re.compile(r"[A-Za-z0-9._-]{1,200}")
#: Answers that another member of etcd, or the same one a little later, may not give.
_PASSING = {408, 429}
#: Of a login that has ended, by its time or with a restart of etcd.
_NOT_LOGGED_IN = 401
#: What it says, with a status of many meanings, of a login before a change of users and roles.
_OLD_LOGIN = b"revision of auth store is old"


@dataclass(frozen=True)
class Certificates:
    """Files for TLS to etcd; all empty without it.

    Attributes:
        ca: of the authority that has signed etcd's own certificate.
        cert: shown to etcd, where it wants one.
        key: of ``cert``.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True)
class Login:
    """A user of etcd, where it knows users.

    Attributes:
        user: its name.
        password: not shown by ``repr``.
    """

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Place:
    """Where a job's ledger is.

    Attributes:
        members: of etcd, ``host:port``.
        job: what it is called there.
    """

    members: tuple[str, ...]
    job: str


def place_of(text: str) -> Place:
    """The place that ``etcd://host:port,host:port/job`` names.

    Raises:
        LayoutError: it names none.
    """
    members, _, job = text.removeprefix(SCHEME).partition("/")
    try:
        if not _JOB.fullmatch(job):
            raise ValueError(f"{job!r} is no name of a job")
        return Place(tuple(text_of(each) for each in addresses_of(members)), job)
    except ValueError as error:
        raise LayoutError(
            f"elastic: cannot use the ledger {text!r}: {error}\n"
            "  expected etcd://host:port,host:port/job, the job of letters, digits, '.', '_', '-'\n"
            "  nothing was started\n  give --ledger an address of etcd and a name for the job"
        ) from None


def login_of(user: str, password_file: str) -> Login | None:
    """Who logs in to etcd, with the password in a file; None without a user.

    Raises:
        TransportError: the file cannot be read.
    """
    if not user:
        return None
    try:
        return Login(user, Path(password_file).read_text().rstrip("\r\n"))
    except (OSError, ValueError) as error:
        raise TransportError(
            f"elastic: the password of etcd's user {user} cannot be read: {error}\n"
            "  expected a file of text with nothing but the password\n"
            "  nothing was started\n  see to --etcd-password-file",
            retryable=False,
        ) from error


class Etcd:
    """One cluster of etcd.

    Args:
        members: ``host:port`` of some or all of them.
        certificates: for TLS.
        deadlines: of requests.
        login: where etcd knows users; done before the first request, and again when it has ended.

    Raises:
        TransportError: urllib3 is not installed, or a file of ``certificates`` cannot be read.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        certificates: Certificates,
        deadlines: OfficeDeadlines,
        login: Login | None = None,
    ) -> None:
        scheme = "https" if certificates.ca else "http"
        self._urls = [f"{scheme}://{member}/v3/" for member in members]
        self._pool = _pool(certificates)
        self._deadlines = deadlines
        self._login = login
        self._token = ""
        self._at = 0

    def call(self, what: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What etcd answers.

        Raises:
            TransportError: no member answers within the deadline of a write, or they refuse.
        """
        from urllib3.exceptions import HTTPError

        until, num_tried, why = now_s() + self._deadlines.write, 0, "no time was left"
        while (left := until - now_s()) > 0:
            url = self._urls[self._at]
            try:
                answer = self._answer(url, what, asked, until)
                said = answer.json()
                if not isinstance(said, dict):
                    raise ValueError("this is no answer of etcd")
                if answer.status == 200:
                    return said
                why = f"{url}: {said.get('error', said)}"
                if answer.status < 500 and answer.status not in _PASSING:
                    raise _refused(why)
            except (HTTPError, OSError, ValueError) as error:
                why = f"{url}: {error}"
            num_tried += 1
            self._at = (self._at + 1) % len(self._urls)
            if num_tried % len(self._urls) == 0:
                time.sleep(min(self._deadlines.request / 4, left))
        raise TransportError(
            f"elastic: etcd does not answer: {why}\n"
            f"  expected an answer within {self._deadlines.write:g} s, as most of its members "
            f"must be there, of {', '.join(self._urls)}\n"
            "  nothing was told to any member that is not in the ledger; training goes on\n"
            "  see to etcd's members, to --ledger and to the certificates",
            retryable=True,
        )

    def _answer(
        self, url: str, what: str, asked: dict[str, Any], until: float
    ) -> urllib3.BaseHTTPResponse:
        """What one member answers, at most one login included."""
        if self._login is None:
            return self._request(url + what, asked, until)
        if self._token:
            answer = self._request(url + what, asked, until, self._token)
            if answer.status != _NOT_LOGGED_IN and _OLD_LOGIN not in answer.data:
                return answer
        who = {"name": self._login.user, "password": self._login.password}
        answer = self._request(url + "auth/authenticate", who, until)
        if answer.status != 200:
            return answer
        self._token = str(dict(answer.json()).get("token", ""))
        return self._request(url + what, asked, until, self._token)

    def _request(
        self, url: str, asked: dict[str, Any], until: float, token: str = ""
    ) -> urllib3.BaseHTTPResponse:
        timeout = max(1e-3, min(self._deadlines.request, until - now_s()))
        headers = {"Authorization": token} if token else {}
        return self._pool.request("POST", url, json=asked, timeout=timeout, headers=headers)


def now_s() -> float:
    """A clock that goes on while this process is stopped, and while its machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def packed(value: str) -> str:
    """Text as the gateway takes it."""
    return base64.b64encode(value.encode()).decode()


def unpacked(value: str) -> str:
    """Text as the gateway gives it."""
    return base64.b64decode(value).decode()


def _pool(certificates: Certificates) -> urllib3.PoolManager:
    try:
        import urllib3
    except ImportError as error:
        raise TransportError(
            f"elastic: a ledger in etcd needs the package urllib3: {error}\n"
            "  expected it to be installed where a coordinator runs\n"
            "  nothing was started\n  pip install 'dynatrain[etcd]'",
            retryable=False,
        ) from error
    if not certificates.ca:
        return urllib3.PoolManager(retries=False)
    return urllib3.PoolManager(
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=certificates.ca,
        cert_file=certificates.cert or None,
        key_file=certificates.key or None,
    )


def _refused(why: str) -> TransportError:
    return TransportError(
        f"elastic: etcd refuses: {why}\n"
        "  expected it to take the requests of its version 3.4 or later\n"
        "  nothing was told to any member that is not in the ledger\n"
        "  see to etcd's log and to its room; where it knows users, to --etcd-user and its roles",
        retryable=False,
    )
