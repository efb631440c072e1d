"""Described models, against what was published of them and what torch makes of their layouts."""

from __future__ import annotations

import math
import re

import pytest
import torch

import dynatrain
from dynatrain import Layout, LayoutError, TensorSpec, Topology
from dynatrain.planning import OPTIMIZERS, Model, Slot, describe, explain, load_model, topology

#: Elements of the published checkpoints; of GPT-3, that has none, what its paper rounds to.
PUBLISHED = {
    "gpt3-6.7b": 6_658_404_352,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "qwen3-32b": 32_762_123_264,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v3": 671_026_419_200,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_the_parameters_that_were_published(name):
    assert load_model(name).num_params == PUBLISHED[name]


WEIGHT = TensorSpec("w", (4, 4))
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", SMALL),
    "mistral": ("MistralForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3ForCausalLM", SMALL | {"tie_word_embeddings": True}),
    "mixtral": ("MixtralForCausalLM", SMALL | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", SMALL | EXPERTS | {"mlp_only_layers": [1]}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", SMALL | LATENT),
    "llama, biases": ("LlamaForCausalLM", SMALL | {"mlp_bias": True, "attention_bias": True}),
    "deepseek_v3, biases": ("DeepseekV3ForCausalLM", SMALL | LATENT | {"attention_bias": True}),
    "gpt2, untied": (
        "GPT2LMHeadModel",
        {"n_layer": 2, "n_embd": 32, "n_head": 4, "tie_word_embeddings": False},
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64}),
}


# A family that changed would be planned with bytes that no switch moves.
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_as_many_elements_as_its_implementation(family):
    transformers = pytest.importorskip("transformers")
    name, sizes = FAMILIES[family]
    config = transformers.AutoConfig.for_model(family.partition(",")[0], **sizes)
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    buffers = (b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))
    elements = sum(each.numel() for each in (*model.parameters(), *buffers))

    assert load_model(config.to_dict()).num_params == elements


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "bert"}, "model_type='bert'"),
        ({}, "model_type=None"),
        ({"model_type": "llama"} | SMALL | {"hidden_size": 0}, "hidden_size=0"),
        ({"model_type": "llama"} | SMALL | {"hidden_size": "wide"}, "hidden_size='wide'"),
        ({"model_type": "llama"}, "has no vocab_size"),
        ({"model_type": "llama"} | SMALL | {"num_hidden_layers": 10**12}, "=1000000000000"),
        ({"model_type": "qwen3_moe"} | SMALL | EXPERTS | {"mlp_only_layers": 3}, "=3"),
        ({"model_type": "llama"} | SMALL | {"tie_word_embeddings": 1}, "tie_word_embeddings=1"),
    ],
)
def test_a_config_that_is_none_is_refused_by_name(config, named):
    with pytest.raises(LayoutError, match=named):
        load_model(config)


def test_an_optimizer_that_nobody_knows_is_refused():
    with pytest.raises(LayoutError, match="adamw-mixed"):
        load_model("llama3-8b", "adam")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: load_model(3), "name=3"),
        (lambda: load_model("llama3-8b", None), "no optimizer is called None"),
        (lambda: Slot("a|b"), "name="),
        (lambda: Slot("a", "int3"), "dtype="),
        (lambda: Model("m", ()), "tensors="),
        (lambda: Model("m", [3]), "tensors="),
        (lambda: Model("m", [WEIGHT], []), "slots="),
        (lambda: topology("h100"), "no topology is called 'h100'"),
        (lambda: topology("dgx-h100", 0), "num_nodes=0"),
        (lambda: Topology(num_nodes=2), "num_nodes=2"),
        (lambda: Topology(node_link_bytes_per_second=-1), "node_link_bytes_per_second=-1"),
        (lambda: TensorSpec("w", (), has_experts=True), "has_experts=True"),
        (lambda: TensorSpec("w", (4,), has_experts=True), "has_experts=True"),
        (lambda: TensorSpec("w", (4, 4), 0, has_experts=True), "has_experts=True"),
        (lambda: Topology(10**400), "link_bytes_per_second="),
        (lambda: Topology(float("inf")), "link_bytes_per_second=inf"),
        (lambda: describe("dp=2", [3]), "tensors="),
        (lambda: describe("dp=2", [WEIGHT], [3]), "slots="),
        (lambda: explain("dp=2", [WEIGHT], "w", 0), "layouts="),
        (lambda: explain(("dp=2", "tp=2"), [WEIGHT], None, 0), "tensor=None"),
        (lambda: explain(("dp=2", "tp=2"), [WEIGHT], "w", 2), "rank=2"),
        (lambda: explain(("dp=2", "tp=2"), [WEIGHT], "w", 0, 1), "topology=1"),
        (lambda: dynatrain.plan("dp=2", "ep=2,dp=2", [WEIGHT]), "experts of this model"),
    ],
)
def test_what_is_none_of_its_kind_is_refused_by_name(call, named):
    with pytest.raises(LayoutError, match=re.escape(named)):
        call()


# What mixed precision keeps of a parameter: 2 + 4 + 4 + 4 bytes, as everybody counts.
@pytest.mark.parametrize(
    ("optimizer", "size_bytes"),
    [("adamw", 12), ("adamw-mixed", 14), ("adamw-bf16", 6), ("sgd-momentum", 8), ("none", 2)],
)
def test_an_optimizer_s_state_has_its_bytes(optimizer, size_bytes):
    model = load_model({"model_type": "llama"} | SMALL, optimizer)
    held = describe("dp=1", model.tensors, OPTIMIZERS[optimizer])

    assert held.bytes_of_rank(0) == size_bytes * model.num_params


def held_by_hand(layout, shape, tp_dim):
    """What each rank holds of the experts, whose elements are numbered, by the words of the page.

    ``etp`` varies fastest, then ``ep``, then who shares an expert; the axes of the world are in
    their usual order, one stage.
    """
    whole = torch.arange(math.prod(shape)).reshape(shape)
    sharing = layout.dp_shard * layout.cp * layout.tp // (layout.ep * layout.etp)
    held = []
    for rank in range(layout.world_size):
        inner = rank % (sharing * layout.ep * layout.etp)
        etp, ep = inner % layout.etp, inner // layout.etp % layout.ep
        shared = inner // layout.etp // layout.ep
        parts = whole.chunk(layout.ep, 0)
        part = parts[ep] if ep < len(parts) else whole[:0]
        part = part.chunk(layout.etp, tp_dim)[etp]
        fsdp_dim = 0 if sharing * layout.ep <= shape[0] else 1
        pieces = part.chunk(sharing, fsdp_dim)
        held.append(set(pieces[shared].flatten().tolist()) if shared < len(pieces) else set())
    return held


# Experts lie on other ranks than all else: a mesh that is off by an axis moves each of them.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dp=4,ep=4", "dp=4,ep=2"),
        ("dp=4,ep=2", "dp=2,tp=2,ep=2"),
        ("dp=2,tp=2,ep=2,etp=2", "dp=4,ep=4"),
        ("dp_replicate=2,dp=4,ep=2", "dp=4,tp=2,ep=4,etp=2"),
        ("dp=8,ep=2", "tp=4,ep=4"),
    ],
)
@pytest.mark.parametrize("tp_dim", [1, 2])
def test_experts_lie_where_their_axes_say(source, target, tp_dim):
    spec = TensorSpec("experts", (4, 8, 8), tp_dim, has_experts=True)
    report = dynatrain.plan(source, target, [spec])
    before = held_by_hand(Layout.parse(source), spec.shape, tp_dim)
    after = held_by_hand(Layout.parse(target), spec.shape, tp_dim)

    num_ranks = max(len(before), len(after))
    before += [set()] * (num_ranks - len(before))
    after += [set()] * (num_ranks - len(after))
    pairs = list(zip(before, after, strict=True))
    assert [rank.received_bytes for rank in report.ranks] == [12 * len(b - a) for a, b in pairs]
    assert [rank.kept_bytes for rank in report.ranks] == [12 * len(a & b) for a, b in pairs]


# What is said of a transfer is what somebody who looks for a slow link believes.
def test_an_explanation_says_why_a_rank_sends():
    links = Topology(ranks_per_node=2)

    def whys(source, target, rank):
        found = explain((source, target), [WEIGHT], "w", rank, links)
        return [(each.src, each.dst, each.why) for each in found.transfers if each.dst == rank]

    assert whys("dp_replicate=2", "dp_replicate=4", 0) == [(0, 0, "it has it already")]
    (far,) = whys("dp_replicate=2", "dp_replicate=3", 2)
    assert far[2] == "one of the owners of 2, none on its node; they take turns"
    (near,) = whys("dp_replicate=3", "dp_replicate=4", 3)
    assert near == (2, 3, "one of the owners of 3, 1 on its node")
    (only,) = whys("dp=1", "dp_replicate=2", 1)
    assert only == (0, 1, "the only owner")
    large = [TensorSpec("w", (4096, 4096))]
    found = explain(("dp_replicate=3", "dp_replicate=4"), large, "w", 3)
    assert len(found.transfers) == 3
    assert {each.src for each in found.transfers} == {0, 1, 2}
    assert all(each.why.endswith("by parts, so that all send alike") for each in found.transfers)
