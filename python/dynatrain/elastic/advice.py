"""The policy of a script: the layout that it wants for those who are there."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dynatrain._threads import started
from dynatrain.door import checked_layout
from dynatrain.elastic.json_text import value_of
from dynatrain.given import described
from dynatrain.layout import Layout

_log = logging.getLogger("dynatrain.elastic")
#: Of why something failed; the protocol takes little more.
_MOST_BYTES = 900
#: Of a member in the coordinator's status, what a policy is told as it is.
_TOLD = ("id", "host", "machine", "rank")


@dataclass(frozen=True)
class Attending:
    """One member that is there.

    Attributes:
        id: of this start of a process; no other one has it.
        host: name of its machine, or of its container.
        machine: the same for all members of one machine, whichever containers they are in.
        rank: in the present world, None where it has no place.
        is_leaving: it has asked to leave, or is drained; no place of the next world is for it.
    """

    id: int
    host: str
    machine: str
    rank: int | None
    is_leaving: bool


@dataclass(frozen=True)
class Roster:
    """Who is there when a world is to be chosen.

    Attributes:
        members: all that are alive.
        layout: of the present world, empty where there is none yet.
        layouts: that the coordinator was given, from the one that is wanted most.
    """

    members: tuple[Attending, ...]
    layout: str
    layouts: tuple[str, ...]

    @property
    def available(self) -> tuple[Attending, ...]:
        """Those who can be given a place."""
        return tuple(each for each in self.members if not each.is_leaving)


#: Says which layout is wanted for a roster, of as many ranks as are available at most; None to
#: wait until somebody comes or goes.
Policy = Callable[[Roster], Layout | str | None]


def written(question: str, status: Mapping[str, Any], layouts: Sequence[Layout]) -> str:
    """A question with its roster, as the coordinator publishes it."""
    members = [
        Attending(**{key: each[key] for key in _TOLD}, is_leaving=each["role"] == "leaving")
        for each in status["members"]
    ]
    facts = {
        "members": [asdict(each) for each in members],
        "layout": status["world"]["layout"],
        "layouts": [str(layout) for layout in layouts],
    }
    return json.dumps({"question": question, **facts})


def read(published: bytes | str) -> tuple[str, Roster]:
    """What :func:`written` wrote."""
    found = value_of(published)
    members = tuple(Attending(**each) for each in found["members"])
    return found["question"], Roster(members, found["layout"], tuple(found["layouts"]))


@dataclass(frozen=True)
class Answer:
    """What a policy has said.

    Attributes:
        question: that it answers; empty tells that there is a policy at all.
        layout: as text, empty to wait.
        why: where it failed, what went wrong.
    """

    question: str
    layout: str = ""
    why: str = ""

    def to_line(self) -> str:
        """As it travels."""
        return json.dumps(asdict(self))

    @staticmethod
    def of_line(line: str) -> Answer:
        """Reads what :meth:`to_line` wrote; ValueError where it is something else."""
        found = value_of(line)
        if not isinstance(found, dict) or set(found) != {"question", "layout", "why"}:
            raise ValueError("this is no answer of a policy")
        return Answer(**{name: str(value) for name, value in found.items()})

    def taken(self) -> tuple[str, int, str]:
        """The layout, its number of ranks and why there is none, as the protocol has them."""
        size, why = 0, self.why
        try:
            size = Layout.parse(self.layout).world_size if self.layout and not why else 0
        except ValueError as error:
            why = str(error)
        return ("", 0, clipped(why)) if why else (self.layout, size, "")


class Adviser:
    """Asks a policy in a thread of its own, one question after another.

    A question that comes while the policy still thinks about another waits, the newest alone.

    Args:
        policy: of the script.
        look: reads what is published: a question, and who is there.
        say: tells the coordinator.
    """

    def __init__(
        self,
        policy: Policy,
        look: Callable[[], tuple[str, Roster]],
        say: Callable[[Answer], None],
    ) -> None:
        self._policy = policy
        self._look = look
        self._say = say
        self._lock = threading.Lock()
        self._question: str | None = None
        self._is_busy = False

    def asked(self, question: str) -> None:
        """Has the policy be asked; returns at once."""
        with self._lock:
            self._question = question
            if self._is_busy:
                return
            self._is_busy = True
        if started("dynatrain policy", self._run) is None:
            with self._lock:
                self._is_busy = False
            self._say(Answer(question, why="there is no thread for it"))

    def _run(self) -> None:
        while True:
            with self._lock:
                question, self._question = self._question, None
                self._is_busy = question is not None
            if question is None:
                return
            self._answer(question)

    def _answer(self, question: str) -> None:
        try:
            published, roster = self._look()
            if published != question:
                return  # a newer one, which comes by itself
            wanted = self._policy(roster)
            layout = "" if wanted is None else str(checked_layout("policy", wanted))
            answer = Answer(question, layout)
        except BaseException as error:  # noqa: BLE001 - the thread's last; the job goes on without
            _log.warning("the policy of the script failed: %s", described(error), exc_info=True)
            answer = Answer(question, why=clipped(described(error)))
        try:
            self._say(answer)
        except Exception as error:  # noqa: BLE001 - the next question must find the policy idle
            _log.warning("what the policy says could not be told: %s", described(error))


def clipped(text: str) -> str:
    """As much of why something failed as the protocol takes, in UTF-8, which has no surrogates."""
    return text.encode(errors="backslashreplace")[:_MOST_BYTES].decode(errors="ignore")
