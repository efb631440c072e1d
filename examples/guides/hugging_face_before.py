"""A Hugging Face model made from its config, under fully_shard; needs `pip install transformers`.

torchrun --nproc-per-node 4 examples/guides/hugging_face_before.py
"""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

NUM_STEPS, GLOBAL_BATCH = 18, 12


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


def main() -> list[float]:
    """Train; return this rank's losses."""
    torch.manual_seed(0)  # the same weights on every rank
    model = make_model()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dataset = Counting()
    sampler: DistributedSampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, GLOBAL_BATCH // dist.get_world_size(), sampler=sampler)
    losses: list[float] = []
    while len(losses) < NUM_STEPS:
        sampler.set_epoch(len(losses))
        for tokens in loader:
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(main())  # noqa: T201
    dist.destroy_process_group()
