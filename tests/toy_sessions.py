"""Sessions of toys over ranks that are threads, and whether each holds its part."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch

from dynatrain.collective import Collective, Settled
from dynatrain.generation.generation import Generation
from dynatrain.generation.options import Options
from dynatrain.layout import Layout
from dynatrain.progress import Progress
from dynatrain.switch.present import Present
from ranks_in_threads import STUCK_S, ThreadMembers
from toy_state import COLUMNS, ROWS, Places, Toy, ToyAdapter

NUM_RANKS = 4
SOURCE, TARGET, FOLLOWING = "dp=4", "dp=2,tp=2", "tp=4"
#: The boxes of the weight by rank, in rows and columns of its blocks.
BLOCKS = {SOURCE: (4, 1), TARGET: (2, 2), FOLLOWING: (1, 4)}
_RNG = np.random.default_rng(7)
WEIGHT = _RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
BIAS = _RNG.standard_normal(COLUMNS).astype(np.float32)


def fill(state):
    row, column = np.split(WEIGHT, NUM_RANKS)[state.rank], BIAS
    state.arrays["weight|param"][:], state.arrays["bias|param"][:] = row, column
    state.steps = 5


def start(outside, rank):
    """One rank's part in a session that has begun in the source."""
    verify = frozenset({"sums", "fingerprint"})
    options = Options(timedelta(seconds=STUCK_S), 1 << 20, None, 1, "auto", verify, 0)
    members = ThreadMembers("a session", rank, outside.members, outside.store, outside)
    host = torch.device("cpu")
    settled = Settled(Toy, Generation(members, options, host), host, ToyAdapter(fill), None)
    part = Collective(settled, Present(0), Progress())
    maker = part.generation.maker
    maker._c10d = lambda kind: outside.transport(rank, f"{maker._connection}/{kind}")
    part.worlds = part.targets._worlds = Places(part.engine)
    part.start(Layout.parse(SOURCE), None, {})
    return part


def wait_at_most(part, seconds):
    """Gives every wait of a rank this deadline: only who is meant to be late is so."""
    timeout = timedelta(seconds=seconds)
    part.generation.options = replace(part.generation.options, timeout=timeout)
    part.generation.meeting._timeout = part.engine.control.timeout = timeout
    if part.engine.control._tree is not None:
        part.engine.control._tree._timeout = timeout


def holds_its_part(part):
    """Whether a rank has what its layout gives it of what all began with, bit for bit."""
    state, (rows, columns) = part.present.state, BLOCKS[str(part.present.layout)]
    row, column = divmod(part.engine.rank, columns)
    block = np.hsplit(np.vsplit(WEIGHT, rows)[row], columns)[column]
    weight, bias = state.arrays["weight|param"], state.arrays["bias|param"]
    return (
        weight.tobytes() == block.tobytes()
        and bias.tobytes() == BIAS.tobytes()
        and state.steps == 5
    )
