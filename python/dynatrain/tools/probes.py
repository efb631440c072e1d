"""One function per question of `dynatrain doctor`: what it found, or an error that says why not.

Every import stands inside its probe: a missing part fails its own line and no other.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH, NEWEST_TORCH = (2, 11), (2, 15)
PROBE_TIMEOUT_S = 20.0
NO_DRIVER = "it needs the NVIDIA driver, which is not here"
#: Which pages of shared memory may be huge; what is chosen stands in brackets.
HUGE_SHARED_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
#: 0: processes of one user may read each other's memory.
PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
#: Given a process, an address and a size, writes what lies there; without torch, whose import is
#: slow.
READ_ANOTHER_PROCESS = """
import ctypes, sys
pid, address, size = (int(text, 0) for text in sys.argv[1:])
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
own = ctypes.create_string_buffer(size)
mine, theirs = Piece(ctypes.addressof(own), size), Piece(address, size)
read = ctypes.CDLL(None).process_vm_readv
read.restype = ctypes.c_ssize_t
got = read(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
sys.stdout.buffer.write(own.raw[: max(0, got)])
"""
MIN_SHARED_BYTES = 64 * 2**20
MIN_FREE_BYTES = 2**30


class ProbeError(Exception):
    """What was looked for is not there; the message says what was found and what to do."""


def dotted(version: tuple[int, int]) -> str:
    """Returns (2, 11) as 2.11."""
    return f"{version[0]}.{version[1]}"


def gigabytes(size_bytes: int) -> str:
    """Returns a size for people."""
    return f"{size_bytes / 2**30:.1f} GiB"


def python_version() -> str:
    """Looks at the interpreter."""
    found = sys.version_info[:2]
    text = sys.version.split()[0]
    if not OLDEST_PYTHON <= found <= NEWEST_PYTHON:
        raise ProbeError(f"{text}; expected {dotted(OLDEST_PYTHON)} to {dotted(NEWEST_PYTHON)}")
    return text


def torch_version() -> str:
    """Imports torch."""
    try:
        import torch
    except ImportError as error:
        raise ProbeError(f"{error}: pip install 'torch>=2.11,<2.16'") from error

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if not OLDEST_TORCH <= (major, minor) <= NEWEST_TORCH:
        raise ProbeError(
            f"{torch.__version__}; expected {dotted(OLDEST_TORCH)} to {dotted(NEWEST_TORCH)}: "
            "pip install 'torch>=2.11,<2.16'"
        )
    return str(torch.__version__)


def native_module() -> str:
    """Imports the compiled part."""
    try:
        return str(importlib.import_module("dynatrain._native").__file__)
    except ImportError as error:
        raise ProbeError(f"{error}; install dynatrain again, under this torch") from error


def package() -> str:
    """Imports dynatrain as a script does, in a process of its own."""
    command = [sys.executable, "-c", "import dynatrain; print(*dynatrain.__path__)"]
    limit_s = 6 * PROBE_TIMEOUT_S
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"import dynatrain takes longer than {limit_s:.0f} s") from error
    if done.returncode != 0:
        raise ProbeError("import dynatrain fails: " + done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def c10d() -> str:
    """Asks the c10d transport whether this torch has what it stands on."""
    native = importlib.import_module("dynatrain._native")
    parts: dict[str, bool] = native.probe_c10d()
    missing = sorted(name for name, there in parts.items() if not there)
    if missing:
        raise ProbeError(f"this torch lacks {', '.join(missing)}: pip install 'torch>=2.11,<2.16'")
    return f"all {len(parts)} parts"


def gloo() -> str:
    """Sends one tensor between two ranks that are threads of this process."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    if not dist.is_gloo_available():
        raise ProbeError("this torch was built without Gloo")
    received = torch.zeros(8)
    store = HashStore()
    errors: list[BaseException] = []

    def rank(number: int) -> None:
        try:
            group = gloo_group(store, number)
            if number == 0:
                group.send([torch.arange(8.0)], 1, 0).wait()
            else:
                group.recv([received], 0, 0).wait()
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROBE_TIMEOUT_S)
    if errors:
        raise ProbeError(str(errors[0]))
    if not torch.equal(received, torch.arange(8.0)):
        raise ProbeError(f"no message arrived within {PROBE_TIMEOUT_S} s")
    return "a message arrived"


def gloo_group(store: object, rank: int) -> Any:
    """Returns rank `rank` of a group of two, apart from every registered group."""
    from torch._C import _distributed_c10d

    backend: Any = _distributed_c10d.ProcessGroupGloo
    return backend(store, rank, 2, datetime.timedelta(seconds=PROBE_TIMEOUT_S / 2))


def shared_memory() -> str:
    """Looks at the file system that processes of one host share."""
    if not Path("/dev/shm").is_dir():
        raise ProbeError("no /dev/shm; in a container mount a tmpfs there")
    free_bytes = shutil.disk_usage("/dev/shm").free
    if free_bytes < MIN_SHARED_BYTES:
        raise ProbeError(
            f"/dev/shm has {free_bytes} bytes free, expected {MIN_SHARED_BYTES}; "
            "in a container start it with a larger --shm-size"
        )
    return f"/dev/shm, {gigabytes(free_bytes)} free"


def huge_shared_pages() -> str:
    """Looks whether the system gives huge pages to memory that processes of one host share."""
    if not HUGE_SHARED_PAGES.exists():
        raise ProbeError("this system has none")
    chosen = HUGE_SHARED_PAGES.read_text().partition("[")[2].partition("]")[0]
    if chosen in ("never", "deny"):
        raise ProbeError(
            f"{HUGE_SHARED_PAGES} is {chosen}; with advise, transport='shared_memory' takes and "
            "frees memory ten times as fast"
        )
    return f"{HUGE_SHARED_PAGES} is {chosen}"


def memory_of_processes() -> str:
    """Has another process read a word of this one, as a rank reads its peers' own memory."""
    word = ctypes.create_string_buffer(os.urandom(8), 8)
    place = [str(os.getpid()), hex(ctypes.addressof(word)), str(len(word))]
    done = subprocess.run(
        [sys.executable, "-S", "-c", READ_ANOTHER_PROCESS, *place],
        capture_output=True,
        timeout=PROBE_TIMEOUT_S,
    )
    if done.stdout != word.raw:
        scope = PTRACE_SCOPE.read_text().strip() if PTRACE_SCOPE.exists() else "not there"
        raise ProbeError(
            f"the system forbids it ({PTRACE_SCOPE} is {scope}; containers lack SYS_PTRACE); with "
            "it, transport='shared_memory' reads in place what the first steps have made, too"
        )
    return "one process reads another's"


def free_memory() -> str:
    """Looks at the memory that a switch could use."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free_bytes = int(lines["MemAvailable"].split()[0]) * 1024
    if free_bytes < MIN_FREE_BYTES:
        raise ProbeError(f"{gigabytes(free_bytes)}, expected {gigabytes(MIN_FREE_BYTES)}")
    return f"{gigabytes(free_bytes)}, {os.cpu_count()} CPU cores"


def has_driver() -> bool:
    """Whether this process can open the NVIDIA driver's library."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def driver() -> str:
    """Looks for the NVIDIA driver."""
    if not has_driver():
        raise ProbeError(
            "no libcuda.so.1: this machine has no NVIDIA GPU, its driver is not installed, or the "
            "container was started without it (docker run --gpus all)"
        )
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return f"for CUDA up to {version.value // 1000}.{version.value % 1000 // 10}"


def in_a_line(problem: str) -> str:
    """Returns what the native module says first of a problem, without the room's name."""
    return problem.splitlines()[0].removeprefix("transport: ")


def cuda_devices() -> str:
    """Counts the GPUs that torch can use."""
    import torch

    built_for = torch.version.cuda
    if built_for is None:
        raise ProbeError("none that can be used: this torch was built without CUDA")
    if not has_driver():
        raise ProbeError(f"none: {NO_DRIVER} (torch itself was built for CUDA {built_for})")
    if not torch.cuda.is_available():
        raise ProbeError(f"none that can be used by this torch, {why_no_device(built_for)}")
    problem = importlib.import_module("dynatrain._native").cuda_problem()
    if problem:
        raise ProbeError(f"torch has a device, dynatrain none: {problem}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names)


def why_no_device(built_for: str) -> str:
    """Returns what may keep torch from a device where the driver is there."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    else:
        reason = "it gives no reason"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r}"
    return f"built for CUDA {built_for}: {reason}{hidden}"


def cuda_ipc() -> str:
    """Looks for what ranks need to read each other's device memory; a session tries it out."""
    native = importlib.import_module("dynatrain._native")
    if not has_driver():
        raise ProbeError(NO_DRIVER)
    problem = native.cuda_ipc_problem()
    if problem:
        raise ProbeError(in_a_line(problem))
    return "the driver offers it; whether the ranks of a job can is tried when it starts"


def last_line(command: list[str]) -> str:
    """Runs a tool and returns the last line that it prints."""
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
    )
    return done.stdout.strip().splitlines()[-1]


def cuda_toolkit() -> str:
    """Looks for nvcc."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if nvcc is None:
        raise ProbeError(f"no nvcc in PATH or {home}/bin; the CPU library is complete without it")
    return f"{nvcc}, {last_line([nvcc, '--version'])}"


def nccl() -> str:
    """Asks torch for its NCCL."""
    import torch
    import torch.distributed as dist

    if not dist.is_nccl_available():
        raise ProbeError("this torch was built without NCCL")
    version_of: Any = torch.cuda.nccl.version
    version = ".".join(str(part) for part in version_of())
    found = importlib.import_module("dynatrain._native").nccl_report()
    missing = found.registration_problem
    staging = f"cannot register staging: {missing}" if missing else "can register staging"
    if found.problem:
        problem = in_a_line(found.problem) if has_driver() else NO_DRIVER
        raise ProbeError(f"torch brings {version}, which {staging}; no transport: {problem}")
    newer = f", with {', '.join(found.newer_calls)}" if found.newer_calls else ""
    device = "" if torch.cuda.is_available() else " (needs a CUDA device)"
    return f"{version}{newer}; {staging}{device}"


def compiler() -> str:
    """Looks for a compiler that knows C++20; needed to build, not to run."""
    name = os.environ.get("CXX") or "c++"
    path = shutil.which(name)
    if path is None:
        raise ProbeError(f"no {name} in PATH; needed only to build from source")
    program = "#include <source_location>\nint main() {}\n"
    done = subprocess.run(
        [path, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
        input=program,
        check=False,
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise ProbeError(f"{path} cannot compile C++20; needed only to build from source")
    version = subprocess.run(
        [path, "--version"], check=True, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
    )
    return version.stdout.splitlines()[0]
