"""What a coordinator decides, one line of its log for each event."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from dynatrain import _native
from dynatrain.elastic.attempts import Holding, Place, host_in, summary_of

_log = logging.getLogger("dynatrain.elastic")
#: Members of a world that a line names.
_MOST_NAMED = 16
#: In a message that a process is not taken; what follows is the reason.
_REFUSES = " refused why="
#: Why nothing is under way where all is well.
_AT_REST = "the present world is the one that is wanted"


class Chronicle:
    """Logs what is put on disk and published, and why changes wait when that is another reason.

    Args:
        records: of the ledger so far: who is there, and where.
    """

    def __init__(self, records: Iterable[str]) -> None:
        self.places: dict[int, Place] = {}  #: of all members that have joined
        self._there: set[int] = set()
        self._ranks: dict[int, int] = {}  #: of the present world
        self._waits = ""
        for record in records:
            self._note(*_native.membership_record(record))

    def persisted(self, record: str) -> None:
        """A record is on disk."""
        kind, *facts = _native.membership_record(record)
        self._note(kind, *facts)
        if line := self._line(kind, facts):
            _log.info("%s", line)

    def published(self, attempt: int, description: str) -> None:
        """An attempt begins."""
        read = _native.membership_description(description)
        words = summary_of(attempt, read, self.places)
        if read["is_recovery"]:
            holdings = read["holdings"]
            live, copies = map(holdings.count, (Holding.LIVE, Holding.SNAPSHOT))
            words += f"; from {live} live states and {copies} members with copies or checkpoints"
        _log.info("%s", words)

    def refused(self, why: str) -> None:
        """An operator's question is refused."""
        _log.info("refused: %s", _first(why))

    def told(self, member: int, line: str) -> None:
        """A member is sent a message."""
        if _REFUSES in line:
            why, is_over = line.partition(_REFUSES)[2].split(" over=")
            level = logging.INFO if int(is_over) else logging.WARNING
            _log.log(level, "member %d is not taken: %s", member, unquote(why))

    def waits(self, why: str) -> None:
        """Why nothing is under way; empty where something is."""
        if why in ("", self._waits):
            return
        self._waits = why
        if why != _AT_REST:
            _log.info("changes wait: %s", why)

    def _note(self, kind: str, *facts: Any) -> None:
        if kind == "joined":
            self.places[facts[0]] = Place(*facts[1:])
            self._there.add(facts[0])
        elif kind in ("released", "lost"):
            self._there.discard(facts[0])
        elif kind == "committed":
            members = facts[1]["members"]
            self._ranks = {member: rank for rank, member in enumerate(members)}
        if kind in ("committed", "halted"):
            self._waits = ""

    def _line(self, kind: str, facts: Sequence[Any]) -> str:
        if kind in ("joined", "leaves", "released", "lost"):
            what = {
                "joined": f"has joined, {len(self._there)} are there",
                "leaves": "is to leave",
                "released": f"is released, {len(self._there)} are there",
                "lost": f"is lost, {len(self._there)} are there: {facts[-1]}",
            }
            return f"{self._name(facts[0])} {what[kind]}"
        if kind == "wished":
            return f"{facts[0]} is wished for" if facts[0] else "the wish is taken back"
        if kind == "aborted":
            return f"attempt {facts[0]} was given up: {_first(facts[1])}"
        if kind == "committed":
            return self._of_world(facts[1])
        if kind == "halted":
            return f"world {facts[0]} is halted: {facts[1]}"
        return "the job has finished" if kind == "finished" else ""

    def _of_world(self, world: dict[str, Any]) -> str:
        ids = world["members"]
        named = ", ".join(f"{each} on {host_in(self.places, each)}" for each in ids[:_MOST_NAMED])
        more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
        return (
            f"world {world['epoch']} trains: {world['layout']} from step {world['version']}, "
            f"by rank members {named}{more}"
        )

    def _name(self, member: int) -> str:
        place = f"rank {self._ranks[member]}, " if member in self._ranks else ""
        return f"member {member} ({place}{host_in(self.places, member)})"


def _first(why: str) -> str:
    return why.partition("\n")[0]
