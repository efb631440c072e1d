"""The door of the library: what a public call runs under, and what may leave it.

Only errors of the library's family leave a call, so that ``except dynatrain.Error`` treats all
ranks alike. What the user's own callbacks raise after the vote goes past the door: the switch is
done then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.distributed import DistError

from dynatrain._errors import (
    REMAINS,
    Error,
    InternalError,
    LayoutError,
    LostStateError,
    ends_job,
    is_refused,
    of_family,
)
from dynatrain.given import described, kind, number, shown, text, whole
from dynatrain.layout import Layout, as_layout

#: What a switch is told of renamed tensors: FQNs of the target, by FQN of the source.
Names = Mapping[str, str]
#: What an error says remains, where nothing was there before: first what may be longer.
_NOTHING_BEFORE = re.compile(
    r"this rank has switched nothing and its state is intact; others may have, if it was their vote"
    rf"|the present world and state are intact|{REMAINS}"
)

#: Calls that plan on paper: where there is no session, nothing can be said of its state.
_VALUES_ON_PAPER = ("Batch", "Model", "Slot", "TensorSpec", "Topology")
_ON_PAPER = frozenset(
    (*_VALUES_ON_PAPER, "describe", "explain", "load_model", "model_of", "plan", "rank_layouts")
)


@contextmanager
def only_family(
    call: str, epoch: Callable[[], int] = lambda: 0, undecided: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Lets errors of the family pass and turns any other one into one of them.

    Where ``epoch()`` has gone on meanwhile, the vote is over and the switch is done: whatever then
    comes, also of the family, would say that nothing was moved, and is an InternalError. So is
    what comes where ``undecided()`` says why nobody knows whether it is.
    """
    before = epoch()
    try:
        yield
    except Exception as error:
        if (why := undecided()) and not (isinstance(error, Error) and ends_job(error)):
            raise _in_between(call, why, error) from error
        if epoch() != before and not isinstance(error, LostStateError):
            raise _after_the_vote(call, error) from error
        if isinstance(error, Error):
            raise
        if isinstance(error, DistError) or is_refused(error):
            raise of_family(error, call) from error
        raise InternalError(
            f"session: {call} met what it did not expect, {described(error)}\n"
            "  expected every trouble to be found where all ranks learn of it\n"
            "  session.layout says whether the switch was done; other ranks may have gone on\n"
            "  please report this as a bug, with the error above this one"
        ) from error


@contextmanager
def nothing_started() -> Iterator[None]:
    """Says of what is refused inside that nothing was started: there is no source state yet."""
    try:
        yield
    except Error as error:
        told = _NOTHING_BEFORE.sub("nothing was started", str(error))
        error.args = (told.replace(" and the source state is intact", ""), *error.args[1:])
        raise


@contextmanager
def taking_arguments_of_init(call: str) -> Iterator[None]:
    """Says of what is refused inside that ``call`` was given it, and not ``init``."""
    try:
        yield
    except Error as error:
        told = str(error).replace("session: init was given", f"session: {call} was given", 1)
        error.args = (told.replace("call init again", f"call {call} again", 1), *error.args[1:])
        raise


def _after_the_vote(call: str, error: Exception) -> InternalError:
    return InternalError(
        f"session: {call} met what it did not expect once the ranks had voted, "
        f"{described(error)}\n"
        "  expected that nothing fails then but callbacks and kept objects of the script\n"
        "  the switch is done on all ranks and cannot be undone; session.layout is the new one, "
        "but kept objects and random streams of this rank may not have followed\n"
        "  end the job and start it from its last checkpoint; if memory had not run out, please "
        "report this as a bug, with the error above this one"
    )


def _in_between(call: str, why: str, error: Exception) -> InternalError:
    return InternalError(
        f"session: {call} has failed between the vote and the new world: {why}; "
        f"{described(error)}\n"
        "  expected that nothing fails there but for want of memory\n"
        "  this rank may train in no world: others may be in the next one\n"
        "  end this process; a job that is not elastic starts from its last checkpoint"
    )


def _got(value: object) -> str:
    if value is None:
        return "None"
    is_plain = issubclass(type(value), int | float | str)  # isinstance asks the value itself
    return f"{shown(value) if is_plain else 'a value'} of type {kind(value)}"


def wrong_argument(
    call: str, name: str, value: object, expected: str, got: str | None = None
) -> LayoutError:
    """The refusal of an argument, before anything was done; ``got`` is what is wrong about it."""
    room, remains = "session", "nothing was changed; the present state, if there is one, is intact"
    if call in _ON_PAPER:
        room, remains = "plan", "nothing was planned"
    return LayoutError(
        f"{room}: {call} was given {name}={shown(value)}\n"
        f"  expected {expected}, got {got or _got(value)}\n"
        f"  {remains}\n"
        f"  call {call} again with another {name}"
    )


@contextmanager
def looking(call: str, name: str, value: object, expected: str) -> Iterator[None]:
    """Refuses an argument that raises when it is looked at, as one that is wrong."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise wrong_argument(call, name, value, expected) from error


def checked_layout(call: str, layout: Layout | str) -> Layout:
    """The layout that was asked for; raises LayoutError when it is none."""
    expected = 'a dynatrain.Layout or text like "dp=2,tp=2"'
    with looking(call, "layout", layout, expected):
        found = layout if isinstance(layout, Layout) else text(layout)
        if found is None:
            raise wrong_argument(call, "layout", layout, expected)
        return Layout.parse(str(as_layout(found)))  # of this class, and whole


def checked_names(call: str, names: Names | None) -> dict[str, str]:
    """The names as a dictionary; raises LayoutError when they are no map of strings."""
    if names is None:
        return {}
    expected = "a mapping of FQNs, strings to strings"
    found: dict[str, str] = {}
    for source, value in checked_items(call, "names", names, expected).items():
        target = text(value)
        if target is None:
            raise wrong_argument(call, "names", names, expected)
        found[source] = target
    return found


def checked_items(call: str, name: str, value: object, expected: str) -> dict[str, Any]:
    """The items of a mapping by strings; raises LayoutError when it is none."""
    found: dict[str, Any] = {}
    with looking(call, name, value, expected):
        if not isinstance(value, Mapping):
            raise wrong_argument(call, name, value, expected)
        for key, item in value.items():
            key_text = text(key)
            if key_text is None:
                raise wrong_argument(call, name, value, expected)
            found[key_text] = item
    return found


def checked_count(call: str, name: str, value: int) -> int:
    """A whole number that is not negative, whichever class of integer it comes in."""
    count = whole(value)
    if count is None or count < 0:
        raise wrong_argument(call, name, value, "a whole number, 0 or more")
    return count


def checked_seconds(call: str, name: str, value: float, most: float) -> float:
    """A number of seconds from 0 to ``most``."""
    seconds = number(value)
    if seconds is None or not 0 <= seconds <= most:  # neither holds of a NaN
        raise wrong_argument(call, name, value, f"seconds from 0 to {most:g}")
    return seconds


def checked_callable(call: str, name: str, value: object) -> None:
    """Raises LayoutError when ``value`` cannot be called."""
    if not callable(value):  # asks the class alone
        raise wrong_argument(call, name, value, "something that can be called")
