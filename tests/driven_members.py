"""A member's driver with what a test says in place of its machine, its session and its groups."""

from __future__ import annotations

from datetime import timedelta

from dynatrain.elastic.asked import Asked
from dynatrain.elastic.driver import Driver
from dynatrain.elastic.ready import Ready
from dynatrain.elastic.slices import Slices
from dynatrain.elastic.wishes import Wishes
from dynatrain.generation.connections import Connections
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout

LAYOUT, WAIT = Layout(dp=2), timedelta(seconds=5)


class FakePart:
    """A machine that asks for what a test says, one thing after another.

    Attributes:
        told: what the driver has told it.
    """

    id, lost_after_s = 7, 0.0

    def __init__(self, *asked):
        self.asked, self.told = list(asked), []

    def next(self):
        return self.asked.pop(0)

    def at_boundary(self, version):
        return self.next()

    def is_to_stop(self, seconds):
        return bool(self.asked) and self.asked[0].kind in ("stop", "end")

    def moved(self, attempt):
        self.told.append("yes")

    def broke(self, attempt, why, *, is_refusal):
        self.told.append(f"{'refused' if is_refusal else 'no'}: {why}")

    def step_broke(self):
        self.told.append("step broke")

    def stopped(self, version, earlier, *, is_clean):
        self.told.append("stopped")

    def end(self):
        """There is no thread."""

    @property
    def waiting(self):
        return [*self.asked]

    def rests(self):
        self.is_resting = True

    def finished(self):
        self.told.append("finished")


class FakeSession:
    """A session whose switch does what a test says.

    Attributes:
        went_back: how often it went on with a former generation.
        aborted: why its groups were ended, each time.
    """

    completed, steps_lost, previous, is_whole = 3, 0, (), True

    def __init__(self, go):
        self.went_back, self.aborted, self._go = 0, [], go

    def abort(self, why):
        self.aborted.append(why)

    def vote_by(self, vote):
        self.vote = vote

    def enter(self, generation):
        """The calls that follow are made among others."""

    def stand_by(self, *place):
        """It has no place yet."""

    def adopt(self, standing):
        self.adopted = standing

    def go(self, layout):
        return self._go(self.vote.cast)

    def back_to(self, generation):
        self.went_back += 1

    def note_groups(self):
        """The script has made none."""


class FakeGeneration:
    """Groups that may be ended while training goes on, and then are not to hold it up.

    Attributes:
        is_closed: whether they are.
        aborted: why what waits in them was ended, each time.
    """

    def __init__(self):
        self.is_closed, self.aborted = False, []

    def abort(self, why):
        self.aborted.append(why)

    def close_beside(self):
        self.is_closed = True


def driven(go, *asked):
    """A driver that stands before an attempt, its session and its part."""
    session, part = FakeSession(go), FakePart(Asked("switch", 1, 3), *asked)
    driver = Driver(session, None, WAIT, Wishes(lambda question: {}))
    driver.part, driver._present = part, FakeGeneration()
    source = Seats(LAYOUT, ("7", "8"))
    slices = Slices(lambda: None, WAIT)  # nothing was prepared ahead
    facts = {"source": source, "target": LAYOUT, "epoch": 0, "world": 2, "version": None}
    ready = Ready(generation=FakeGeneration(), slices=slices, **facts)
    driver._attempts.stand(1, ready, Connections(WAIT))
    return driver, session, part


def voting(error=None):
    """A switch that votes, and raises afterwards."""

    def go(vote):
        vote("dp=2", 0)
        if error is not None:
            raise error
        return "a report"

    return go


def raising(error):
    def go(vote):
        raise error

    return go
