"""The arguments of ``init``: each is checked, and all ranks hear what any of them was refused for.

A rank that raised by itself would leave the others waiting for it, and ranks that go on with
different arguments wait for each other later, where nobody can say why.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dynatrain import _settings, by_rank, words
from dynatrain._errors import DeviceError, LayoutError, of_family
from dynatrain.door import (
    checked_callable,
    checked_items,
    checked_layout,
    looking,
    wrong_argument,
)
from dynatrain.generation.control import Trouble, raise_alike, troubles_by_rank
from dynatrain.generation.lanes import TRANSPORTS, Nccl
from dynatrain.generation.members import Members
from dynatrain.generation.nodes import node_name
from dynatrain.generation.options import MODES, VERIFY, Options
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.given import number, shown, text, whole
from dynatrain.layout import Layout

#: Deadlines are counted in milliseconds; beyond a year the clocks of C++ libraries overflow.
_MIN_SECONDS, _MAX_SECONDS = 1e-3, 365 * 86400.0
#: What one message in a stage takes at the least; docs/design/schedule.md, "How many stages".
_MIN_STAGING_BYTES = 1024
_MAX_BYTES, _MAX_THREADS, _MAX_STEPS = 1 << 60, 4096, 1 << 60
_DEFAULT_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class Given:
    """What ``init`` was given, as it came; see there for what each means."""

    build: Any
    layout: Any
    initialize: Any
    keep: Any
    device: Any
    timeout_s: Any
    staging_budget_bytes: Any
    memory_budget_bytes: Any
    num_threads: Any
    transport: Any
    verify: Any
    seed: Any
    groups: Any
    mode: Any = "retain"
    relabel: Any = False
    snapshot_every: Any = None
    checkpoint_dir: Any = None
    checkpoint_every: Any = None


@dataclass(frozen=True)
class Checked:
    """Arguments that can be used."""

    layout: Layout
    keep: dict[str, Any]
    device: torch.device | None
    options: Options
    settings: _settings.Settings
    hooks: str

    def shared(self) -> dict[str, str]:
        """What must be the same on all ranks, as text.

        Budgets of memory and threads are not: ranks may have more or less of them.
        """
        options = self.options
        return {
            "layout": str(self.layout),
            "timeout_s": f"{options.timeout.total_seconds():g}",
            "staging_budget_bytes": str(options.staging_budget_bytes),
            "transport": repr(options.transport),
            "verify": str(sorted(options.verify)),
            "seed": str(options.seed),
            "mode": options.mode,
            "relabel": str(options.relabel),
            "snapshot_every": str(options.snapshot_every),
            "checkpoint_dir": str(options.checkpoint_dir),
            "checkpoint_every": str(options.checkpoint_every),
            "device": "left out" if self.device is None else self.device.type,
            "initialize and groups": self.hooks,
            "keep": str(sorted(self.keep)),
        }


def check(given: Given) -> Checked:
    """Checks every argument; nothing is started.

    Raises:
        LayoutError: an argument is of a wrong type or out of its range.
        DeviceError: torch knows no such device.
    """
    checked_callable("init", "build", given.build)
    for name in ("initialize", "groups"):
        if getattr(given, name) is not None:
            checked_callable("init", name, getattr(given, name))
    options = Options(
        timeout=_timeout(given.timeout_s),
        staging_budget_bytes=_whole("staging_budget_bytes", given, _MIN_STAGING_BYTES, _MAX_BYTES),
        memory_budget_bytes=None
        if given.memory_budget_bytes is None
        else _whole("memory_budget_bytes", given, 0, _MAX_BYTES),
        num_threads=default_threads()
        if given.num_threads is None
        else _whole("num_threads", given, 1, _MAX_THREADS),
        transport=_transport(given.transport),
        verify=_verify(given.verify),
        seed=_whole("seed", given, -(1 << 63), (1 << 64) - 1),
        mode=_mode(given.mode, given.transport),
        relabel=_relabel(given.relabel, given.groups),
        snapshot_every=_steps("snapshot_every", given),
        checkpoint_dir=_folder(given.checkpoint_dir),
        checkpoint_every=_steps("checkpoint_every", given),
    )
    _check_checkpoints(options)
    return Checked(
        checked_layout("init", given.layout),
        _keep(given.keep),
        _device(given.device),
        options,
        _settings.read(),
        ", ".join(
            f"{name} {'left out' if getattr(given, name) is None else 'given'}"
            for name in ("initialize", "groups")
        ),
    )


def agree(members: Members, found: Checked | Exception) -> tuple[Checked, Members]:
    """Compares what all ranks found; returns this rank's, and where all of them run. Collective.

    Raises:
        The same kind of error on every rank, that of the lowest one that refused its arguments;
        LayoutError when ranks were given different ones; TransportError when a rank does not come.
    """
    own = of_family(found, "init") if isinstance(found, Exception) else None
    shared = {} if isinstance(found, Exception) else found.shared()
    timeout = _DEFAULT_TIMEOUT if isinstance(found, Exception) else found.options.timeout
    payload = (shared, node_name(), None if own is None else Trouble.of(own))
    deadline = max(timeout, _DEFAULT_TIMEOUT)
    meeting = Rendezvous(members.store, members.rank, members.num_ranks, deadline, purpose="init")
    met = meeting.meet(words.encode(payload), moment="init")
    answers = [words.decode(answer) for answer in met.payloads]
    raise_alike("init", own, troubles_by_rank([trouble for *_, trouble in answers]))
    assert not isinstance(found, Exception)
    _check_same([shared for shared, *_ in answers])
    return found, members.on_hosts([host for _, host, _ in answers])


def _check_same(shared: Sequence[Mapping[str, str]]) -> None:
    names = [name for name in shared[0] if len({answer[name] for answer in shared}) > 1]
    if not names:
        return
    told = ", ".join(names)
    said = {rank: _told(names, answer) for rank, answer in enumerate(shared)}
    raise LayoutError(
        f"session: ranks called init with a different {told}\n{by_rank.lines(said)}\n"
        "  expected the same on all ranks\n  nothing was started\n"
        f"  give init one {' and one '.join(names)} on all ranks, for example that of rank 0"
    )


def _told(names: Sequence[str], answer: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={answer[name]}" for name in names)


def default_threads() -> int:
    """Half of the processors that this rank may use."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "1")
    local = int(said) if said.isdecimal() and len(said) < 10 else 1
    return max(1, len(os.sched_getaffinity(0)) // (2 * max(local, 1)))


def _timeout(value: Any) -> timedelta:
    seconds = number(value)
    if seconds is None or not _MIN_SECONDS <= seconds <= _MAX_SECONDS:  # neither holds of a NaN
        expected = f"seconds from {_MIN_SECONDS:g} to {_MAX_SECONDS:.0f}"
        raise wrong_argument("init", "timeout_s", value, expected)
    return timedelta(seconds=seconds)


def _whole(name: str, given: Given, low: int, high: int) -> int:
    value = getattr(given, name)
    found = whole(value)
    if found is None or not low <= found <= high:
        raise wrong_argument("init", name, value, f"a whole number from {low} to {high}")
    return found


def _steps(name: str, given: Given) -> int | None:
    return None if getattr(given, name) is None else _whole(name, given, 1, _MAX_STEPS)


def _folder(value: Any) -> Path | None:
    if value is None:
        return None
    expected = "the path of a folder, or of one that is to be made"
    with looking("init", "checkpoint_dir", value, expected):
        name = str(value) if isinstance(value, Path) else text(value)
        if not name or "\0" in name or (os.path.lexists(name) and not Path(name).is_dir()):
            raise wrong_argument("init", "checkpoint_dir", value, expected)
        return Path(name).absolute()


def _check_checkpoints(options: Options) -> None:
    """Refuses what cannot be together."""
    every, folder = options.checkpoint_every, options.checkpoint_dir
    if (every is None) is not (folder is None):
        lacks, value = ("every", every) if every is None else ("dir", folder)
        expected = "both checkpoint_dir and checkpoint_every, or neither"
        raise wrong_argument("init", f"checkpoint_{lacks}", value, expected, "one of them alone")
    snapshots = options.snapshot_every
    if every is not None and snapshots is not None and every < snapshots:
        expected = f"at least snapshot_every={snapshots}, as a checkpoint is of a snapshot's copy"
        raise wrong_argument("init", "checkpoint_every", every, expected)


def _transport(value: Any) -> str | Nccl:
    expected = f"one of {TRANSPORTS} or Nccl(...)"
    with looking("init", "transport", value, expected):
        if isinstance(value, Nccl) and isinstance(value.register_staging, bool):
            return Nccl(value.register_staging)
        name = text(value)
        if name is None or name not in TRANSPORTS:
            raise wrong_argument("init", "transport", value, expected)
        return name


def _relabel(value: Any, groups: Any) -> bool:
    if type(value) is not bool:
        raise wrong_argument("init", "relabel", value, "True or False")
    if value and groups is not None:
        expected = "False beside groups=: what that makes numbers places by their ranks"
        raise wrong_argument("init", "relabel", value, expected)
    return value


def _mode(value: Any, transport: Any) -> str:
    expected = f"one of {MODES}"
    with looking("init", "mode", value, expected):
        name = text(value)
        if name is None or name not in MODES:
            raise wrong_argument("init", "mode", value, expected)
        if name != "retain" and text(transport) == "shared_memory":
            expected = (
                "'retain' with transport='shared_memory', whose blocks are freed as a whole: "
                "another transport for this mode"
            )
            raise wrong_argument("init", "mode", value, expected)
        return name


def _verify(value: Any) -> frozenset[str]:
    expected = f"a collection of any of {VERIFY}, such as ('sums',)"
    with looking("init", "verify", value, expected):
        if isinstance(value, str) or not isinstance(value, Collection):
            raise wrong_argument("init", "verify", value, expected)
        found = set()
        for item in value:
            name = text(item)
            if name not in VERIFY:
                raise wrong_argument("init", "verify", value, expected, f"{shown(item)} in it")
            found.add(name)
        return frozenset(found)


def _keep(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return checked_items("init", "keep", value, "a mapping of names, strings, to objects")


def _device(value: Any) -> torch.device | None:
    if value is None or type(value) is torch.device:
        return value
    name = text(value)
    if name is None:
        raise wrong_argument("init", "device", value, "a torch.device or its text form")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"session: init was given device={name!r}, which torch does not know\n"
            f"  {str(error).splitlines()[0]}\n  nothing was started\n"
            "  expected 'cpu', 'cuda' or 'cuda:<index>'; leave device out to take the job's"
        ) from error
