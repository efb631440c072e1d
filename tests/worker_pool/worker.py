"""The worker's side: serves the runs of one rank. The fork server imports it, and torch with it."""

from __future__ import annotations

import ctypes
import datetime
import faulthandler
import gc
import os
import random
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.pipelining
import torch.distributed.tensor
import torch.distributed.tensor.parallel
from torch.distributed.tensor import _random
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

PR_SET_PDEATHSIG = 1


def begin(rank: int, world_size: int, store: dist.Store, timeout_s: float) -> None:
    """Makes the default group of one run."""
    timeout = datetime.timedelta(seconds=timeout_s)
    store.set_timeout(timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
    # A rank that dies at once must not break the connections that others are still making.
    if store.add("begun", 1) == world_size:
        store.set("go", "")
    store.wait(["go"])


def seed() -> None:
    """Puts every generator where a fresh process would not be: at a known place."""
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)


def clear() -> bool:
    """Removes what a run left behind; returns whether something would not go away."""
    try:
        if dist.is_initialized():
            dist.destroy_process_group()
        forget_meshes()
        gc.collect()
    except Exception:  # noqa: BLE001 - whatever it is, this process serves no other run
        traceback.print_exc()
        return True
    return False


def forget_meshes() -> None:
    """Empties DTensor's caches: they are keyed by mesh equality and would return a dead mesh."""
    _clear_sharding_prop_cache()
    _random._rng_tracker = None


def run_once(rank: int, store: dist.Store, payload: bytes) -> tuple[str, Any, bool]:
    """Serves one request; returns (returned or raised, value or traceback, process is dirty)."""
    try:
        run, world_size, timeout_s, init_group, fn, args = cloudpickle.loads(payload)
        os.environ["WORLD_SIZE"] = str(world_size)
        seed()
        if init_group:
            begin(rank, world_size, dist.PrefixStore(f"run{run}", store), timeout_s)
        status, value = "returned", fn(rank, world_size, *args)
    except BaseException:  # noqa: BLE001 - SystemExit too is an answer, the parent shows it
        status, value = "raised", traceback.format_exc()
    return status, value, clear()


def answer(connection: Connection, reply: tuple[str, Any, bool]) -> None:
    """Sends a reply; a result that cannot be pickled is the test's error."""
    try:
        payload = cloudpickle.dumps(reply)
    except Exception:  # noqa: BLE001 - pickling runs the result's own code
        payload = cloudpickle.dumps(("raised", traceback.format_exc(), reply[2]))
    connection.send_bytes(payload)


def attach(log_path: str) -> None:
    """Sends all output to the log, stacks on request too, and ends with the fork server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(log_path, "w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def main(rank: int, connection: Connection, store_port: int, log_path: str) -> None:
    """Serves runs until the parent closes the connection or ends."""
    attach(log_path)
    gc.freeze()  # what torch's import made stays; collecting after each run is then quick
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    store = dist.TCPStore("127.0.0.1", store_port, is_master=False)
    connection.send_bytes(b"ready")
    while True:
        try:
            payload = connection.recv_bytes()
        except EOFError:
            return
        answer(connection, run_once(rank, store, payload))
