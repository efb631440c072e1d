"""What the training thread and the preparing one leave of an attempt, whichever of them is last."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from dynatrain import TransportError
from dynatrain.elastic import attempts, driver
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.attempts import Place
from dynatrain.elastic.driver import Driver
from dynatrain.elastic.ready import Ready
from dynatrain.elastic.slices import Slices
from dynatrain.generation.connections import Connections
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.switch.clock import Clock
from dynatrain.switch.preparations import Preparations

SECONDS = timedelta(seconds=20)
SEATS = Seats(Layout(dp=2), ("1", "2"))


def serving(slices, asked):
    """Serves one piece once it is asked for."""
    assert asked.wait(SECONDS.total_seconds())
    slices.serve()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as made:
        yield made


def test_a_piece_runs_in_the_thread_that_serves(threads):
    asked = threading.Event()
    slices = Slices(asked.set, SECONDS)
    piece = threads.submit(slices.run, threading.current_thread)
    serving(slices, asked)

    assert piece.result() is threading.current_thread()


# The preparation fails of it; training did not ask for it and goes on.
def test_what_a_piece_raises_is_the_preparing_threads(threads):
    asked = threading.Event()
    slices = Slices(asked.set, SECONDS)
    piece = threads.submit(slices.run, lambda: [].pop())
    serving(slices, asked)

    with pytest.raises(IndexError):
        piece.result()


# Ctrl-C in the middle of a piece is meant for the script, and the other thread must not wait on.
def test_an_interruption_of_a_piece_ends_training_and_the_preparation(threads):
    def interrupted():
        raise KeyboardInterrupt

    asked = threading.Event()
    slices = Slices(asked.set, SECONDS)
    piece = threads.submit(slices.run, interrupted)
    with pytest.raises(KeyboardInterrupt):
        serving(slices, asked)

    with pytest.raises(TransportError, match="KeyboardInterrupt"):
        piece.result()


# It would build a target that nobody goes to, in the middle of another attempt.
def test_no_piece_of_an_attempt_runs_once_it_is_given_up(threads):
    asked, ran = threading.Event(), []
    slices = Slices(asked.set, SECONDS)
    piece = threads.submit(slices.run, lambda: ran.append("before"))
    assert asked.wait(SECONDS.total_seconds())
    slices.end("a member is lost")
    slices.serve()

    with pytest.raises(TransportError, match="a member is lost"):
        piece.result()
    with pytest.raises(TransportError, match="a member is lost"):
        slices.run(lambda: ran.append("after"))
    assert ran == []


# A step that hangs, or one that is longer than the deadline: the others do not wait for it.
def test_a_piece_that_is_not_served_in_time_never_runs():
    slices, ran = Slices(lambda: None, timedelta(milliseconds=1)), []
    with pytest.raises(TransportError, match="a step has not ended"):
        slices.run(lambda: ran.append("late"))
    slices.serve()

    assert ran == []


# A build that takes minutes was told as a step that did: its user looked at the wrong code.
def test_a_piece_that_does_not_end_is_no_step_that_does_not(threads):
    begun, goes_on = threading.Event(), threading.Event()

    def serve():
        threads.submit(slices.serve)
        assert begun.wait(SECONDS.total_seconds())

    def work():
        begun.set()
        assert goes_on.wait(SECONDS.total_seconds())

    slices = Slices(serve, timedelta(milliseconds=1))
    with pytest.raises(TransportError, match=r"has begun, and has not ended within 0\.001 s"):
        slices.run(work)
    goes_on.set()


class Closable:
    """In place of a generation."""

    def __init__(self):
        self.events = []

    def abort(self, why):
        self.events.append("aborted")

    def close(self, *, in_store):
        self.events.append("closed")

    def close_beside(self):
        self.events.append("closed beside training")


class Preparing:
    """In place of a session, which has one piece for the training thread."""

    def __init__(self):
        self.began, self.go_on = threading.Event(), threading.Event()

    def vote_by(self, vote):
        self.vote = vote

    def prepare_ahead(self, generation, source, layout, run):
        run(self.began.set)
        assert self.go_on.wait(SECONDS.total_seconds())
        return "the target"


class Given:
    """In place of a part: what is asked of the training thread, in order."""

    id = 1

    def __init__(self, *asked):
        self.asked = [*asked]

    def ask(self, asked):
        self.asked.append(asked)

    def next(self):
        return self.asked.pop(0)

    @property
    def waiting(self):
        return [*self.asked]

    def moved(self, attempt):
        """Nobody hears the vote."""


@pytest.fixture
def attempt():
    """A driver with an attempt, its session and its generation."""
    session, generation = Preparing(), Closable()
    driver = Driver(session, lambda members: generation, SECONDS, wishes=None)
    driver.part = Given()
    ask = driver.part.ask
    slices = Slices(lambda: ask(Asked("slice", 7)), SECONDS)
    facts = {"source": SEATS, "target": Layout(tp=2), "epoch": 0, "world": 2, "version": None}
    ready = Ready(generation=generation, slices=slices, **facts)
    driver._attempts.stand(7, ready, Connections(SECONDS))
    return SimpleNamespace(driver=driver, session=session, generation=generation, ready=ready)


def prepare(attempt):
    attempt.driver._prepare_ahead(7, attempt.ready, (SEATS, 0))


def serve_one(attempt):
    while not attempt.driver.part.asked:
        threading.Event().wait(0.005)
    attempt.driver._do(attempt.driver.part.next())


def test_a_target_is_kept_for_the_switch(attempt, threads):
    preparing = threads.submit(prepare, attempt)
    serve_one(attempt)
    attempt.session.go_on.set()
    preparing.result()

    assert attempt.ready.standing == ["the target"]
    assert attempt.generation.events == []


#: Two pods of one machine.
PLACES = {1: Place("pod-a", "one"), 2: Place("pod-b", "one")}


def described(cold_because):
    """A change from dp=2 to dp=1, as it is published."""
    source = {"epoch": 1, "layout": "dp=2", "members": [1, 2], "version": 0}
    target = {"epoch": 2, "layout": "dp=1", "members": [1], "version": 0}
    facts = {"is_recovery": False, "holdings": [], "former": [], "cold_because": cold_because}
    return {"attempt": 8, "source": source, "target": target, **facts}, PLACES


# No two boundaries fit together where the tensors of members differ at each step: the coordinator
# says to all when they are not to try it any more, and they say why to whoever listens.
@pytest.mark.parametrize("cold_because", ["", "member 2 cannot prepare: other tensors\n  so"])
def test_a_change_is_prepared_ahead_unless_all_are_told_otherwise(
    attempt, monkeypatch, cold_because
):
    monkeypatch.setattr(driver, "read_published", lambda published: described(cold_because))
    monkeypatch.setattr(attempts, "PrefixStore", lambda *of: None)
    attempt.driver.part.store = lambda: {"attempt/8": b""}
    attempt.session.prepare_ahead = lambda *given: "the target"
    met, told = [], []
    attempt.driver._make = lambda members: met.append(members) or attempt.generation
    attempt.driver.events.call(told.append)
    attempt.driver.prepare(8)
    attempt.driver.events.tell()

    assert [each.host for each in met[0].each] == ["one", "one"]  # one machine, as the bytes go
    assert attempt.driver._attempts.find(8).standing == ([] if cold_because else ["the target"])
    text = ", in the stop: it could not be prepared beside training ({})"
    why = text.format("member 2 cannot prepare: other tensors") if cold_because else ""
    assert [each.text for each in told] == [f"attempt 8: dp=2 -> dp=1{why}"]


# Were its groups closed under it, the thread would fail of something that nobody has done wrong.
def test_a_generation_is_closed_by_the_thread_that_still_uses_it(attempt, threads):
    preparing = threads.submit(prepare, attempt)
    serve_one(attempt)
    assert attempt.session.began.wait(SECONDS.total_seconds())
    attempt.driver._do(Asked("discard", 7))
    before = [*attempt.generation.events]
    attempt.session.go_on.set()
    preparing.result()

    assert before == []
    assert attempt.generation.events == ["closed"]


def test_a_generation_is_closed_at_once_where_its_thread_has_ended(attempt, threads):
    preparing = threads.submit(prepare, attempt)
    serve_one(attempt)
    attempt.session.go_on.set()
    preparing.result()
    attempt.driver._do(Asked("discard", 7))

    assert attempt.generation.events == ["closed beside training"]


# The coordinator gives it up while the thread waits for a step to end, which may take long.
def test_a_thread_that_waits_for_a_step_ends_when_its_attempt_is_given_up(attempt, threads):
    preparing = threads.submit(prepare, attempt)
    while not attempt.driver.part.asked:
        threading.Event().wait(0.005)
    attempt.driver.interrupt(Asked("discard", 7))
    with pytest.raises(TransportError, match="the attempt was given up"):
        preparing.result()
    attempt.driver._do(attempt.driver.part.next())  # the piece, which is none any more

    assert not attempt.session.began.is_set()


# It was asked for by a thread that had not heard yet that its attempt was over.
def test_a_late_piece_is_no_answer_to_a_vote(attempt):
    attempt.driver.part = Given(Asked("slice", 6), Asked("install", 7))
    attempt.session.vote.cast("tp=2", 0)

    assert attempt.driver.part.asked == []


class Target:
    """In place of one that stands."""

    spans = ()


# It was held until the new one stood, by a rank whose own tensors had not changed: two targets
# beside the source, over the budget that the plan had been held against.
def test_a_target_that_is_prepared_anew_is_let_go_of_first():
    targets, held = Preparations(None, None, None, None), Target()
    former = weakref.ref(held)
    targets.adopt(held)
    del held
    was_held = []

    def prepare(*wanted):
        was_held.append(former() is not None)
        return Target()

    targets.prepare = prepare
    targets.taken(Layout(), {}, SimpleNamespace(ready=False), Clock(0))

    assert was_held == [False]


# The coordinator was told "TimeoutError: ", and the operator knew neither what nor how long.
def test_a_recovery_that_the_training_thread_does_not_prepare_says_so(attempt):
    attempt.driver._timeout = timedelta(milliseconds=20)
    ready = replace(attempt.ready, version=3)
    with pytest.raises(TransportError, match=r"tp=2 was given up.* 3 steps for 0.02 s"):
        attempt.driver._await_held(7, ready, "rank 1")

    assert attempt.driver.part.asked == [Asked("hold", 7)]
