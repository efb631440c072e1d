"""The c10d transport over real Gloo processes: the claims of the C++ conformance suite, by name.

Where Gloo cannot keep one, the test says what holds instead.
"""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist

from c10d_messages import LATE_S, error_of, message, native, pattern, transport_of
from worker_pool import WorkerPool

# --- messages ------------------------------------------------------------------------------------


def send_sizes(rank, world_size, sizes, offset, timeout_s):
    transport = transport_of(rank, world_size, timeout_s)
    sent = [pattern(size + offset, seed) for seed, size in enumerate(sizes)]
    if rank == 0:
        sends = [message(1, tag, array[offset:]) for tag, array in enumerate(sent)]
        transport.submit_sends(sends, timeout_s).wait(timeout_s)
        return []
    received = [np.zeros_like(array) for array in sent]
    receives = [message(0, tag, array[offset:]) for tag, array in enumerate(received)]
    transport.submit_receives(receives, timeout_s).wait(timeout_s)
    return [
        bool((a[offset:] == b[offset:]).all()) and not a[:offset].any()
        for a, b in zip(received, sent, strict=True)
    ]


# The one thing a transport is for; the sizes are around the head, whose bytes travel apart, and the
# offset leaves buffers unaligned.
@pytest.mark.parametrize("offset", [0, 3])
def test_messages_arrive_bit_for_bit(pool: WorkerPool, offset: int):
    sizes = [0, 1, 7, 4095, 4096, 4097, 65536, (1 << 20) + 3, 9_000_001]

    assert pool.run(send_sizes, sizes, offset, LATE_S, world_size=2)[1] == [True] * len(sizes)


# Sizes in 32 bits wrap here, and a message is more than one piece.
@pytest.mark.long
def test_messages_above_two_gib_arrive_bit_for_bit(pool: WorkerPool):
    sizes = [(1 << 31) + 12345]

    assert pool.run(send_sizes, sizes, 0, 100.0, world_size=2, timeout_s=110)[1] == [True]


def send_in_opposite_order(rank, world_size, num_messages):
    transport = transport_of(rank, world_size)
    sent = [pattern(100 + i, i) for i in range(num_messages)]
    if rank == 0:
        sends = [message(1, i, array) for i, array in enumerate(sent)]
        return error_of(transport.submit_sends(sends, LATE_S))
    received = [np.zeros_like(array) for array in sent]
    receives = [message(0, i, array) for i, array in enumerate(received)]
    transport.submit_receives(receives[::-1], LATE_S).wait(LATE_S)
    return all((a == b).all() for a, b in zip(received, sent, strict=True))


# Ranks post a stage in orders of their own; what belongs together is said by peer and tag alone.
def test_tags_decide_which_messages_meet(pool: WorkerPool):
    assert pool.run(send_in_opposite_order, 1000, world_size=2) == [None, True]


def exchange_with_all(rank, world_size, sizes, num_rounds):
    transport = transport_of(rank, world_size)
    peers = [peer for peer in range(world_size) if peer != rank]
    wrong = 0
    for round_ in range(num_rounds):
        tags = range(round_ * len(sizes), (round_ + 1) * len(sizes))
        size_of = dict(zip(tags, sizes, strict=True))
        out = {(p, t): pattern(size_of[t], rank * 7 + p + t) for p in peers for t in tags}
        into = {key: np.zeros_like(array) for key, array in out.items()}
        receiving = transport.submit_receives([message(*k, a) for k, a in into.items()], LATE_S)
        sending = transport.submit_sends([message(*k, a) for k, a in out.items()], LATE_S)
        sending.wait(LATE_S)
        receiving.wait(LATE_S)
        for (peer, tag), array in into.items():
            wrong += not (array == pattern(array.nbytes, peer * 7 + rank + tag)).all()
    return wrong


# A stage posts everything before it waits for anything; a transport that made one post wait for
# another's peer would deadlock right here.
def test_all_pairs_meet_in_one_exchange(pool: WorkerPool):
    assert pool.run(exchange_with_all, [3000, 200_000, 10], 5, world_size=4) == [0] * 4


# --- tokens --------------------------------------------------------------------------------------


def second_before_first(rank, world_size):
    transport = transport_of(rank, world_size)
    first, second, answer = (np.zeros(8, dtype=np.uint8) for _ in range(3))
    if rank == 0:
        pending = transport.submit_receives([message(1, 1, first)], LATE_S)
        transport.submit_receives([message(1, 2, second)], LATE_S).wait(LATE_S)
        was_pending = not pending.done()
        transport.submit_sends([message(1, 3, answer)], LATE_S).wait(LATE_S)
        pending.wait(LATE_S)
        return was_pending and pending.done()
    transport.submit_sends([message(0, 2, second)], LATE_S).wait(LATE_S)
    transport.submit_receives([message(0, 3, answer)], LATE_S).wait(LATE_S)
    transport.submit_sends([message(0, 1, first)], LATE_S).wait(LATE_S)
    return True


# Two stages are in flight: the later one must be able to end while the earlier one waits.
def test_token_ends_while_an_earlier_one_waits(pool: WorkerPool):
    assert pool.run(second_before_first, world_size=2) == [True, True]


def wait_in_a_thread(rank, world_size):
    transport = transport_of(rank, world_size)
    buffer, go = np.zeros(8, dtype=np.uint8), np.ones(1, dtype=np.uint8)
    if rank == 1:
        transport.submit_receives([message(0, 1, go)], LATE_S).wait(LATE_S)
        transport.submit_sends([message(0, 2, buffer)], LATE_S).wait(LATE_S)
        return None
    token = transport.submit_receives([message(1, 2, buffer)], LATE_S)
    entered, failures = threading.Event(), []

    def wait():
        entered.set()
        failures.append(error_of(token))

    waiter = threading.Thread(target=wait)
    waiter.start()
    entered.wait()
    transport.submit_sends([message(1, 1, go)], LATE_S)  # the peer waits for it
    waiter.join()
    return failures[0]


# A wait that kept the GIL would stop the thread whose message the peer is waiting for.
def test_wait_lets_other_python_threads_run(pool: WorkerPool):
    assert pool.run(wait_in_a_thread, world_size=2) == [None, None]


def send_after_a_token(rank, world_size):
    transport = transport_of(rank, world_size)
    request, reply = pattern(50_000, 1), np.zeros(50_000, dtype=np.uint8)
    if rank == 0:
        transport.submit_sends([message(1, 1, request)], LATE_S)
        transport.submit_receives([message(1, 2, reply)], LATE_S).wait(LATE_S)
        return bool((reply == request).all())
    arrival = transport.submit_receives([message(0, 1, reply)], LATE_S)
    transport.submit_sends([message(0, 2, reply)], LATE_S, [arrival]).wait(LATE_S)
    return True


# A packed message must not leave before it has been packed.
def test_send_reads_its_bytes_only_after_its_tokens(pool: WorkerPool):
    assert pool.run(send_after_a_token, world_size=2) == [True, True]


def submit_nothing(rank, world_size):
    transport = transport_of(rank, world_size)
    return [error_of(transport.submit_sends([], 1.0)), error_of(transport.submit_receives([], 1.0))]


# An empty stage is normal: a rank may have nothing to send.
def test_empty_batch_ends_at_once(pool: WorkerPool):
    assert pool.run(submit_nothing, world_size=2) == [[None, None]] * 2


# --- failures ------------------------------------------------------------------------------------


def disagree_about_size(rank, world_size, sent_size, received_size):
    transport = transport_of(rank, world_size)
    if rank == 0:
        sent = pattern(sent_size, 1)
        return error_of(transport.submit_sends([message(1, 1, sent)], LATE_S)), True
    received = np.zeros(received_size, dtype=np.uint8)
    arrival = transport.submit_receives([message(0, 1, received)], LATE_S)
    return error_of(arrival), not received.any()


# Two ranks with different plans must not write past a buffer, and Gloo ends the process that gets
# more than it expects. The sender hears of it as well, of what fits the head, too.
@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (16, 15),
        (15, 16),
        (16, 3_000_000),
        (3_000_000, 16),
        (3_000_000, 5_000_000),
        (50_000, 49_999),
    ],
)
def test_wrong_size_fails_and_names_the_peer(pool: WorkerPool, sent: int, received: int):
    (departure, _), (arrival, untouched) = pool.run(
        disagree_about_size, sent, received, world_size=2
    )

    assert arrival is not None
    assert arrival[0] == 0
    assert f"of {received} bytes" in arrival[1]
    assert f"of {sent} bytes" in arrival[1]
    assert untouched
    assert departure is not None
    assert departure[0] == 1


def wait_for_silent_peer(rank, world_size, deadline_s):
    transport = transport_of(rank, world_size)
    if rank == 2:
        dist.group.WORLD.get_group_store().wait(["ranks done"])
        return None
    other = 1 - rank
    buffers = {peer: np.zeros(8, dtype=np.uint8) for peer in (other, 2)}
    receives = [message(peer, 1, array) for peer, array in buffers.items()]
    sent = pattern(8, rank)
    receiving = transport.submit_receives(receives, deadline_s)
    sending = transport.submit_sends([message(other, 1, sent)], LATE_S)
    failure = error_of(receiving)
    sending.done()
    store = dist.group.WORLD.get_group_store()
    if store.add("finished", 1) == 2:
        store.set("ranks done", "")
    return failure


# A rank that never comes must not hold the others for ever, and the error must say who it is.
def test_silent_peer_ends_at_the_deadline_and_is_named(pool: WorkerPool):
    failures = pool.run(wait_for_silent_peer, 1.5, world_size=3)[:2]

    assert None not in failures
    named = [text for peer, text in failures if peer == 2]
    assert any("was not done within" in text for text in named)


def die_while_others_wait(rank, world_size):
    transport = transport_of(rank, world_size)
    buffer, ready = np.zeros(8, dtype=np.uint8), np.zeros(1, dtype=np.uint8)
    if rank == 2:
        both = [message(0, 9, ready), message(1, 9, ready)]
        transport.submit_receives(both, LATE_S).wait(LATE_S)
        os.kill(os.getpid(), signal.SIGKILL)
    sent = pattern(3_000_000, 1)
    if rank == 0:
        token = transport.submit_receives([message(2, 1, buffer)], LATE_S)
    else:
        token = transport.submit_sends([message(2, 1, sent)], LATE_S)
    transport.submit_sends([message(2, 9, ready)], LATE_S)
    first, later = error_of(token), transport.submit_receives([message(2, 2, buffer)], LATE_S)
    return first, error_of(later)


# A dead peer is noticed long before the deadline.
def test_killed_peer_fails_what_waits_for_it(pool: WorkerPool):
    results = pool.run(die_while_others_wait, world_size=3, may_die=[2])

    for first, later in results[:2]:
        assert first is not None
        assert later is not None
        assert first[0] == later[0] == 2


def count_threads(rank, world_size):
    transport = transport_of(rank, world_size)
    peers = [peer for peer in range(world_size) if peer != rank]
    received = {peer: np.zeros(9000, dtype=np.uint8) for peer in peers}
    before = len(os.listdir("/proc/self/task"))
    receives = [message(peer, 1, array) for peer, array in received.items()]
    token = transport.submit_receives(receives, LATE_S)
    sent = pattern(9000, rank)
    sends = [message(peer, 1, sent) for peer in peers]
    transport.submit_sends(sends, LATE_S).wait(LATE_S)
    token.wait(LATE_S)
    whole = all((array == pattern(9000, peer)).all() for peer, array in received.items())
    return len(os.listdir("/proc/self/task")) - before, whole


# A thread for each peer is a thousand threads in a job of a thousand ranks.
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_peers_take_no_threads_of_their_own(pool: WorkerPool):
    for num_threads, whole in pool.run(count_threads, world_size=5):
        assert whole
        assert num_threads <= 2


def talk_past_a_dead_rank(rank, world_size):
    transport = transport_of(rank, world_size)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sent, received = pattern(100_000, 1), np.zeros(100_000, dtype=np.uint8)
    for tag in range(20):
        if rank == 0:
            transport.submit_sends([message(1, tag, sent)], LATE_S).wait(LATE_S)
        else:
            transport.submit_receives([message(0, tag, received)], LATE_S).wait(LATE_S)
    return rank == 0 or bool((received == sent).all())


# One dead rank must not cut the others off from each other: they have to agree on what to do.
def test_ranks_other_than_the_killed_one_still_talk(pool: WorkerPool):
    assert pool.run(talk_past_a_dead_rank, world_size=3, may_die=[2])[:2] == [True, True]


def abort_while_waiting(rank, world_size):
    transport = transport_of(rank, world_size)
    buffer = np.zeros(8, dtype=np.uint8)
    pending = transport.submit_receives([message(1 - rank, 1, buffer)], LATE_S)
    if rank == 1:
        return error_of(pending), None
    aborter = threading.Thread(target=transport.abort, args=["the user changed their mind"])
    aborter.start()
    first = error_of(pending)
    aborter.join()
    transport.abort("a second abort changes nothing")
    return first, error_of(transport.submit_receives([message(1, 2, buffer)], LATE_S))


# Abort is how every blocked thread of a rank is freed; it says why, also to later callers, and the
# peers need not wait for their deadline.
def test_abort_ends_pending_and_later_operations_with_its_reason(pool: WorkerPool):
    (first, later), (at_peer, _) = pool.run(abort_while_waiting, world_size=2)

    assert first is not None
    assert later is not None
    assert "the user changed their mind" in first[1]
    assert "the user changed their mind" in later[1]
    assert at_peer is not None
    assert at_peer[0] == 0


def write_after_failure(rank, world_size):
    transport = transport_of(rank, world_size)
    if rank == 1:
        sent = pattern(3_000_000, 1)
        dist.group.WORLD.get_group_store().wait(["aborted"])
        return error_of(transport.submit_sends([message(0, 1, sent)], 5.0))
    buffer = np.zeros(3_000_000, dtype=np.uint8)
    token = transport.submit_receives([message(1, 1, buffer)], LATE_S)
    transport.abort("a peer died")
    failure = error_of(token)
    dist.group.WORLD.get_group_store().set("aborted", "")
    return failure is not None and not buffer.any()


# A failed group must not go on writing into memory that its owner believes to be free again.
def test_failed_batch_has_let_go_of_all_its_memory(pool: WorkerPool):
    let_go, failure = pool.run(write_after_failure, world_size=2)

    assert let_go
    assert failure is not None


def drop_while_pending(rank, world_size):
    transport = transport_of(rank, world_size)
    buffer = np.zeros(8, dtype=np.uint8)
    token = transport.submit_receives([message(1 - rank, 1, buffer)], LATE_S)
    del transport
    return error_of(token) is not None


# A session that ends in an exception drops its transport with messages under way.
def test_dropped_transport_ends_its_messages(pool: WorkerPool):
    assert pool.run(drop_while_pending, world_size=2) == [True, True]


# --- construction --------------------------------------------------------------------------------


def make_by_name(rank, world_size):
    from dynatrain._errors import LayoutError

    group = dist.new_group([1, 0])
    by_name = native().C10dTransport(group.group_name, rank, world_size, LATE_S)
    with pytest.raises(LayoutError, match="the process group says rank"):
        native().C10dTransport(group, world_size - 1 - rank, world_size, LATE_S)
    tensor = torch.full((5000,), rank, dtype=torch.float32)
    peer = 1 - rank
    received = torch.zeros_like(tensor)
    sending = by_name.submit_sends([(peer, 1, tensor.data_ptr(), 20_000)], LATE_S)
    by_name.submit_receives([(peer, 1, received.data_ptr(), 20_000)], LATE_S).wait(LATE_S)
    sending.wait(LATE_S)
    return bool((received == peer).all())


# A group whose ranks are numbered otherwise would send every byte to the wrong place.
def test_group_by_name_works_and_wrong_rank_is_refused(pool: WorkerPool):
    assert pool.run(make_by_name, world_size=2) == [True, True]


# `dynatrain doctor` shows this; on a supported torch nothing is missing.
def test_probe_finds_all_that_the_transport_stands_on():
    assert all(native().probe_c10d().values())
