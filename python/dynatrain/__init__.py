"""dynatrain: a running PyTorch training job changes its parallel layout, bit for bit.

See README.md for the ten-line example and docs/ for the manual.
"""

from dynatrain._errors import (
    BudgetError,
    DeviceError,
    Error,
    InternalError,
    LayoutError,
    StaleStateError,
    TransportError,
)
from dynatrain._version import __version__
from dynatrain.api import current_session, fingerprint, init, switch_parallelism
from dynatrain.data import ElasticLoader
from dynatrain.generation.lanes import Nccl
from dynatrain.generation.world import World
from dynatrain.layout import Layout
from dynatrain.planning import PlanReport, RankPlan, TensorSpec, Topology, plan
from dynatrain.report import PreparedSwitch, Span, SwitchReport
from dynatrain.sampler import ElasticSampler
from dynatrain.session import Session
from dynatrain.train_state import Stateful, TrainState

__all__ = [
    "BudgetError",
    "DeviceError",
    "ElasticLoader",
    "ElasticSampler",
    "Error",
    "InternalError",
    "Layout",
    "LayoutError",
    "Nccl",
    "PlanReport",
    "PreparedSwitch",
    "RankPlan",
    "Session",
    "Span",
    "StaleStateError",
    "Stateful",
    "SwitchReport",
    "TensorSpec",
    "Topology",
    "TrainState",
    "TransportError",
    "World",
    "__version__",
    "current_session",
    "fingerprint",
    "init",
    "plan",
    "switch_parallelism",
]
