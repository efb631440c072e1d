"""One rank is refused descriptors or threads: all hear which limit it met, and call again."""

from __future__ import annotations

import os
import resource
from functools import partial
from pathlib import Path

import pytest

from sessions import outcome, start


def no_descriptors():
    """Lets this process open nothing more; returns how to lift it."""
    lowest_free = os.dup(1)
    os.close(lowest_free)
    return limited(resource.RLIMIT_NOFILE, lowest_free)


def few_threads(num_mib):
    """Leaves so much address space for stacks; root is under no limit on the number of threads."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limited(resource.RLIMIT_AS, num_pages * resource.getpagesize() + (num_mib << 20))


def limited(kind, soft):
    former = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, former[1]))
    return lambda: resource.setrlimit(kind, former)


def call_under(rank, world_size, limit, when):
    session = None if when == "init" else start(timeout_s=6)
    if when == "reconnect":
        session._part.generation.release("the test wants it")
    lift = limit() if rank == 1 else lambda: None
    try:
        ended = outcome(start if session is None else lambda: session.switch("dp=2,tp=2"))
    finally:
        lift()
    session = session or start()
    return ended, session.switch("dp=2,tp=2").epoch


def check_all_hear(results, *words):
    for rank, ((kind, text), epoch) in enumerate(results):
        assert (kind, epoch) == ("DeviceError", 1)
        assert all(each in text for each in words)
        assert "enforce fail" not in text
        assert rank == 1 or "refused by 1 of the ranks\n  rank 1: " in text


# The rank got Gloo's text, or was ended by Gloo's listening thread, and the others waited for it.
@pytest.mark.parametrize("when", ["init", "switch", "reconnect"])
def test_a_rank_without_descriptors_is_named_with_its_limit_and_the_next_call_works(pool, when):
    results = pool.run(call_under, no_descriptors, when, timeout_s=60)

    check_all_hear(
        results, "refused a file descriptor", "(ulimit -n; hard limit ", "raise the limit"
    )


# A Gloo group takes three: one that had some and was refused the next one ended its process.
@pytest.mark.parametrize(
    ("num_mib", "when"), [(4, "switch"), (10, "switch"), (18, "switch"), (9, "reconnect")]
)
def test_a_rank_without_threads_is_named_with_its_limits_and_the_next_call_works(
    pool, num_mib, when
):
    results = pool.run(call_under, partial(few_threads, num_mib), when, timeout_s=60)

    check_all_hear(results, "refused a thread", "(ulimit -u)", "(pids.max)", "(ulimit -v)")
