"""The calls that a training script makes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dynatrain import _settings
from dynatrain._errors import LayoutError
from dynatrain._torch_private import single_process_store
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.engine import VERIFY, Options
from dynatrain.lanes import TRANSPORTS, Nccl, take_device
from dynatrain.layout import Layout, as_layout
from dynatrain.report import SwitchReport
from dynatrain.session import Initialize, Session
from dynatrain.world import Build

_current: list[Session] = []


def init(  # noqa: PLR0913 - the settings of a session, all but two with defaults
    build: Build,
    layout: Layout | str,
    *,
    initialize: Initialize | None = None,
    keep: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    timeout_s: float = 60.0,
    staging_budget_bytes: int = 256 << 20,
    memory_budget_bytes: int | None = None,
    num_threads: int | None = None,
    transport: str | Nccl = "auto",
    verify: Collection[str] = ("sums",),
    seed: int = 0,
) -> Session:
    """Starts a session: builds the first world and state. Collective over all ranks of the job.

    Initialises ``torch.distributed`` from the environment when the script has not.

    Args:
        build: ``build(world) -> TrainState``, called once per layout; at a switch under the meta
            device, where it must run no collective and draw no random number.
        layout: the first layout; ranks beyond its world size idle.
        initialize: ``initialize(state, world)``, run once. With it the first build runs on meta,
            too, and this fills the materialised weights and buffers; without it the first build
            runs for real, with torch's own initialisation.
        keep: objects that live on across switches, by name. ``on_world(world)`` is called on those
            that have it, with None on a rank that idles. Those that have ``state_dict`` as well
            bring ranks that join up to date. ``check_layout(layout)`` is asked before a switch, and
            refuses it by raising LayoutError.
        device: where parameters live; without it ``"cuda"`` when the job communicates over NCCL,
            else the CPU. ``"cuda"`` is the GPU that the script has chosen, else the one numbered
            LOCAL_RANK, else the rank's modulo their number. A GPU is made the process's current
            one. Host memory and memory of this device can be switched.
        timeout_s: deadline of every wait.
        staging_budget_bytes: staging memory of a transfer, per rank.
        memory_budget_bytes: refuse switches that need more than this beside the source, per rank.
        num_threads: threads that copy host memory; by default half of the processors that the
            rank may use.
        transport: how device memory travels: ``cuda_ipc``, read in place by ranks of one host;
            ``nccl``; ``c10d``, through the host; or ``auto``, the first of these that all ranks can
            use. Host memory always travels over Gloo. ``dynatrain.Nccl(...)`` is ``nccl`` with
            settings of its own.
        verify: any of ``sums`` (receiver's sums of every move against the sender's),
            ``fingerprint`` (of the whole state before and after), ``replicas`` (all owners of a
            cell hold the same before a switch).
        seed: of random streams that belong to a coordinate.

    Returns:
        The session, also used by :func:`switch_parallelism`.

    Raises:
        LayoutError: the layout does not fit the job, build returned no TrainState, or
            ``DYNATRAIN_LOG`` or ``DYNATRAIN_TRACE`` does not parse.
        DeviceError: the device cannot be used by this build of dynatrain, or the transport
            that was asked for cannot be had.
    """
    if not isinstance(transport, Nccl) and transport not in TRANSPORTS:
        raise LayoutError(
            f"session: transport={transport!r}\n  expected one of {TRANSPORTS} or Nccl(...)\n"
            "  nothing was started"
        )
    unknown = set(verify) - set(VERIFY)
    if unknown:
        raise LayoutError(
            f"session: verify={sorted(unknown)}\n  expected any of {VERIFY}\n  nothing was started"
        )
    settings = _settings.read()
    _join()
    options = Options(
        timeout=timedelta(seconds=timeout_s),
        staging_budget_bytes=staging_budget_bytes,
        memory_budget_bytes=memory_budget_bytes,
        num_threads=num_threads or _default_threads(),
        transport=transport,
        verify=frozenset(verify),
        seed=seed,
    )
    place = take_device(_device(device))
    session = Session(build, options, place, TorchAdapter(place))
    settings.apply(session.on_switch, dist.get_rank())
    session.start(as_layout(layout), initialize, keep)
    _current[:] = [session]
    session.place_kept()
    return session


def switch_parallelism(
    layout: Layout | str, *, names: Mapping[str, str] | None = None
) -> SwitchReport:
    """Switches the session made last to ``layout``; see :meth:`dynatrain.Session.switch`."""
    return current_session().switch(layout, names=names)


def fingerprint() -> str:
    """The fingerprint of the present state, the same in every layout. Collective."""
    return current_session().fingerprint()


def current_session() -> Session:
    """The session made last; raises LayoutError before the first ``init``."""
    if not _current:
        raise LayoutError(
            "session: no session was started\n  nothing was changed\n  call dynatrain.init first"
        )
    return _current[0]


def _join() -> None:
    if dist.is_initialized():
        return
    if "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    else:
        dist.init_process_group("gloo", store=single_process_store(), rank=0, world_size=1)


def _device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if "nccl" in dist.get_backend_config():
        return torch.device("cuda")
    return torch.device("cpu")


def _default_threads() -> int:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // (2 * local))
