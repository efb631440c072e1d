"""What operators and scripts ask of a coordinator: checked first, and what follows in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from dynatrain._errors import LayoutError
from dynatrain.given import shown
from dynatrain.layout import Layout


@dataclass(frozen=True)
class Asked:
    """A question, against what the job is at the moment; nothing is changed by it.

    Attributes:
        layouts: of the coordinator, from the one that is wanted most.
        status: of the coordinator's machine.
    """

    layouts: Sequence[Layout]
    status: Mapping[str, Any]

    def layout(self, text: str) -> str:
        """The layout of a wish, as the protocol has it; empty takes the wish back.

        Raises:
            LayoutError: it is no layout, none of the coordinator's, or the job has finished.
        """
        self._check_runs("the layout is not asked for")
        layout = str(Layout.parse(text)) if text else ""
        if why := self.why_unlisted(layout):
            wish = self.status["wish"]
            stays = f"the job still goes to {wish}" if wish else "the job stays as it is"
            raise LayoutError(
                f"elastic: cannot wish for {layout}: {why}\n"
                "  expected one of that list, from which a wish is taken, whatever a script's "
                "policy says\n"
                f"  nothing was changed: {stays}\n"
                "  ask for one of the list, or start the coordinator again with one more --layout; "
                "its ledger keeps the job"
            )
        return layout

    def why_unlisted(self, layout: str) -> str:
        """Why a layout cannot be wished for; empty where it is in the list, or none."""
        listed = [str(each) for each in self.layouts]
        if not layout or layout in listed:
            return ""
        return f"it is none of the coordinator's layouts: {'; '.join(listed)}"

    def after_wish(self, layout: str) -> str:
        """What follows from a wish that is taken."""
        if not layout:
            return "the wish was taken back: the list of layouts decides"
        needed, there = Layout.parse(layout).world_size, self._num_staying
        if needed > there:
            return (
                f"{layout} needs {needed} members, {_are_there(there)}: the wish is kept, in place "
                "of any before it, and is followed when they are; until then the list decides"
            )
        if self.status["world"]["layout"] == layout:
            return f"the job is in {layout} already; the wish is kept"
        return f"{layout} is wished for: it is prepared beside training, and switched to then"

    def drained(self, *, rank: object = None, member: object = None) -> int:
        """The member that is to leave, one of those that are there.

        Args:
            rank: of it in the present world.
            member: its id, where it is not asked for by rank; one that has no place in the world
                has no other name.

        Raises:
            LayoutError: there is no such rank or member, or no more, or the job has finished.
        """
        self._check_runs("nobody is drained")
        return self._at_rank(rank) if member is None else self._known(member)

    def _known(self, member: object) -> int:
        there = sorted(each["id"] for each in self.status["members"])
        if not _is_number(member) or member not in there:
            raise LayoutError(
                f"elastic: there is no member {shown(member)} to drain, or it is lost already\n"
                f"  expected one of those that are there: {shown(there)}\n"
                "  nothing was changed\n  `dynatrain status` tells who is there"
            )
        return member

    def _at_rank(self, rank: object) -> int:
        members = self.status["world"]["members"]
        if not _is_number(rank) or not 0 <= rank < len(members):
            raise LayoutError(
                f"elastic: there is no rank {shown(rank)} to drain\n"
                f"  expected one of the {len(members)} ranks of the present world\n"
                "  nothing was changed\n  `dynatrain status` tells who is there"
            )
        member = int(members[rank])
        if member not in {each["id"] for each in self.status["members"]}:
            raise LayoutError(
                f"elastic: rank {rank} cannot be drained: its member {member} is lost already\n"
                "  expected a rank whose member is there\n"
                "  nothing was changed: the world is halted, and goes on without it\n"
                "  `dynatrain status` tells who is there"
            )
        return member

    def after_drain(self, member: int) -> str:
        """What follows when a member is to leave; of the status behind that."""
        each = next((each for each in self.status["members"] if each["id"] == member), None)
        if each is None:
            return f"member {member} had no place in the world: it leaves, and its process ends"
        who = f"member {member} ({each['host']})"
        if each["rank"] is not None:
            who = f"rank {each['rank']} (member {member}, {each['host']})"
        smallest = min(self.layouts, key=lambda layout: layout.world_size)
        left = self._num_staying
        if left < smallest.world_size:
            return (
                f"{who} is to leave, and trains on until others come: without it "
                f"{_are_there(left)}, and {smallest}, the smallest layout of the list, needs "
                f"{smallest.world_size}"
            )
        return f"{who} leaves with the next change, and its process ends"

    @property
    def _num_staying(self) -> int:
        return sum(each["role"] != "leaving" for each in self.status["members"])

    def _check_runs(self, what: str) -> None:
        if self.status["phase"] == "finished":
            raise LayoutError(
                f"elastic: the job has finished: {what}\n"
                "  expected a job that trains\n  nothing was changed\n"
                "  end this coordinator; another job needs another ledger"
            )


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_there(num_members: int) -> str:
    return "1 is there" if num_members == 1 else f"{num_members} are there"
