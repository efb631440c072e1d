"""Plans a switch on paper: no process group, no GPU, no tensors."""

from dynatrain.planning.catalog import CONFIGS, load_model
from dynatrain.planning.explain import CellOfTensor, Explanation, Transfer, explain
from dynatrain.planning.layouts import Batch, RankedLayout, rank_layouts
from dynatrain.planning.maps import describe
from dynatrain.planning.modules import model_of
from dynatrain.planning.page import page
from dynatrain.planning.plan import plan
from dynatrain.planning.report import Bottleneck, Egress, PlanReport, RankPlan
from dynatrain.planning.tensors import OPTIMIZERS, Model, Slot, TensorSpec
from dynatrain.planning.topologies import PRESETS, Topology, topology

__all__ = [
    "CONFIGS",
    "OPTIMIZERS",
    "PRESETS",
    "Batch",
    "Bottleneck",
    "CellOfTensor",
    "Egress",
    "Explanation",
    "Model",
    "PlanReport",
    "RankPlan",
    "RankedLayout",
    "Slot",
    "TensorSpec",
    "Topology",
    "Transfer",
    "describe",
    "explain",
    "load_model",
    "model_of",
    "page",
    "plan",
    "rank_layouts",
    "topology",
]
