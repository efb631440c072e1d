"""The control group: what is exchanged arrives whole, whatever its size."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from dynatrain import LayoutError, TransportError, words
from dynatrain._errors import of_family
from dynatrain.generation.control import Control, Trouble, holders, in_words, listing, raise_alike
from dynatrain.generation.members import Members
from sessions import TIMEOUT_S
from worker_pool import WorkerPool

#: Around the size up to which one exchange is enough, and far above it.
SIZES = (0, 1, 1900, 2000, 2010, 2020, 2030, 2040, 2041, 2100, 70_000)


def gather_sizes(rank, world_size, sizes):
    from dynatrain.generation.control import Control
    from dynatrain.generation.members import Members

    control = Control(Members.of_job(), timedelta(seconds=30), "a test")
    wrong = []
    for size in sizes:
        for small_rank in range(world_size):
            value = bytes([rank + 1]) * (1 if rank == small_rank else size)
            expected = [
                bytes([peer + 1]) * (1 if peer == small_rank else size)
                for peer in range(world_size)
            ]
            if control.gather(value, "a test") != expected:
                wrong.append((size, small_rank))
    return wrong


# Small and large values take different ways, and ranks need not bring values of one size.
def test_gathered_values_arrive_whole_whatever_their_sizes(pool: WorkerPool):
    assert pool.run(gather_sizes, SIZES, world_size=3) == [[], [], []]


def publish_some(rank, world_size):
    from dynatrain.generation.control import Control, holders, listing
    from dynatrain.generation.members import Members

    control = Control(Members.of_job(), timedelta(seconds=30), "a test")
    parts = {"blob": b"" if rank == 2 else b"shared" * 1000}
    published = control.publish(
        parts, control.agree("a test", None, listing(parts), holders), "a test"
    )
    return [(item.blob, item.ranks) for item in published["blob"]]


# A blob travels once, so every rank must know whom it speaks for.
def test_equal_blobs_are_published_once_for_all_their_ranks(pool: WorkerPool):
    for published in pool.run(publish_some, world_size=4):
        assert sorted(published) == [(b"", [2]), (b"shared" * 1000, [0, 1, 3])]


# Every rank reads who holds what of every option of every group: a list of ranks for each would be
# most of what a switch of a large job says.
@pytest.mark.parametrize("ranks", [range(1024), range(3, 1024, 8)], ids=["all", "replicas"])
def test_who_holds_a_blob_is_told_in_few_bytes_however_many_ranks_do(ranks):
    others = [listing({}) for _ in range(1024)]
    for rank in ranks:
        others[rank] = listing({"blob": b"shared"})

    held_by = holders(others)

    assert [list(each) for each in held_by.values()] == [list(ranks)]
    assert len(words.encode(held_by)) < 100


def test_ranks_that_are_no_range_are_all_named():
    shared = listing({"blob": b"shared"})

    (found,) = holders([shared, shared, listing({}), shared]).values()

    assert list(found) == [0, 1, 3]


# Every rank reads the answer: one that lists nothing for each rank would be waste.
def test_ranks_that_only_say_how_it_went_are_answered_with_nothing():
    control = Control(Members.of_ranks("alone", 0, 1, HashStore()), timedelta(seconds=1), "a test")

    assert control.agree("a test", None, "well") is None
    assert control.gather("well", "a test") == ["well"]


def leave_in_the_middle(rank, world_size, how):
    from dynatrain.generation.control import Control, holders, listing
    from dynatrain.generation.members import Members

    members = Members.of_job()
    control, heard = Control(members, timedelta(seconds=TIMEOUT_S), "a test"), members.store_of("x")
    parts = {"blob": bytes([rank]) * 100}
    held_by = control.agree("a test", None, listing(parts), holders)

    def fail(*_):
        raise MemoryError("no room")

    if rank == 1:
        setattr(control._tree, how, fail)
    work = {
        "exchange": lambda: control.agree("a test", None, rank),
        "share": lambda: control.publish(parts, held_by, "a test"),
    }
    try:
        work[how]()
    except (MemoryError, TransportError) as error:
        heard.add("heard", 1)
        while heard.add("heard", 0) < world_size:  # a script may hold an error for long
            time.sleep(0.01)
        return type(error).__name__, control.lost
    return None


# Who leaves an exchange keeps its connections: the others would wait for it to the deadline, and a
# message of the next exchange would meet what they expect of this one.
@pytest.mark.parametrize("how", ["exchange", "share"])
def test_rank_that_leaves_an_exchange_in_the_middle_is_heard_of(pool: WorkerPool, how):
    results = pool.run(leave_in_the_middle, how, world_size=3, timeout_s=60)

    assert results == [(kind, True) for kind in ("TransportError", "MemoryError", "TransportError")]


GLOO = {
    "[/a/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete": (
        "a rank did not answer within 3 s"
    ),
    "[/a/pair.cc:545] Read error [10.0.0.7]:10653: Connection reset by peer. This is": (
        "the rank at 10.0.0.7:10653 has closed the connection"
    ),
    "[/a/pair.cc:9] nobody has seen this": "[/a/pair.cc:9] nobody has seen this",
}


# What is not known must be told as it came, not be lost.
@pytest.mark.parametrize("said", GLOO)
def test_what_gloo_says_is_told_in_the_library_s_words(said):
    assert in_words(RuntimeError(said), 3.0) == GLOO[said]


# Of four ranks each said that nothing was switched, and the error that told of them once more.
def test_error_of_other_ranks_says_once_what_remains():
    error = of_family(KeyError("a mistake"), "build")
    assert str(error).count("nothing was switched") == 1
    with pytest.raises(LayoutError) as nested:
        raise_alike("build", None, dict.fromkeys(range(2), Trouble.of(error)))

    with pytest.raises(LayoutError) as raised:
        raise_alike("the call", None, {1: Trouble.of(nested.value), 2: Trouble.of(error)})
    text = str(raised.value)
    assert text.count("nothing was switched") == text.count("intact") == 1
    assert text.count("mend what the output of rank") == 2  # one for both of the nested error


# The traceback that rank 0 was told to read was on another rank's screen.
def test_error_of_another_rank_says_whose_traceback_is_meant():
    error = LayoutError("session: build raised\n  the traceback above this error says where")

    with pytest.raises(LayoutError, match="the traceback of rank 1 says where") as raised:
        raise_alike("build", None, {1: Trouble.of(error)})

    assert "above this error" not in str(raised.value)
    with pytest.raises(LayoutError, match="the traceback above this error says where"):
        raise_alike("build", error, {1: Trouble.of(error)})
