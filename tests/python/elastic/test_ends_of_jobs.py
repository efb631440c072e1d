"""The end of a script's steps: with the last checkpoint, and with groups to gather a model by."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from driven_members import driven, voting
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.boundaries import Boundaries
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.snapshots import Snapshots


class LastCopies:
    """Snapshots whose last checkpoint is on its way until somebody is lost, or it is there."""

    def __init__(self, part):
        self._part = part
        self.ended = []

    def at_end(self, version, is_over):
        self.ended.append((version, self._part.is_resting, is_over()))

    def at_boundary(self, version):
        """No copy is due."""

    def halt(self):
        """Nothing is under way."""


# All who were left said that the job has finished, with its last checkpoint missing.
def test_a_death_while_the_last_checkpoint_is_written_does_not_finish_the_job():
    driver, session, part = driven(voting(), Asked("stop", why=("", "a member is lost")))
    part.asked.pop(0)
    driver._snapshots = LastCopies(part)
    session.is_whole, session.previous = True, []

    assert not driver.finish()
    assert driver._snapshots.ended == [(3, True, True)]
    assert "finished" not in part.told

    part.asked = [Asked("train")]  # nothing was lost of the state
    assert driver.may_train()
    part.asked = []
    part.next = lambda: Asked("end", why=("finished", ""))
    assert driver.finish()
    assert part.told[-1] == "finished"


# Their groups are the script's still, to gather a model by; who is in a step is not to hang there.
def test_the_end_of_a_job_ends_the_groups_of_those_alone_that_are_in_a_step():
    driver, session, part = driven(voting())
    driver.interrupt(Asked("end", why=("finished", "")))
    assert len(session.aborted) == 1

    part.next = lambda: Asked("end", why=("finished", ""))
    part.asked = []
    assert driver.finish()
    driver.interrupt(Asked("end", why=("finished", "")))
    assert len(session.aborted) == 1


# With a margin of two steps the one behind the last was due, and nothing was written there.
@pytest.mark.parametrize(
    ("due", "at", "last", "found"),
    [(36, 23, 24, 24), (36, 23, 23, 36), (24, 20, 24, 24), (36, 24, 24, 36), (36, 23, -1, 36)],
)
def test_a_checkpoint_that_is_due_at_the_end_of_the_script_is_written_there(due, at, last, found):
    assert Cadence(None, 12).not_beyond(due, at, last, tried=12) == found


def test_what_is_on_disk_already_is_not_written_again_at_the_end():
    assert Cadence(5, 12).not_beyond(30, 25, 26, tried=25) == 30


# The script would stand behind its last step for ever.
def test_a_thread_of_snapshots_that_has_ended_is_not_waited_for():
    made, boundaries = object.__new__(Snapshots), Boundaries(timeout_s=30.0)
    boundaries.size, boundaries._due = 8, 24
    assert boundaries.wanted_at(24) == "copy"  # and nobody takes it
    made._cadence = Cadence(None, 12, "a folder")
    made._rounds = SimpleNamespace(boundaries=boundaries, is_alive=lambda: False)
    ended = threading.Thread(target=made.at_end, args=(24, lambda: False), daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
