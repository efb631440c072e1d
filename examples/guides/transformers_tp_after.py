"""The same script, able to change its layout while it trains; needs `pip install transformers`.

torchrun --nproc-per-node 4 examples/guides/transformers_tp_after.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig
from transformers.distributed import DistributedConfig
from transformers.distributed.utils import TransformersDeviceMesh, initialize_distributed_mesh

import dynatrain
from dynatrain import Layout, SwitchReport, TrainState, World

NUM_STEPS, GLOBAL_BATCH, SEQ_LEN, VOCAB = 12, 16, 16, 64
SWITCHES = {4: "tp=4", 8: "dp=4"}  # after so many steps
Meshes = tuple[DistributedConfig, TransformersDeviceMesh]


def make_meshes(dp: int, tp: int) -> Meshes:
    """Return transformers' words for a layout, and its groups; all ranks make them together."""
    config = DistributedConfig(fsdp_size=dp, tp_size=tp)
    _, mesh = initialize_distributed_mesh(config)
    return config, mesh


def make_model(config: DistributedConfig, mesh: TransformersDeviceMesh) -> PreTrainedModel:
    """Return the model, cut by the plan that it brings along."""
    model = AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            use_cache=False,
        )
    )
    return model.maybe_distribute_model(model, config, mesh)


def make_batch(step: int, mesh: TransformersDeviceMesh) -> Tensor:
    """Return this rank's sequences, which count up from a start of their own."""
    starts = torch.randint(VOCAB, (GLOBAL_BATCH, 1), generator=torch.Generator().manual_seed(step))
    tokens = (starts + torch.arange(SEQ_LEN)) % VOCAB
    fsdp = mesh.get_mesh("fsdp")
    return tokens.chunk(fsdp.size())[fsdp.get_local_rank()]


def groups(layout: Layout) -> Meshes:
    """Make transformers' groups of a layout; called on all ranks before the first build of it."""
    return make_meshes(layout.dp_shard, layout.tp)


def build(world: World) -> TrainState:
    """Build model and optimizer; called for every layout."""
    model = make_model(*world.groups)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    return TrainState(model, optimizer)


def main(switches: Mapping[int, str] = SWITCHES) -> tuple[dict[int, float], list[SwitchReport]]:
    """Train and switch; return this rank's losses by step, and the reports."""
    torch.manual_seed(0)  # the same weights on every rank
    session = dynatrain.init(build, "dp=2,tp=2", groups=groups, verify=("sums", "fingerprint"))
    losses: dict[int, float] = {}
    reports = []
    for step in session.steps(NUM_STEPS):
        model, optimizer = session.state.model, session.state.optimizer
        tokens = make_batch(step, session.world.groups[1])
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses[step] = loss.item()
        if step + 1 in switches:
            reports.append(dynatrain.switch_parallelism(switches[step + 1]))
    session.close()
    return losses, reports


if __name__ == "__main__":
    dist.init_process_group("gloo")
    losses, reports = main()
    if dist.get_rank() == 0:
        print(losses, *reports, sep="\n")  # noqa: T201
    dist.destroy_process_group()
