"""Models of real modules, whose memory nobody reads."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import dynatrain
from dynatrain import LayoutError, TensorSpec
from dynatrain.planning import load_model, model_of


class Net(nn.Module):
    """Two blocks between an embedding and a head that are tied."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4, bias=False)})
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(4, bias=False)
        self.head = nn.Linear(4, 16, bias=False)
        self.head.weight = self.embed.weight


DIMS = {"*.up.*": 0, "*.down.weight": 1, "embed.weight": 0}


def spec_of(model, name):
    return next(spec for spec in model.tensors if spec.fqn == name)


def test_a_module_s_parameters_have_their_layers_and_cuts():
    with torch.device("meta"):
        model = model_of(Net(), tp_dims=DIMS)

    assert [spec.fqn for spec in model.tensors] == [
        "embed.weight",
        *(
            f"blocks.{at}.{name}"
            for at in (0, 1)
            for name in ("up.weight", "up.bias", "down.weight")
        ),
        "norm.weight",
    ]
    assert spec_of(model, "embed.weight") == TensorSpec("embed.weight", (16, 4), 0, (0, 1))
    assert spec_of(model, "blocks.1.down.weight") == TensorSpec(
        "blocks.1.down.weight", (4, 8), 1, (1,)
    )
    assert spec_of(model, "norm.weight").layers == (1,)


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    dist.destroy_process_group()


# A plan that is told by hand how the model is cut tells of another model than the script trains.
def test_placements_say_how_a_module_is_cut(mesh):
    net = Net()
    for block in net.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    by_placements = model_of(net, tp_dims={"embed.weight": 0})

    assert by_placements.tensors == model_of(Net(), tp_dims=DIMS).tensors


# What is planned of a family's own implementation is what is planned of its config.
def test_a_module_is_planned_as_its_config():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model("llama", **sizes, **heads)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    columns = {f"*.{name}_proj.weight": 0 for name in ("q", "k", "v", "gate", "up")}
    rows = {f"*.{name}_proj.weight": 1 for name in ("o", "down")}
    vocabulary = {"*.embed_tokens.weight": 0, "lm_head.weight": 0}
    by_module = model_of(module, tp_dims=columns | rows | vocabulary)
    by_config = load_model(config.to_dict())

    assert set(by_module.tensors) == set(by_config.tensors)
    plans = [dynatrain.plan("pp=3,dp=2", "tp=2,dp=2", each) for each in (by_module, by_config)]
    assert plans[0].ranks == plans[1].ranks


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: model_of(3), "module=3"),
        (lambda: model_of(nn.ReLU()), "one with parameters"),
        (lambda: model_of(nn.Linear(2, 2), "adam"), "no optimizer is called 'adam'"),
        (lambda: model_of(nn.Linear(2, 2), tp_dims={"*": "0"}), "tp_dims="),
        (lambda: model_of(nn.Linear(2, 2), tp_dims=[1]), "tp_dims="),
        (lambda: model_of(nn.Linear(2, 2), tp_dims={"*": 2}), "tp_dim=2"),
        (lambda: model_of(nn.Linear(2, 2, dtype=torch.complex64)), "complex64"),
    ],
)
def test_what_is_no_model_is_refused_by_name(call, named):
    with pytest.raises(LayoutError, match=named):
        call()
