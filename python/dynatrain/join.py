"""The call by which a process takes part in an elastic job."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import HashStore

from dynatrain import arguments
from dynatrain._errors import LayoutError, TransportError
from dynatrain._settings import OnSwitch
from dynatrain._torch_private.groups import GroupKind
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.api import remember
from dynatrain.arguments import Checked, Given
from dynatrain.collective import Settled
from dynatrain.door import (
    checked_callable,
    nothing_started,
    only_family,
    taking_arguments_of_init,
)
from dynatrain.elastic.addresses import Address, addresses_of
from dynatrain.elastic.advice import Policy
from dynatrain.elastic.ask import ask
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.coordinator import bound_to
from dynatrain.elastic.deadlines import office_deadlines
from dynatrain.elastic.driver import Driver
from dynatrain.elastic.line import Line
from dynatrain.elastic.part import Part
from dynatrain.elastic.rounds import Means, Note
from dynatrain.elastic.secret import read_secret
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.elastic.wishes import Wishes
from dynatrain.generation.generation import Generation
from dynatrain.generation.lanes import Nccl, check_transport, take_device
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from dynatrain.generation.world import Build
from dynatrain.given import shown, text
from dynatrain.joining import Joining
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.session import Session
from dynatrain.switch.beginning import Initialize

#: Of a setting that the coordinator compares.
_MOST_TOLD = 200


def join(  # noqa: PLR0913 - the settings of a session, all but two with defaults
    build: Build,
    coordinator: str,
    *,
    secret_file: Path | str,
    initialize: Initialize | None = None,
    keep: Mapping[str, Any] | None = None,
    policy: Policy | None = None,
    device: torch.device | str | None = None,
    address: str | None = None,
    timeout_s: float = 60.0,
    staging_budget_bytes: int = 256 << 20,
    memory_budget_bytes: int | None = None,
    num_threads: int | None = None,
    transport: str | Nccl = "auto",
    verify: Collection[str] = ("sums",),
    seed: int = 0,
    mode: str = "retain",
    snapshot_every: int | None = None,
    checkpoint_dir: Path | str | None = None,
    checkpoint_every: int | None = None,
) -> Session:
    """Takes part in the job of a coordinator, from its beginning or while it trains.

    Returns at once. The loop over ``session.steps(total)`` waits until this process has its place:
    in the first world, or in a later one when the coordinator takes it in; it ends where the
    process is not needed any more. Torch's default group is the present world's, so that a rank
    of ``torch.distributed`` is ``session.world.rank``. Which layout is taken is the coordinator's
    to say.

    Args:
        build: as of :func:`dynatrain.init`.
        coordinator: its address, ``host:port``; with standbys theirs too, ``host:port,host:port``.
        secret_file: with the job's secret, a copy of the coordinator's.
        initialize: as of :func:`dynatrain.init`; run by the members of the first world.
        keep: as of :func:`dynatrain.init`.
        policy: ``policy(roster)`` says which layout is wanted for those who are there, None to wait
            until somebody comes or goes; see :class:`dynatrain.elastic.advice.Roster`. The
            coordinator asks one member, of those that have a policy the one that joined first. It
            runs in a thread beside training. Where it raises, asks for more ranks than are there or
            takes longer than a twelfth of ``timeout_s``, the coordinator goes by its own list; a
            layout that the operator asks for goes before it.
        device: where parameters live; without it ``"cuda"`` where torch finds a GPU, else the CPU.
            ``"cuda"`` is the GPU that the script has chosen, else the one numbered LOCAL_RANK, else
            the first that this process sees: a member has no rank yet that could tell another one.
            Of several members on a host, give each its own, by ``CUDA_VISIBLE_DEVICES``,
            LOCAL_RANK or ``device="cuda:1"``. It is made the process's current one.
        address: of this machine, on which this process's groups of Gloo listen. Without it the one
            from which the coordinator is reached, unless ``GLOO_SOCKET_IFNAME`` names an interface.
        timeout_s: deadline of every wait; the coordinator's.
        staging_budget_bytes: as of :func:`dynatrain.init`; so all that follow.
        memory_budget_bytes: see there.
        num_threads: see there.
        transport: see there.
        verify: see there.
        seed: see there.
        mode: see there; the coordinator's decision comes first where a switch streams. What fails
            behind it leaves each member with parts of two states, which it copies to host memory
            where there is room and time (``timeout_s`` / 12); the state comes from these where they
            are all of it, else from a snapshot or a checkpoint.
        snapshot_every: steps after which each member copies its state to host memory and, beside
            training, to a member on another host: what dies with a member comes from there, and all
            go back to that step. Copies are made at completed steps that it divides, and once more
            when a world begins; one that members come too late to is made at the next step that
            all can. Without it, what has no other owner is lost. Takes host memory for two versions
            of the state of this member and of another one.
        checkpoint_dir: folder, on a file system that all members have, in which all write a
            checkpoint every few steps, beside training: ``step-<version>``, of torch's distributed
            checkpoint format, whole or absent; the last two stay. What neither a member nor a
            snapshot has of a version comes from there. Takes host memory for two versions of the
            state of this member, which are those of its snapshots where it makes some. Torch's
            metadata is a pickle: whoever can write there can run code in the members. A job begins
            where there are none yet.
        checkpoint_every: steps between two checkpoints; with ``checkpoint_dir``, and at least
            ``snapshot_every``. One is written at completed steps that it divides; beside snapshots
            at the first of these from there on.

    Raises:
        LayoutError: an argument cannot be used.
        TransportError: the secret cannot be read. That of another job is told by the loop.
        DeviceError: the device cannot be used by this build of dynatrain.
    """
    given = Given(
        build=build,
        layout=Layout(),
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
        groups=None,
        mode=mode,
        snapshot_every=snapshot_every,
        checkpoint_dir=checkpoint_dir,
        checkpoint_every=checkpoint_every,
    )
    with only_family("join"), nothing_started():
        if policy is not None:
            checked_callable("join", "policy", policy)
        addresses, secret = _addresses(coordinator), read_secret(secret_file)
        own = None if address is None else _own_address(address)
        with taking_arguments_of_init("join"):
            checked = arguments.check(given)
        checked.settings.check_writable(0)
        wanted = checked.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = take_device(wanted, 0)
        check_transport(checked.options.transport, place)
        deadlines = office_deadlines(checked.options.timeout.total_seconds())
        line = partial(Line, addresses, secret, deadlines.silent, deadlines.connect)
        ways = _Ways(line(), Wishes(lambda question: ask(line(), question)), policy)
        return _joined(given, checked, place, ways, own)


@dataclass(frozen=True)
class _Ways:
    """Those of a member to its coordinator, and what the script wants of it."""

    line: Line
    wishes: Wishes
    policy: Policy | None


def _joined(
    given: Given,
    checked: Checked,
    device: torch.device,
    ways: _Ways,
    own: str | None,
) -> Session:
    """The session, with its driver at the gate of its loop."""
    torch_chooses = own is None and bool(os.environ.get("GLOO_SOCKET_IFNAME"))
    alone = Generation(Members.of_ranks("alone", 0, 1, HashStore()), checked.options, device)
    kind = GroupKind("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    adapter = TorchAdapter(device, for_peers=checked.options.shares_memory)
    session = Session(Settled(given.build, alone, device, adapter, None, kind))

    def make(members: Members) -> Generation:
        _, placed = arguments.agree(members, checked)
        address = "" if torch_chooses else own or ways.line.own_host
        generation = Generation(
            placed.listening_on(address), checked.options, device, meets_in_store=False
        )
        generation.connect("start")
        return generation

    def note(kind: str, what: str) -> None:
        driver.events.note(kind, what)

    def copied(epoch: int, is_on_disk: bool) -> None:
        driver.part.copied(epoch, is_on_disk)

    snapshots = _snapshots(session, checked.options, device, note, copied)
    port = Joining(session._part, given.initialize, checked.keep, session._callbacks, snapshots)
    driver = Driver(port, make, checked.options.timeout, ways.wishes, snapshots)
    shared = checked.shared().items()
    driver.settings = "\n".join(
        f"{name} {_told(value)}" for name, value in shared if name != "layout"
    )
    traces = checked.settings.trace_folder
    timeout_s = checked.options.timeout.total_seconds()
    driver.part = Part(ways.line, timeout_s, driver, traces, ways.policy)
    checked.settings.apply(_of_first(session), 0)
    session.drive_by(driver)
    remember(session)
    return session


def _told(value: str) -> str:
    """A value in one line that is not long: itself, or what tells it from others."""
    if len(value) <= _MOST_TOLD and value.isprintable():
        return value
    return f"of {len(value)} characters, {sha256(value.encode()).hexdigest()[:16]}"


def _of_first(session: Session) -> OnSwitch:
    """Tells a callback of switches where this member is the first then: all have one report."""

    def on_switch(callback: Callable[[SwitchReport], None]) -> None:
        part = session._part
        session.on_switch(lambda report: None if part.engine.rank else callback(report))

    return on_switch


def _snapshots(
    session: Session,
    options: Options,
    device: torch.device,
    note: Note,
    copied: Callable[[int, bool], None],
) -> Snapshots | None:
    """Those of a member; None where none are wanted."""
    folder = options.checkpoint_dir
    checkpoints = None if folder is None else CheckpointFolder(folder)
    cadence = Cadence(options.snapshot_every, options.checkpoint_every, checkpoints)
    if cadence.is_idle and options.mode == "retain":
        return None  # else there is what a switch may leave in parts
    part = session._part
    after = part.engine.after_training
    means = Means(device, options.num_threads, options.timeout, after, note, copied)
    return Snapshots(cadence, part.adapter, part.present, means)


def _own_address(given: Any) -> str:
    """An address that a socket of this process can have."""
    address = text(given) or ""
    try:
        with bound_to(address, 0) as bound:
            if ip_address(bound.getsockname()[0]).is_unspecified:
                raise ValueError("nobody can be reached there")
    except (TransportError, ValueError):
        raise LayoutError(
            f"session: join was given address={shown(given)}\n"
            "  expected an address of this machine, such as '10.0.0.7'\n"
            "  nothing was started\n  `ip -brief address` lists them; leave it out for the one "
            "from which the coordinator is reached"
        ) from None
    return address


def _addresses(given: Any) -> tuple[Address, ...]:
    try:
        return addresses_of(text(given) or "")
    except ValueError:
        raise LayoutError(
            f"session: join was given coordinator={shown(given)}\n"
            "  expected 'host:port', as `dynatrain coordinator` prints it, or several with commas\n"
            "  nothing was started\n  give the addresses of the job's coordinators"
        ) from None
