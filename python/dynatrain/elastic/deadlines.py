"""How long a coordinator keeps its office without a word, and how long others wait for the next.

All follow from the job's ``timeout_s``, as those of the protocol do (membership.md, "Deadlines").
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from dynatrain import _native
from dynatrain._errors import LayoutError

#: etcd counts leases in whole seconds, and grants none that is shorter.
_LEAST_LEASE_S = 2


@dataclass(frozen=True)
class OfficeDeadlines:
    """In seconds, for a job whose ledger is in etcd.

    Attributes:
        heartbeat: between two words of a member, each of which is answered.
        request: one request to one member of etcd.
        write: one record, tried at one member of etcd after another.
        connect: to one address of a coordinator, and as long again for its greeting.
        silent: a member that hears nothing this long looks for another coordinator.
        lost_after: a coordinator takes a member that it has not heard this long for lost.
        renew: between two renewals of the lease.
        lease: without a renewal, the office is free after this.
        poll: between two looks of a standby at the office.
        decision: a member that has voted waits this long for whoever is in office.
    """

    heartbeat: float
    request: float
    write: float
    connect: float
    silent: float
    lost_after: float
    renew: float
    lease: float
    poll: float
    decision: float


#: The sum of the first, each as often as it stands there, must be less than the last; and why.
_RULES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("request", "request"), "write", "one member of etcd may be silent"),
    (("heartbeat", "heartbeat", "heartbeat"), "silent", "two answers may go astray"),
    (("write", "heartbeat"), "silent", "a coordinator that writes a record is not silent"),
    (
        ("connect", "connect", "heartbeat"),
        "lost_after",
        "who tries an address that does not answer is heard in time by a coordinator that does",
    ),
    (("silent",), "lost_after", "who turns to another coordinator is heard before it is lost"),
    (("renew", "write", "renew"), "lease", "one renewal may fail"),
    (("poll",), "lease", "a standby looks at the office before it can be free again"),
    (
        ("lease", "poll", "lost_after"),
        "decision",
        "who has voted outwaits a coordinator that is lost, and hears the next one",
    ),
)


def office_deadlines(timeout_s: float) -> OfficeDeadlines:
    """All of them, from the one number of a job.

    Raises:
        LayoutError: ``timeout_s`` cannot be used.
    """
    of_protocol = _native.membership_deadlines(int(timeout_s * 1000))
    lease_s = max(_LEAST_LEASE_S, math.ceil(timeout_s / 12))
    found = OfficeDeadlines(
        heartbeat=of_protocol["heartbeat_ms"] / 1000,
        request=timeout_s / 60,
        write=timeout_s / 24,
        connect=timeout_s / 40,
        silent=timeout_s / 15,
        lost_after=of_protocol["lost_after_ms"] / 1000,
        renew=lease_s / 5,
        lease=lease_s,
        poll=min(timeout_s / 120, lease_s / 8),
        decision=of_protocol["decision_ms"] / 1000,
    )
    check_office_deadlines(found)
    return found


def now_ms() -> int:
    """The time as machines of the protocol have it: milliseconds of a clock that goes on."""
    return time.monotonic_ns() // 1_000_000


def check_office_deadlines(deadlines: OfficeDeadlines) -> None:
    """Raises LayoutError that names those in the wrong order, and why it matters."""
    for firsts, last, why in _RULES:
        if sum(getattr(deadlines, each) for each in firsts) >= getattr(deadlines, last):
            raise LayoutError(
                f"elastic: cannot use the deadlines {deadlines}\n"
                f"  {' + '.join(firsts)} must be less than {last}: {why}\n"
                "  nothing was started\n  give the coordinator and all members another timeout_s"
            )
