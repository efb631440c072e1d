"""Limits of the system that a process has met: which one, how high it is, how to raise it."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynatrain._threads import Beside
from dynatrain.given import said

#: What a Gloo group opens beside a connection to each peer (a listener, a poll, a pipe, a look at
#: the interfaces), and some for other threads of the process.
_BESIDE_PEERS = 8
#: Threads of a Gloo group, and the one that may wait for its members.
_THREADS = 4
#: How the C library, C++ and Python's ``threading`` say that there is no further thread.
_NO_THREAD = ("resource temporarily unavailable", "can't start new thread")
_NO_DESCRIPTOR = {
    errno.EMFILE: os.strerror(errno.EMFILE).lower(),
    errno.ENFILE: os.strerror(errno.ENFILE).lower(),
}


#: Descriptors that groups under way may still open, in all threads together; and its lock.
_promised = [0]
_promising = threading.Lock()


def check_room_for_groups(*sizes: int) -> None:
    """Raises where this process cannot have what Gloo groups of these sizes need.

    Gloo accepts connections in a thread of its own: what it is refused there ends the process, and
    so does a group that has some of its threads and is refused the next one.

    Raises:
        OSError: descriptors.
        RuntimeError: threads.
    """
    with room_for_groups(*sizes):
        pass


@contextmanager
def room_for_groups(*sizes: int) -> Iterator[None]:
    """As :func:`check_room_for_groups`; what is found stays theirs while they are made in here.

    Groups of an attempt, of a world and of its snapshots may be made at a time, by threads that
    each found room for their own. What is made already counts twice until the end.
    """
    made = [size for size in sizes if size > 1]
    needed = sum(size + _BESIDE_PEERS for size in made)
    with _promising:
        _check_descriptors(needed, _promised[0])
        _promised[0] += needed
    try:
        _check_threads(_THREADS * len(made))
        yield
    finally:
        with _promising:
            _promised[0] -= needed


def _check_threads(needed: int) -> None:
    """Has as many threads at once; their stacks are of the size of Gloo's."""
    end, started = threading.Event(), list[Beside]()
    try:
        for _ in range(needed):
            thread = Beside("dynatrain looks for room", end.wait)
            thread.start()
            started.append(thread)
    finally:
        end.set()
        for thread in started:
            thread.join()


def _check_descriptors(needed: int, promised: int) -> None:
    """Counts them: taking them to see would leave other threads none for that moment."""
    if not needed:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    of_system = _read("/proc/sys/fs/file-nr").split()
    lacking = 0
    if soft != resource.RLIM_INFINITY:
        open_now = sum(int(each) < soft for each in os.listdir("/proc/self/fd")) - 1
        lacking = errno.EMFILE if open_now + promised + needed > soft else 0
    if not lacking and len(of_system) == 3:
        in_use, limit = int(of_system[0]), int(of_system[2])
        lacking = errno.ENFILE if in_use + promised + needed > limit else 0
    if lacking:
        beside = f", beside {promised} for others under way" if promised else ""
        raise OSError(
            lacking, f"{os.strerror(lacking)}: connecting takes up to {needed} more{beside}"
        )


def refusal(error: BaseException) -> tuple[str, str, str] | None:
    """What the system refused, the limit that was met, and what to do; None for other errors."""
    text = said(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if not isinstance(error, OSError | RuntimeError):
        return None
    if number == errno.ENFILE or _NO_DESCRIPTOR[errno.ENFILE] in text:
        return _of_system()
    if number == errno.EMFILE or _NO_DESCRIPTOR[errno.EMFILE] in text:
        return _of_process(said(error).rpartition(": ")[2] if number is not None else "")
    if number is None and any(words in text for words in _NO_THREAD):
        return _of_threads()
    return None


def _of_process(needs: str) -> tuple[str, str, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        "a file descriptor (too many open files)" + (f"; {needs}" if "more" in needs else ""),
        f"this process may have {_shown(soft)} open (ulimit -n; hard limit {_shown(hard)}) and has "
        f"{_counted('/proc/self/fd')}",
        "raise the limit (`ulimit -n` before the launcher, or resource.setrlimit in the script), "
        "or close files and sockets",
    )


def _of_system() -> tuple[str, str, str]:
    return (
        "a file descriptor (too many open files in the system)",
        f"all processes of this machine may have {_read('/proc/sys/fs/file-max')} open "
        "(sysctl fs.file-max)",
        "raise the limit, or end processes that hold many files",
    )


def _of_threads() -> tuple[str, str, str]:
    of_user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    return (
        "a thread",
        f"this process has {_counted('/proc/self/task')} threads; its user may have "
        f"{_shown(of_user)} (ulimit -u), its cgroup {_pids_max()} (pids.max), and its address "
        f"space is {_shown(memory)} bytes (ulimit -v)",
        "raise the limit that is met, or lower num_threads and the threads of data loaders",
    )


def _pids_max() -> str:
    """The lowest limit on tasks from this process's cgroup up; cgroup v2 and v1."""
    found = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "pids"):
            root = Path("/sys/fs/cgroup", controllers)
            own = root / path.lstrip("/")
            found += [_read(str(each / "pids.max")) for each in (own, *own.parents)]
    numbers = [int(each) for each in found if each.isdecimal()]
    return str(min(numbers)) if numbers else "any number"


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _counted(folder: str) -> str:
    try:
        return str(len(os.listdir(folder)))
    except OSError:  # no descriptor is left to look, or there is no such folder
        return "all of them" if folder.endswith("fd") else "some"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return "an unknown number"
