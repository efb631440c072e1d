"""A peer whose memory is being read dies, or stands still: the others learn it, and keep theirs."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
import torch

import dynatrain
import training_jobs as jobs
from dynatrain import TransportError
from dynatrain.switch import moved

TIMEOUT_S = 6
#: After both waits of the others, so that the standing rank finds that all is over.
STANDS_S = 20
LOST = 1
#: Lets NCCL's ranks share a GPU, in every version.
SHARING = {"NCCL_NET": "Socket", "NCCL_HOSTID": "host{rank}", "NCCL_SOCKET_IFNAME": "lo"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still():
    resume = f"sleep {STANDS_S}; kill -CONT {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", resume], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)


TROUBLES = {"dies": die, "stands still": stand_still}


def bits(session):
    """This rank's parameters on the host, by name."""
    return {
        name: getattr(param.detach(), "_local_tensor", param.detach()).cpu().clone()
        for name, param in session.state.model.named_parameters()
    }


def lose_a_peer(rank, world_size, trouble, device, transport):
    os.environ.update({name: text.format(rank=rank) for name, text in SHARING.items()})
    session = dynatrain.init(
        jobs.build,
        "dp=3",
        initialize=jobs.initialize,
        device=device,
        transport=transport,
        timeout_s=TIMEOUT_S,
    )
    session.prepare("tp=3")
    before = bits(session)
    move = moved._run

    def move_or_not(engine, prepared):
        if rank == LOST:
            TROUBLES[trouble]()
        return move(engine, prepared)

    moved._run = move_or_not
    try:
        session.switch("tp=3")
        error = ""
    except TransportError as caught:
        error = str(caught)
    finally:
        moved._run = move
    after = bits(session)
    same = all(torch.equal(before[name], after[name]) for name in before)
    return error, same, str(session.layout)


def lost_on(pool, trouble, device, transport):
    pool.close()  # NCCL reads the environment once
    try:
        return pool.run(
            lose_a_peer,
            trouble,
            device,
            transport,
            world_size=3,
            timeout_s=60,
            may_die={LOST} if trouble == "dies" else (),
        )
    finally:
        pool.close()  # what a killed peer leaves behind is for no other test


# Law 7 where it is hardest: the memory that is read belongs to the process that is gone.
# Over NCCL a kernel waits on the device for the peer: only an abort ends it.
@pytest.mark.parametrize("transport", ["cuda_ipc", "nccl", "c10d"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_ranks_that_read_a_lost_peer_keep_their_state(pool, trouble, transport):
    results = lost_on(pool, trouble, "cuda:0", transport)

    for rank in {0, 1, 2} - {LOST}:
        error, same, layout = results[rank]
        assert "intact" in error
        assert (same, layout) == (True, "dp=3")
