"""What test folders share: the worker processes, the JSON reference, a profile for hypothesis."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from checkout import ROOT, read
from networks import Networks
from worker_pool import WorkerPool

try:
    from hypothesis import settings
except ModuleNotFoundError:  # a machine that runs tests/gpu alone needs none
    pass
else:
    # The same examples on every machine: a failure seen in CI is seen here.
    settings.register_profile("dynatrain", deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("dynatrain")


def pytest_configure() -> None:
    """A shell that runs tests in its background has them ignore Ctrl-C, which some of them send."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """The test that leaves torch's default group fails, not the next one that makes its own."""
    yield
    c10d = sys.modules.get("torch.distributed")  # a machine that plans alone has no torch
    if c10d is not None and c10d.is_initialized():
        c10d.destroy_process_group()
        pytest.fail("the test left torch's default process group behind")


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Real processes over Gloo, started on first use and shared by all tests."""
    workers = WorkerPool()
    yield workers
    workers.close()


@pytest.fixture
def networks() -> Iterator[Callable[..., Networks]]:
    """Makes networks of these names; skips the test where this process may not."""
    made = []

    def make(*names: str) -> Networks:
        try:
            made.append(Networks(*names))
        except OSError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        return made[-1]

    yield make
    for each in made:
        each.remove()


def _rows(section):
    page = read(ROOT / "docs/reference/json.md")
    body = page.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return [line.split("|")[1:3] for line in body.splitlines() if line.startswith("| `")]


@pytest.fixture(scope="session")
def reference_fields():
    """Field names in a table of docs/reference/json.md; `of=` those that one row's text lists."""

    def fields(section, of=None):
        rows = _rows(section)
        if of is None:
            return {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
        text = next(row[1] for row in rows if f"`{of}`" in row[0]).split(";")[0]
        return set(re.findall(r"`(\w+)`", text))

    return fields
