"""One switch of a real model, beside a job that its framework alone made in the target layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import training_jobs as jobs
from real_models import whole

TRAINED = 2


@dataclass
class Job:
    """What trains on this rank; ``step`` takes the number of a step."""

    modules: list[Any]
    optimizers: Any
    step: Callable[[int], object]
    scheduler: Any = None

    def parts(self):
        return self.modules, self.optimizers, self.scheduler


class Framework(Protocol):
    """What a test says of one framework."""

    def start(self, layout) -> Any:
        """A session of the framework's model with weights that depend on their names alone."""

    def held(self, session) -> Job:
        """What the session trains at present."""

    def made_straight(self, groups) -> Job:
        """A job in the layout of ``groups`` that dynatrain has not seen."""


def switch_once(framework, source, target):
    """Trains, switches, and trains a step beside a job that was filled by hand."""
    session = framework.start(source)
    for step in range(TRAINED):
        framework.held(session).step(step)
    before = whole.gathered(*framework.held(session).parts())
    report = session.switch(target)
    moved, straight = framework.held(session), framework.made_straight(session.world.groups)
    after = whole.gathered(*moved.parts())
    whole.fill(before, *straight.parts())
    loaded = whole.gathered(*straight.parts())
    for job in (moved, straight):
        job.step(TRAINED)
    steps = [whole.gathered(*job.parts()) for job in (moved, straight)]
    session.close()
    return SimpleNamespace(
        num_tensors=len(before),
        moved=jobs.differences(before, after),
        loaded=jobs.differences(before, loaded),
        next_step=jobs.differences(*steps),
        trained=len(jobs.differences(after, steps[0])),
        stray=stray_names(moved),
        minimal=report.bytes_moved == report.lower_bound_bytes,
    )


def stray_names(job):
    """Names in the optimizers' groups that are not those of the parameters beside them."""
    names = {id(param): name for part in job.modules for name, param in part.named_parameters()}
    stray = set()
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            own = {names[id(param)] for param in group["params"]}
            stray |= own ^ set(group.get("param_names", own))
    return sorted(stray)
