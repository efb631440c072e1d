"""The calls that a training script makes."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist

from dynatrain import arguments
from dynatrain._errors import LayoutError, TransportError, is_refused, of_family
from dynatrain._limits import check_room_for_groups
from dynatrain._torch_private.groups import single_process_store
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.arguments import Given
from dynatrain.collective import Settled
from dynatrain.door import nothing_started, only_family
from dynatrain.generation.generation import Generation
from dynatrain.generation.lanes import Nccl, check_transport, take_device
from dynatrain.generation.members import Members
from dynatrain.generation.world import Build
from dynatrain.generation.worlds import MakeGroups
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.session import Session
from dynatrain.switch.beginning import Initialize

_current: list[Session] = []
_started_sessions: WeakSet[Session] = WeakSet()


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
    groups: MakeGroups | None = None,
    mode: str = "retain",
    relabel: bool = False,
) -> Session:
    """Starts a session: builds the first world and state. Collective over all ranks of the job.

    Initialises ``torch.distributed`` from the environment when the script has not.

    Args:
        build: ``build(world) -> TrainState``, called for every layout, for the first one twice: a
            trial shows at once what ``build`` cannot do. At the trial and at a switch it runs under
            the meta device, where it must run no collective, make no group and draw no random
            number.
        layout: the first layout; ranks beyond its world size idle.
        initialize: ``initialize(state, world)``, run once. With it the first build runs on meta,
            too, and this fills the weights and buffers, which are zeros then, and what extras hold;
            without it the first build runs for real, with torch's own initialisation.
        keep: objects that live on across switches, by name. ``on_world(world)`` is called on those
            that have it, with None on a rank that idles; random streams that it seeds at a switch
            do not stay so, see :meth:`dynatrain.Session.on_switch`. Those that have ``state_dict``
            as well bring ranks that join up to date. ``check_layout(layout)`` is asked before a
            switch, and refuses it by raising LayoutError.
        device: where parameters live; without it ``"cuda"`` when the job communicates over NCCL,
            else the CPU. ``"cuda"`` is the GPU that the script has chosen, else the one numbered
            LOCAL_RANK, else the rank's modulo their number. A GPU is made the process's current
            one. Host memory and memory of this device can be switched.
        timeout_s: deadline of every wait of dynatrain's; but for ranks that come to ``init``
            itself, which are waited for a minute at least: processes of a job begin at different
            times. Collectives of training wait as long as ``init_process_group(timeout=)`` says.
        staging_budget_bytes: staging memory of a transfer, per rank; 1024 at the least. A switch
            needs 1024 for each rank that a rank sends to, and for each that it receives from, and
            is refused with the number where that is more than the budget.
        memory_budget_bytes: refuse switches that need more than this beside the source, per rank.
        num_threads: threads that copy host memory; by default half of the processors that the
            rank may use.
        transport: how device memory travels: ``cuda_ipc``, read in place by ranks of one host;
            ``nccl``; ``c10d``, through the host; or ``auto``, the first of these that all ranks can
            use. ``dynatrain.Nccl(...)`` is ``nccl`` with settings of its own. Host memory travels
            over Gloo; with ``shared_memory`` ranks of one machine read it in place: mapped where
            dynatrain has made it, else (what ``build`` or the first steps have made, until a
            switch) out of their peers' processes, where the system allows it. What dynatrain has
            made a forked child shares with its parent, writes too, and its storages cannot grow.
            What is not read in place, and all between machines, goes by messages.
        verify: none, ``()``, or any of ``sums`` (receiver's sums of every move against the
            sender's), ``fingerprint`` (of the whole state before and after; a switch that would
            change it is refused), ``replicas`` (owners of a cell hold the same before a switch).
        seed: of random streams that differ between ranks: a switch seeds these anew, by rank; ranks
            that differ in tp alone get equal ones, unless theirs were different before.
        groups: ``groups(layout) -> object``, called on all ranks once per layout, before ``build``,
            which finds what it returned as ``world.groups``. Groups and meshes of a framework's own
            are made here; a rank that idles in the layout takes part and gets no coordinate. Where
            it raises on one rank alone, the others wait in the groups that they make for half of
            ``timeout_s``, in other collectives for the deadline of these (torch's own is 30 min).
        mode: what a switch does with the memory of its source. ``retain`` keeps it until the target
            is whole and decided on: whatever fails before leaves every rank with the state it had,
            and a rank needs memory for both. ``stream`` decides first, then frees the source, some
            stages behind, while the target arrives: it needs memory for a few stages more than the
            larger of the two, and a rank that dies meanwhile takes the state with it; so does an
            extra that holds tensors of parameters and refuses them. Whoever reads a tensor of the
            former state afterwards, a view or a saver that is under way too, ends the process, or
            finds what happens to be there where the tensor is small. Not with ``shared_memory``.
            ``auto`` retains where every rank has the memory (``memory_budget_bytes``, or what its
            host or GPU has left), and streams elsewhere.
        relabel: whether a switch may give the places of the target to other ranks than in order, so
            that each keeps as much as possible: dp=4 to dp=2,tp=2 then moves a half to three
            quarters, or nothing where all is cut by rows. ``world.rank`` is the place then, and the
            rank that torch tells may be another number; meshes and groups of the world know both.
            Only for scripts that take meshes, groups and coordinates from the world: meshes of
            their own number places by their ranks. Places of a node stay together, and who idles is
            as without. Not with ``groups``.

    Returns:
        The session, also used by :func:`switch_parallelism`.

    Raises:
        LayoutError: an argument cannot be used or differs between ranks, the layout does not fit
            the job, ``build`` cannot be switched, ``build`` or ``initialize`` raised, or
            ``DYNATRAIN_LOG`` or ``DYNATRAIN_TRACE`` cannot be used. The same on every rank.
        TransportError: a rank did not come.
        DeviceError: the device cannot be used by this build of dynatrain, or the transport
            that was asked for cannot be had.
        What a kept object's ``on_world`` raised, on its rank alone: the session has started on all
            ranks then, and is :func:`current_session`.
    """
    given = Given(
        build=build,
        layout=layout,
        initialize=initialize,
        keep=keep,
        device=device,
        timeout_s=timeout_s,
        staging_budget_bytes=staging_budget_bytes,
        memory_budget_bytes=memory_budget_bytes,
        num_threads=num_threads,
        transport=transport,
        verify=verify,
        seed=seed,
        groups=groups,
        mode=mode,
        relabel=relabel,
    )
    with only_family("init"), nothing_started():
        session = _started(given)
    session.place_kept()
    return session


def _started(given: Given) -> Session:
    """Checks the arguments with all ranks, then starts the session. Collective."""
    found: arguments.Checked | Exception
    try:
        found = arguments.check(given)
    except Exception as error:  # noqa: BLE001 - the other ranks must learn of it
        found = of_family(error, "init")
    if isinstance(found, Exception) and not dist.is_initialized() and "RANK" not in os.environ:
        raise found  # a job of one; nothing was started
    _let_go_of_closed()
    _join()
    members = Members.of_job()
    if not isinstance(found, Exception):
        found = _placed(found, members)
    checked, members = arguments.agree(members, found)
    assert checked.device is not None
    adapter = TorchAdapter(checked.device, for_peers=checked.options.shares_memory)
    atexit.unregister(_leave)
    atexit.register(_leave)
    with adapter.undisturbed():
        generation = Generation(members, checked.options, checked.device)
        settled = Settled(given.build, generation, checked.device, adapter, given.groups)
        session = Session(settled)
        _started_sessions.add(session)
        try:
            session.start(checked.layout, given.initialize, checked.keep)
        except BaseException:
            session.close()
            raise
    checked.settings.apply(session.on_switch, members.rank)
    _current[:] = [session]
    return session


def remember(session: Session) -> None:
    """Makes a session the present one, whose groups end with the process."""
    atexit.unregister(_leave)
    atexit.register(_leave)
    _started_sessions.add(session)
    _current[:] = [session]


def _let_go_of_closed() -> None:
    """Frees what closed sessions had open: their states, which nobody may hold, have cycles."""
    if any(session.closed for session in _started_sessions):
        if _current and _current[0].closed:
            _current.clear()
        gc.collect()


def _placed(checked: arguments.Checked, members: Members) -> arguments.Checked | Exception:
    """The arguments with the rank's own device, or why they cannot be used on this rank."""
    try:
        checked.settings.check_writable(members.rank)
        check_room_for_groups(members.num_ranks, members.num_ranks)  # for exchanges, and a lane
        device = take_device(_device(checked.device), members.rank)
        check_transport(checked.options.transport, device)
        return replace(checked, device=device)
    except Exception as error:  # noqa: BLE001 - the other ranks must learn of it
        return error


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
            "session: there is no session yet\n"
            "  expected dynatrain.init, or join, to have made one in this process\n"
            "  nothing was changed\n  call dynatrain.init first"
        )
    return _current[0]


def _join() -> None:
    if dist.is_initialized():
        return
    if "RANK" in os.environ:
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError, TypeError) as error:
            if is_refused(error):
                raise of_family(error, "init") from error
            raise TransportError(
                f"session: torch.distributed could not be initialised: {error}\n"
                "  expected the environment that torchrun makes: RANK, WORLD_SIZE, MASTER_ADDR and "
                "MASTER_PORT\n  nothing was started\n"
                "  start the script by torchrun, or call dist.init_process_group before init"
            ) from error
    else:
        dist.init_process_group("gloo", store=single_process_store(), rank=0, world_size=1)


def _leave() -> None:
    """Ends the groups of the process, at the end of a script that init has run in.

    Threads of Gloo let go of what the last exchange held, and need the interpreter for it: were it
    ending meanwhile, SIGABRT would end the process, once in ten times. They are waited for, but not
    after an exception, when they may wait for other ranks; NCCL has no such threads.
    """
    failed = getattr(sys, "last_value", None) is not None
    if failed or any(session.in_trouble for session in _started_sessions):
        return
    try:
        for session in _started_sessions:
            session._part.end(in_store=False)  # the store ends with the job
    except LayoutError:  # a thread is in a call still, or this is a forked process
        return
    with suppress(Exception):  # the default group may have ended with a world, and nobody hears it
        if dist.is_initialized() and "nccl" not in dist.get_backend_config():
            dist.destroy_process_group()


def _device(device: torch.device | None) -> torch.device:
    if device is not None:
        return device
    if "nccl" in dist.get_backend_config():
        return torch.device("cuda")
    return torch.device("cpu")
