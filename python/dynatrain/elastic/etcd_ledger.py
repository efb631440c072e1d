"""A ledger in etcd, and the office of the one coordinator that may write it.

The office is a key that lives as long as its holder's lease. A record is written by a transaction
that compares the revision with which the office was taken: whoever has lost it writes nothing,
whatever it believes about the time.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from dynatrain._errors import LayoutError, TransportError
from dynatrain._threads import Beside
from dynatrain.elastic.deadlines import OfficeDeadlines
from dynatrain.elastic.etcd import Etcd, now_s, packed, unpacked

_log = logging.getLogger("dynatrain.elastic")
_RECORDS_A_PAGE = 1000


class EtcdLedger:
    """Records of one job in etcd; they can be read and added to once the office is taken.

    Args:
        etcd: that holds them.
        job: what the job is called there.
        name: of this coordinator, for those that wait for its office.
        deadlines: of this job.
    """

    def __init__(self, etcd: Etcd, job: str, name: str, deadlines: OfficeDeadlines) -> None:
        self._etcd = etcd
        self._office = f"dynatrain/{job}/office"
        self._records = f"dynatrain/{job}/records/"
        self._name = name
        self._deadlines = deadlines
        self._lease = ""
        self._revision = ""  #: of etcd, when the office was taken
        self._until_s = 0.0  #: by this machine's clock, which starts before etcd's does
        self._num = 0
        self._ended = threading.Event()
        self._why_lost = ""

    # ---- the office ----------------------------------------------------------------------------

    def take_office(self) -> str:
        """Takes the office where it is free; returns who has it, empty when it is this one.

        Raises:
            TransportError: etcd does not answer or refuses.
            LayoutError: etcd's leases are too long for this job's deadlines.
        """
        holder = self._holder()
        if holder:
            return holder
        asked_s = now_s()
        granted = self._etcd.call("lease/grant", {"TTL": str(int(self._deadlines.lease))})
        lease, lease_s = str(granted["ID"]), int(granted["TTL"])
        self._check_lease(lease_s)
        taken = self._etcd.call(
            "kv/txn",
            {
                "compare": [_created(self._office, "0")],
                "success": [_put(self._office, self._name, lease)],
            },
        )
        if not taken.get("succeeded"):
            self._etcd.call("lease/revoke", {"ID": lease})
            return self._holder() or "another coordinator"
        self._lease, self._revision = lease, taken["header"]["revision"]
        self._until_s = asked_s + lease_s
        Beside("dynatrain lease", self._renew).start()
        return ""

    def check(self) -> None:
        """Raises TransportError where the lease is over, as far as this process can know."""
        if now_s() >= self._until_s and not self._why_lost:
            self._why_lost = "its lease was not renewed in time"
        if self._why_lost:
            raise self._out_of_office(self._why_lost)

    def close(self) -> None:
        """Gives the office up at once, where etcd can be told."""
        self._ended.set()
        if not self._lease or self._why_lost:
            return
        self._why_lost = "it has given its office up"
        try:
            self._etcd.call("lease/revoke", {"ID": self._lease})
        except TransportError as error:
            _log.warning("the office becomes free with the end of its lease: %s", error)

    # ---- the records ---------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """All records, in the order in which they were appended.

        Raises:
            TransportError: etcd does not answer, or has not all of them.
        """
        found: list[str] = []
        asked: dict[str, Any] = {
            "limit": str(_RECORDS_A_PAGE),
            "range_end": packed(_end(self._records)),
        }
        while True:
            asked["key"] = packed(self._record(len(found) + 1))
            page = self._etcd.call("kv/range", asked)
            for each in page.get("kvs", []):
                found.append(unpacked(each["value"]))
                if unpacked(each["key"]) != self._record(len(found)):
                    raise self._incomplete(len(found), unpacked(each["key"]))
            if not page.get("more"):
                self._num = len(found)
                return found

    def append(self, line: str) -> None:
        """Puts a record into etcd, as long as the office is this coordinator's.

        Raises:
            TransportError: it is not any more, or etcd does not answer.
        """
        self.check()
        # Sent again, where an answer is lost, it writes the same record at the same place.
        answer = self._etcd.call(
            "kv/txn",
            {
                "compare": [_created(self._office, self._revision)],
                "success": [_put(self._record(self._num + 1), line)],
            },
        )
        if not answer.get("succeeded"):
            self._why_lost = "another one has it, or it is free"
            raise self._out_of_office(self._why_lost)
        self._num += 1

    # ---- within --------------------------------------------------------------------------------

    def _holder(self) -> str:
        found = _first(self._etcd.call("kv/range", {"key": packed(self._office)}))
        return unpacked(found["value"]) if found else ""

    def _record(self, number: int) -> str:
        return f"{self._records}{number:016d}"

    def _renew(self) -> None:
        """Renews the lease until it is over or given up; runs in a thread of its own."""
        while not self._ended.wait(self._deadlines.renew) and now_s() < self._until_s:
            asked_s = now_s()
            try:
                answer = self._etcd.call("lease/keepalive", {"ID": self._lease})
            except TransportError as error:
                _log.warning("the lease of this coordinator could not be renewed: %s", error)
                continue
            if "result" not in answer:  # the gateway answers a stream, and tells errors in it, too
                _log.warning("the lease of this coordinator could not be renewed: %s", answer)
                continue
            lease_s = int(answer["result"].get("TTL", 0))
            if lease_s == 0:
                self._why_lost = self._why_lost or "its lease has ended"
                return
            self._until_s = asked_s + lease_s

    def _check_lease(self, lease_s: int) -> None:
        """A lease may be granted that is longer than asked for: etcd has a least one."""
        others_s = self._deadlines.poll + self._deadlines.lost_after
        if lease_s + others_s >= self._deadlines.decision:
            raise LayoutError(
                f"elastic: etcd grants no lease below {lease_s} s\n"
                f"  expected less than {self._deadlines.decision - others_s:g} s: a member that "
                "has voted outwaits a coordinator that is lost\n"
                "  nothing was started\n  give the job a longer --timeout-s, or etcd a shorter "
                "--election-timeout"
            )

    def _out_of_office(self, why: str) -> TransportError:
        return TransportError(
            f"elastic: this coordinator is not in office any more: {why}\n"
            f"  expected its lease on {self._office} to be renewed within "
            f"{self._deadlines.lease:g} s\n"
            "  it has told nothing that is not in the ledger, and wrote nothing since; a standby "
            "goes on from there, and training goes on\n"
            "  start it again: it is a standby then",
            retryable=False,
        )

    def _incomplete(self, number: int, key: str) -> TransportError:
        return TransportError(
            f"elastic: the ledger in etcd is not one of this job: record {number} is not there, "
            f"or another one\n  expected {self._record(number)}, got {key}\n"
            "  nothing was changed\n  give the job a name of its own in --ledger",
            retryable=False,
        )


def _created(key: str, revision: str) -> dict[str, str]:
    """Holds where ``key`` was made at ``revision``; at 0, where there is none."""
    compared = {"key": packed(key), "target": "CREATE", "result": "EQUAL"}
    return {**compared, "create_revision": revision}


def _put(key: str, value: str, lease: str = "0") -> dict[str, Any]:
    return {"request_put": {"key": packed(key), "value": packed(value), "lease": lease}}


def _first(answer: dict[str, Any]) -> dict[str, Any]:
    """The first key of an answer, empty where it has none."""
    found: list[dict[str, Any]] = answer.get("kvs", [])
    return found[0] if found else {}


def _end(prefix: str) -> str:
    """What is behind all keys that begin with ``prefix``."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
