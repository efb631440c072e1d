"""A training thread that hangs in a member that has ended: the process goes, and says where."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest

from dynatrain.elastic import stuck as module
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.ends import LOST
from dynatrain.elastic.stuck import Stuck, why_lost

PATIENCE_S = 30
#: A log whose handler takes its time, as one that goes over a network.
LAST_WORDS = """
import logging, sys, threading, time
from dynatrain.elastic.stuck import Stuck

class Slow(logging.FileHandler):
    def emit(self, record):
        time.sleep(0.3)
        super().emit(record)

logging.getLogger().addHandler(Slow(sys.argv[1]))
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
stuck = Stuck(0.2)
stuck.watch(thread)
while True:
    stuck.look("it was not heard")
    time.sleep(0.02)
"""


def come_to_rest():
    """Lets the thread get from its last word into the call behind it."""
    time.sleep(0.1)


class Standing:
    """A thread that stands in one call, until it is told to go on to the next one."""

    def __init__(self):
        self._go_on, self._is_there = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._stand, daemon=True)
        self._thread.start()
        self._is_there.acquire()
        come_to_rest()

    def _stand(self):
        self._is_there.release()
        self._go_on.acquire()
        self._is_there.release()
        self._go_on.acquire()

    @property
    def thread(self):
        return self._thread

    def go_on(self):
        self._go_on.release()
        self._is_there.acquire()
        come_to_rest()

    def end(self):
        self._go_on.release(2)
        self._thread.join()


@pytest.fixture
def thread():
    made = Standing()
    yield made
    made.end()


@pytest.fixture
def watch(thread):
    """Looks at a second of a clock, and says whether the process has ended by then."""
    now, ended = [0.0], []
    stuck = Stuck(PATIENCE_S, lambda: now[0], lambda: ended.append(True))
    stuck.watch(thread.thread)

    def look(second, why="it was not heard"):
        now[0] = second
        stuck.look(why)
        return bool(ended)

    return look


def stand_still(watch, first, last):
    """Whether it has ended in any of these seconds; the thread needs some to come to rest."""
    return [watch(second) for second in range(first, last)][-1]


def test_who_stands_for_too_long_ends_and_says_where(watch, caplog):
    assert not stand_still(watch, 0, PATIENCE_S)
    with caplog.at_level(logging.CRITICAL):
        assert stand_still(watch, PATIENCE_S, PATIENCE_S + 3)

    assert "it was not heard" in caplog.text
    assert "in _stand" in caplog.text


# A long step is no hang.
def test_who_goes_on_is_left_alone(watch, thread):
    assert not stand_still(watch, 0, PATIENCE_S)
    thread.go_on()
    assert not stand_still(watch, PATIENCE_S, 2 * PATIENCE_S - 3)


def test_who_is_in_its_job_may_stand(watch):
    assert not stand_still(watch, 0, PATIENCE_S)
    assert not watch(PATIENCE_S, why="")
    assert not stand_still(watch, PATIENCE_S + 1, 2 * PATIENCE_S)


def test_a_thread_that_has_gone_ends_nothing(watch, thread):
    assert not watch(0)
    thread.end()
    assert not watch(10 * PATIENCE_S)


# Nothing told of it: the coordinator heard all members, and the job stood.
def test_a_step_that_does_not_end_is_told_with_its_place(thread, caplog, monkeypatch):
    monkeypatch.setattr(module, "started", lambda _, work, *given: work(*given))
    now = [0.0]
    stuck = Stuck(PATIENCE_S, lambda: now[0])
    stuck.watch(thread.thread)
    for second, is_told in ((PATIENCE_S, 0), (2 * PATIENCE_S, 1), (2 * PATIENCE_S + 1, 1)):
        now[0] = second
        if second == PATIENCE_S:
            stuck.begins()
        stuck.look("")
        assert caplog.text.count("a step has not ended") == is_told
    assert "in _stand" in caplog.text

    stuck.watch(thread.thread)  # it has come to an end
    now[0] = 9 * PATIENCE_S
    stuck.look("")
    assert caplog.text.count("a step has not ended") == 1


# SIGSTOP and SIGCONT: it was ended at once, and had stood nowhere.
def test_time_in_which_the_whole_process_was_stopped_does_not_count(watch):
    assert not stand_still(watch, 0, 3)
    assert not watch(10 * PATIENCE_S)
    assert stand_still(watch, 10 * PATIENCE_S, 11 * PATIENCE_S + 3)


# The process ended while they were written: every second one was lost.
def test_last_words_are_written_before_the_process_ends(tmp_path):
    words = tmp_path / "words"
    found = subprocess.run([sys.executable, "-c", LAST_WORDS, words], timeout=60, check=False)
    assert found.returncode == 1
    assert "this member has ended" in words.read_text()


# One long backward pass is seen in the same line all the time.
def test_who_works_in_one_line_is_left_alone():
    now, ended, is_over = [0.0], [], threading.Event()

    def work():
        while not is_over.is_set():
            sum(range(20_000))

    thread = threading.Thread(target=work)
    thread.start()
    stuck = Stuck(PATIENCE_S, lambda: now[0], lambda: ended.append(True))
    stuck.watch(thread)
    try:
        for second in range(0, 2 * PATIENCE_S + 1, PATIENCE_S // 5):
            now[0] = second
            stuck.look("it was not heard")
            begun = time.thread_time_ns()
            while time.thread_time_ns() - begun < 2e8:  # this thread and that one take turns
                pass
    finally:
        is_over.set()
        thread.join()
    assert not ended


def test_only_an_end_by_an_error_is_watched():
    ends = [Asked("end", why=(kind, "so it is")) for kind in ("released", "finished", LOST)]

    assert why_lost([Asked("train")]) == ""
    assert why_lost(ends[:2]) == ""
    assert why_lost(ends) == "so it is"
