"""A signal between a rank's vote and its new world: it goes with the others, then hears of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from dynatrain import InternalError, TransportError
from dynatrain.interruptions import signals_held_off
from sessions import start


def vote_late(session, seconds):
    """The second meeting of a switch is its vote."""
    meet, moments = session._part.generation.meeting.meet, []

    def late(*brought, **told):
        moments.append(brought)
        if len(moments) == 2:
            time.sleep(seconds)
        return meet(*brought, **told)

    session._part.generation.meeting.meet = late


def interrupt_in_the_vote(session, number):
    """Sends a signal while this rank waits for the others' votes."""
    meet, moments = session._part.generation.meeting.meet, []

    def interrupted(*brought, **told):
        moments.append(brought)
        if len(moments) == 2:
            threading.Timer(0.7, os.kill, (os.getpid(), number)).start()
        return meet(*brought, **told)

    session._part.generation.meeting.meet = interrupted


def interrupt_after_the_last_exchange(session, number):
    """Sends a signal when all have heard that the state has arrived, before this rank votes."""
    control = session._part.engine.control
    agree = control.agree

    def interrupted(phase, *brought):
        answer = agree(phase, *brought)
        if phase == "moving the state":
            os.kill(os.getpid(), number)
            time.sleep(0.05)  # the handler runs here
        return answer

    control.agree = interrupted


def leave(number, frame):
    raise SystemExit("of the script's handler")


class Follows:
    """A kept object that knows its world, as a loader does."""

    def on_world(self, world):
        self.place = world.coordinate("dp_shard"), world.size("dp_shard")


def switch_under_signals(rank, world_size, number, interrupted, interrupt):
    follows = Follows()
    session = start("dp=4", timeout_s=20, keep={"follows": follows})
    streams = []
    continued = session._part.adapter.continue_streams
    session._part.adapter.continue_streams = lambda *args: streams.append(1) or continued(*args)
    former = signal.signal(signal.SIGTERM, leave)
    if rank == interrupted:
        interrupt(session, number)
    if rank == 3 - interrupted:
        vote_late(session, 1.5)
    told = None
    try:
        session.switch("dp=2,tp=2")
    except (KeyboardInterrupt, SystemExit) as error:
        told = type(error).__name__
    finally:
        signal.signal(signal.SIGTERM, former)
    # Who caught it trains on, in the world of the others.
    place = session.world.coordinate("dp_shard"), session.world.size("dp_shard")
    whole = follows.place == place and streams == [1]
    return told, whole, str(session.layout), session.fingerprint()


# Of four ranks one stayed in dp=4 and three trained on in dp=2,tp=2: nobody was told. Before the
# vote, the others waited there for the deadline.
@pytest.mark.parametrize("interrupt", [interrupt_in_the_vote, interrupt_after_the_last_exchange])
@pytest.mark.parametrize("interrupted", [0, 3])
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit")]
)
def test_a_rank_that_is_interrupted_in_the_vote_goes_with_the_others(
    pool, number, raised, interrupted, interrupt
):
    answers = pool.run(switch_under_signals, number, interrupted, interrupt, timeout_s=90)

    assert [told for told, *_ in answers] == [
        raised if rank == interrupted else None for rank in range(4)
    ]
    assert all(whole for _, whole, *_ in answers)
    assert {layout for _, _, layout, _ in answers} == {"dp=2,tp=2"}
    assert len({fingerprint for *_, fingerprint in answers}) == 1


def lose_the_store_in_the_vote(rank, world_size):
    session = start("dp=4", timeout_s=8)
    meet, moments = session._part.generation.meeting.meet, []

    def without_an_answer(*brought, **told):
        met = meet(*brought, **told)
        moments.append(met)
        if len(moments) == 2 and rank == 1:
            raise TransportError("session: the job's store does not answer", retryable=False)
        return met

    session._part.generation.meeting.meet = without_an_answer
    try:
        session.switch("dp=2,tp=2")
    except TransportError:
        refused = []
        for ask in (lambda: session.state, lambda: session.world, lambda: session.switch("tp=4")):
            with pytest.raises(InternalError, match="nobody knows whether") as error:
                ask()
            refused.append(str(error.value))
        return refused
    return str(session.layout)


# It got a raw error, and trained on in the world that the others had left.
def test_a_rank_that_cannot_learn_the_decision_may_not_train_on(pool):
    answers = pool.run(lose_the_store_in_the_vote, timeout_s=90)

    assert [answers[rank] for rank in (0, 2, 3)] == ["dp=2,tp=2"] * 3
    assert all("the job's store does not answer" in text for text in answers[1])
    assert all("starts from its last checkpoint" in text for text in answers[1])


class InterruptedThere:
    """A kept object during whose `on_world` a signal comes, or that ends its process."""

    def __init__(self, trouble):
        self.trouble, self.armed = trouble, False

    def on_world(self, world):
        if self.armed:
            self.trouble()


def come_twice():
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
        time.sleep(0.05)


def raise_in_handler(number, frame):
    raise ValueError("of the script's handler")


def follow_in_trouble(rank, world_size, trouble):
    first, second = InterruptedThere(trouble), Follows()
    session = start("dp=4", timeout_s=20, keep={"a": first, "b": second})
    first.armed = rank == 1
    reports, told = [], None
    session.on_switch(reports.append)
    former = signal.signal(signal.SIGTERM, raise_in_handler)
    try:
        session.switch("dp=2,tp=2")
    except (KeyboardInterrupt, SystemExit, ValueError) as error:
        told = type(error).__name__
    finally:
        signal.signal(signal.SIGTERM, former)
    first.armed = False
    place = session.world.coordinate("dp_shard"), session.world.size("dp_shard")
    return told, second.place == place, len(reports), session.switch("dp=4").epoch


# The script trained on with a loader that still cut its batches by the former world.
@pytest.mark.parametrize(
    ("trouble", "raised"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGINT), "KeyboardInterrupt"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "ValueError"),
        (come_twice, "KeyboardInterrupt"),
        (sys.exit, "SystemExit"),
    ],
    ids=["SIGINT", "handler that raises an Exception", "two signals", "SystemExit"],
)
def test_kept_objects_behind_one_that_is_interrupted_follow_all_the_same(pool, trouble, raised):
    answers = pool.run(follow_in_trouble, trouble, timeout_s=90)

    assert answers == [(raised if rank == 1 else None, True, 1, 2) for rank in range(4)]


# A loop that waits on the descriptor would take one signal for two.
def test_a_signal_that_was_held_off_is_written_to_the_wakeup_descriptor_once():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    before = signal.set_wakeup_fd(writing)
    try:
        with signals_held_off():
            signal.raise_signal(signal.SIGUSR1)
        written = os.read(reading, 8)
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, former)
        os.close(reading)
        os.close(writing)

    assert written == bytes([signal.SIGUSR1])
