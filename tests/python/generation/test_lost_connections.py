"""A rank notices that a peer's connections have ended, while nothing is exchanged."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from torch.distributed import HashStore

from dynatrain.generation.control import Control
from dynatrain.generation.members import Members

DEADLINE = timedelta(seconds=20)


def controls(num_ranks):
    """The control groups of ranks that are threads of this process."""
    store = HashStore()

    def connected(rank):
        members = Members.of_ranks("a session", rank, num_ranks, store)
        return Control(members.listening_on("127.0.0.1"), DEADLINE, "1")

    with ThreadPoolExecutor(num_ranks) as threads:
        return list(threads.map(connected, range(num_ranks)))


def test_rank_notices_that_a_peer_has_let_go_of_its_groups():
    first, second, idle = controls(3)
    assert idle.num_lost() == 0

    first.release()
    until = time.monotonic() + DEADLINE.total_seconds()
    while not idle.num_lost() and time.monotonic() < until:
        time.sleep(0.01)

    assert idle.num_lost() > 0
    second.release()


def test_what_a_rank_has_let_go_of_itself_is_not_lost():
    first, idle = controls(2)
    assert idle.num_lost() == 0

    idle.release()

    assert idle.num_lost() == 0
    first.release()
