"""The same script, able to change its layout while it trains; needs `pip install transformers`.

torchrun --nproc-per-node 4 examples/guides/hugging_face_after.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import dynatrain

NUM_STEPS, GLOBAL_BATCH = 18, 12
SWITCHES = {6: "dp=2", 10: "dp=2,dp_replicate=2", 14: "dp=4"}  # after so many steps


class Counting(Dataset[Tensor]):
    """Sequences that count up, each from its own start."""

    def __len__(self) -> int:
        return GLOBAL_BATCH * 6

    def __getitem__(self, index: int) -> Tensor:
        return (torch.arange(16) + index) % 64


def make_model() -> PreTrainedModel:
    """Return the model with tied embeddings."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return AutoModelForCausalLM.from_config(config)


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build model and optimizer; called for every layout."""
    model = make_model()
    mesh = world.submesh("dp_replicate", "dp_shard")
    if mesh is not None:
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return dynatrain.TrainState(model, optimizer)


def main(
    switches: Mapping[int, str] = SWITCHES,
) -> tuple[dict[int, float], list[dynatrain.SwitchReport]]:
    """Train and switch; return this rank's losses by step, and the reports."""
    dataset = Counting()
    loader = dynatrain.ElasticLoader(dataset, dynatrain.ElasticSampler(len(dataset), GLOBAL_BATCH))
    torch.manual_seed(0)  # the same weights on every rank
    session = dynatrain.init(build, "dp=4", keep={"data": loader}, verify=("sums", "fingerprint"))
    losses: dict[int, float] = {}
    reports: list[dynatrain.SwitchReport] = []
    for step in session.steps(NUM_STEPS):
        tokens = next(loader)
        loss = session.state.model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        session.state.optimizer.step()
        session.state.optimizer.zero_grad()
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
