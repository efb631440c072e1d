"""Signals that come while a switch is decided wait until it is."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dynatrain.interruptions import signals_held_off


@pytest.fixture
def handled():
    """The signals that a handler of the script has seen."""
    seen = []
    former = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    for number in former:
        signal.signal(number, lambda number, _: seen.append(number))
    yield seen
    for number, handler in former.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


def test_handlers_run_in_their_order_when_the_body_has_ended(handled):
    with signals_held_off():
        send(signal.SIGUSR2)
        send(signal.SIGTERM)
        assert handled == []

    assert handled == [signal.SIGUSR2, signal.SIGTERM]
    send(signal.SIGTERM)
    assert handled[2:] == [signal.SIGTERM]


def test_ctrl_c_is_raised_when_the_body_has_ended():
    done = []

    def body():
        with signals_held_off():
            send(signal.SIGINT)
            done.append("body")

    with pytest.raises(KeyboardInterrupt):
        body()

    assert done == ["body"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_the_body_raises_is_not_lost(handled):
    def body():
        with signals_held_off():
            send(signal.SIGTERM)
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body"):
        body()

    assert handled == [signal.SIGTERM]


# A handler that is back already may raise while others are still to be put back.
def test_all_handlers_are_back_whatever_one_of_them_raises(handled):
    def raise_at_once(number, _):
        raise RuntimeError("of a handler")

    def body():
        with signals_held_off():
            send(signal.SIGUSR2)
            send(signal.SIGTERM)

    signal.signal(signal.SIGUSR2, raise_at_once)
    with pytest.raises(RuntimeError, match="of a handler"):
        body()

    assert handled == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGUSR2) is raise_at_once
    send(signal.SIGTERM)
    assert handled == [signal.SIGTERM, signal.SIGTERM]


# What ends the process, or is ignored, is the system's: only handlers of Python's may raise.
def test_signals_without_a_handler_are_left_alone():
    before = {n: signal.getsignal(n) for n in signal.valid_signals()}
    with signals_held_off():
        meanwhile = {n: signal.getsignal(n) for n in signal.valid_signals()}

    untouched = {n for n, handler in before.items() if not callable(handler)}
    assert {signal.SIGPIPE, signal.SIGHUP} <= untouched
    assert all(meanwhile[n] == before[n] for n in untouched)
    assert meanwhile[signal.SIGINT] is not before[signal.SIGINT]


def test_other_threads_than_the_main_one_hold_nothing_off():
    ran = []

    def work():
        with signals_held_off():
            ran.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert ran == [signal.default_int_handler]
