"""How `make gpu-check` runs its steps: each in its time, leaving its outcome and its reason."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_report import as_markdown

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_VERSION = 1
TAIL_LINES = 40
#: Nothing here crosses to another machine, and the name of this one need not resolve.
LOCAL = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


@dataclass
class Step:
    """What became of one step: `status` is ok, failed or skipped; `data` is what it measured."""

    name: str
    status: str
    seconds: float
    detail: str = ""
    data: Any = None


class SkipStepError(Exception):
    """The step cannot run here; the message says why, `data` what is known all the same."""

    def __init__(self, text: str, data: Any = None) -> None:
        super().__init__(text)
        self.data = data


class FailedStepError(Exception):
    """The step failed, and yet has something to show."""

    def __init__(self, text: str, data: Any) -> None:
        super().__init__(text)
        self.data = data


@dataclass
class Check:
    """A run: its folders, its deadline, and the steps so far; steps may run side by side."""

    out: Path
    build: Path
    deadline: float
    steps: list[Step] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self, name: str, work: Callable[[float], tuple[str, Any]], limit_s: float) -> bool:
        """Runs one step with at most `limit_s` of the time that is left."""
        begin = time.monotonic()
        limit_s = min(limit_s, self.deadline - begin)
        data: Any = None
        try:
            if limit_s < 5:
                raise SkipStepError("no time was left")
            detail, data = work(limit_s)
            status = "ok"
        except SkipStepError as error:
            status, detail, data = "skipped", str(error), error.data
        except FailedStepError as error:
            status, detail, data = "failed", str(error), error.data
        except RuntimeError as error:
            status, detail = "failed", f"{cause(error)}\n{error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps go on
            status, detail = "failed", f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - begin
        first = detail.splitlines()[0] if detail else ""
        with self.lock:
            self.steps.append(Step(name, status, round(seconds, 1), detail, data))
            sys.stderr.write(f"== {name}: {status}, {seconds:.0f} s  {first}\n")
            self.write()
        return status == "ok"

    def write(self) -> None:
        """Writes what is known so far, so that a call that is cut off leaves something."""
        results = {
            "schema_version": SCHEMA_VERSION,
            "kind": "gpu-check",
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "steps": [asdict(step) for step in self.steps],
        }
        (self.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (self.out / "results.md").write_text(page_of(results))
        with tarfile.open(self.out / "logs.tar.gz", "w:gz") as logs:
            for log in sorted(self.out.glob("*.log")):
                logs.add(log, log.name)


def page_of(results: dict[str, Any]) -> str:
    """The page, or why there is none: the numbers in results.json stand."""
    try:
        return as_markdown(results)
    except Exception as error:  # noqa: BLE001 - a table must not end the run
        return f"the page could not be written: {type(error).__name__}: {error}\n"


def command(
    arguments: list[str | Path],
    limit_s: float,
    log: Path,
    environment: dict[str, str] | None = None,
    good: tuple[int, ...] = (0,),
) -> str:
    """Runs a program; returns what it wrote to stdout, all of which also goes to `log`.

    Raises:
        RuntimeError: it failed or ran out of time; with the end of its output.
    """
    full = dict(os.environ) | LOCAL | (environment or {})
    words = [str(argument) for argument in arguments]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=full,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        is_late = False
        try:
            stdout, stderr = process.communicate(timeout=limit_s)
            end = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            is_late = True
            os.killpg(process.pid, 9)
            stdout, stderr = process.communicate()
            end = f"it took longer than {limit_s:.0f} s"
    log.write_text(f"$ {' '.join(words)}\n{stdout}\n{stderr}\n{end}\n")
    if is_late or process.returncode not in good:
        tail = "\n".join((stdout + stderr).strip().splitlines()[-TAIL_LINES:])
        raise RuntimeError(f"{Path(words[0]).name}: {end}\n{tail}")
    return stdout


def cause(error: RuntimeError) -> str:
    """The line of a program's output that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "it took longer than" in lines[0]:
        return lines[0]
    error_line = re.compile(r"(\[rank\d+\]: *)?[\w.]*(Error|Exception)\b")
    telling = [line for line in lines if error_line.match(line)]
    refused = [line for line in lines if re.match(r"ranks? \d[\d, -]*: ", line)]
    return (refused or telling or lines)[-1]


def need(*modules: str) -> None:
    """Skips the step where this Python lacks one of the modules."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SkipStepError(f"this Python has no {', '.join(missing)}")


def program(name: str, *places: str) -> Path:
    """A program of this Python's environment, in PATH, or in one of the places.

    Raises:
        SkipStepError: it is nowhere.
    """
    beside = Path(sys.executable).parent / name
    found = [beside, shutil.which(name), *(Path(place) / name for place in places)]
    for candidate in found:
        if candidate is not None and Path(candidate).exists():
            return Path(candidate)
    raise SkipStepError(f"there is no {name}")


def skip_reason(case: ElementTree.Element) -> str:
    """Why a test was skipped; GoogleTest prints it, pytest has it as the message."""
    printed = re.search(r": Skipped\n(.*)", case.findtext("system-out") or "")
    if printed:
        return printed.group(1)
    note = case.find("skipped")
    return "" if note is None else (note.get("message") or "")


def failure_text(case: ElementTree.Element) -> str:
    """The end of what a failed test said."""
    note = case.find("failure") if case.find("failure") is not None else case.find("error")
    texts = [note.text if note is not None else "", case.findtext("system-out")]
    text = max((text or "" for text in texts), key=len)
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def count_tests(report: Path) -> tuple[str, Any]:
    """Counts a JUnit report; raises FailedStepError when a test failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [
        c
        for c in cases
        if c.find("skipped") is not None or c.get("status") in ("notrun", "disabled")
    ]
    reasons = {}
    for case in skipped:
        reasons[case.get("name", "")] = skip_reason(case)
    outcomes = {case.get("name", ""): "passed" for case in cases}
    outcomes |= dict.fromkeys(reasons, "skipped")
    outcomes |= {case.get("name", ""): "failed" for case in failed}
    data: dict[str, Any] = {
        "outcomes": outcomes,
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": [case.get("name") for case in failed],
        "skipped": reasons,
    }
    text = f"{data['passed']} passed, {len(failed)} failed, {len(skipped)} skipped"
    if failed:
        said = [f"{case.get('name')}: {failure_text(case)}" for case in failed]
        raise FailedStepError("\n".join([text, *said]), data)
    if cases and not data["passed"]:
        reason = next(iter(reasons.values()))
        raise SkipStepError(f"{text}: {reason}", data)
    return text, data
