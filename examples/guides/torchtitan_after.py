"""The same script, able to change its layout while it trains.

torchrun --nproc-per-node 4 examples/guides/torchtitan_after.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import (
    LRSchedulersContainer,
    OptimizersContainer,
    default_adamw,
    register_moe_load_balancing_hook,
)
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import ParallelDims, parallel_dims, utils
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models import qwen3
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.qwen3.sharding import set_qwen3_sharding_config

import dynatrain
from dynatrain import Layout, SwitchReport, TrainState, World

NUM_STEPS, GLOBAL_BATCH, SEQ_LEN, VOCAB, DIM = 12, 16, 16, 64, 64
SWITCHES = {4: "dp=4", 8: "dp=4,ep=2"}  # after so many steps
VERIFY = ("sums", "fingerprint")
parallel_dims.device_type = "cpu"  # torchtitan takes "cuda" where there is no accelerator


def make_config(parallelism: ParallelismConfig) -> qwen3.Qwen3Model.Config:
    """Return the model's config: 4 layers of 4 experts."""
    config = qwen3.Qwen3Model.Config(
        vocab_size=VOCAB,
        dim=DIM,
        norm=qwen3._qwen3_norm(DIM),
        tok_embeddings=qwen3.Embedding.Config(
            num_embeddings=VOCAB, embedding_dim=DIM, param_init=qwen3._EMBEDDING_INIT
        ),
        lm_head=qwen3.Linear.Config(
            in_features=DIM, out_features=VOCAB, param_init=qwen3._LINEAR_INIT
        ),
        layers=qwen3._build_qwen3_moe_layers(
            n_layers=4,
            dim=DIM,
            n_heads=4,
            n_kv_heads=2,
            head_dim=16,
            moe_hidden_dim=32,
            num_experts=4,
            top_k=2,
            attn_backend="flex",
            moe_comm_backend="standard",
            rope=qwen3.CosSinRoPE.Config(dim=16, max_seq_len=SEQ_LEN, theta=1e4),
        ),
    )
    for layer in config.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
        layer.moe.router._debug_force_load_balance = True  # Gloo exchanges equal parts only
    expert_parallel = parallelism.expert_parallel_degree > 1
    set_qwen3_sharding_config(config, enable_sp=True, enable_ep=expert_parallel)
    return config


def make_meshes(pp: int, dp: int, ep: int) -> tuple[ParallelismConfig, ParallelDims]:
    """Return torchtitan's words for a layout, and its groups; all ranks make them together."""
    parallelism = ParallelismConfig(
        pipeline_parallel_degree=pp,
        data_parallel_shard_degree=dp,
        expert_parallel_degree=ep,
        pipeline_parallel_microbatch_size=2,
    )
    dims = ParallelDims.from_config(parallelism, pp * dp)
    dims.build_mesh()
    return parallelism, dims


class Trainer:
    """What torchtitan's trainer holds of one layout."""

    def __init__(self, parallelism: ParallelismConfig, dims: ParallelDims) -> None:
        self.dims = dims
        self.loss_fn = CrossEntropyLoss.Config().build(compile_config=CompileConfig())
        config = make_config(parallelism)
        batch = GLOBAL_BATCH // parallelism.data_parallel_shard_degree
        options = {
            "parallel_dims": dims,
            "training": TrainingConfig(local_batch_size=batch, mixed_precision_param="float32"),
            "parallelism": parallelism,
            "compile_config": CompileConfig(),
            "ac_config": None,
            "dump_folder": "",
        }
        with torch.device("meta"):
            model = config.build()
        self.first = self.last = True
        if dims.pp_enabled:
            self.schedule, self.parts, self.first, self.last = pipeline_llm(
                model,
                device=torch.device("cpu"),
                model_config=config,
                parallelize_fn=qwen3.parallelize_qwen3,
                loss_fn=self.loss_fn,
                **options,
            )
        else:
            self.parts = [qwen3.parallelize_qwen3(model, **options)]
        for part in self.parts:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)  # what Gloo can reduce

    def make_optimizers(self) -> tuple[OptimizersContainer, LRSchedulersContainer]:
        """Make optimizers and schedulers of the model parts."""
        config = default_adamw(lr=5e-3)
        config.implementation = "for-loop"
        self.optimizers = config.build(model_parts=self.parts)
        register_moe_load_balancing_hook(self.optimizers, self.parts, self.dims)
        schedule = LRSchedulersContainer.Config(warmup_steps=2)
        self.schedulers = schedule.build(optimizers=self.optimizers, training_steps=100)
        return self.optimizers, self.schedulers

    def train_step(self, tokens: Tensor) -> float | None:
        """Train on this rank's sequences; return the mean loss, on the last stage."""
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        count = torch.tensor(GLOBAL_BATCH * SEQ_LEN)
        with utils.get_spmd_context(parallel_dims=self.dims, spmd_typechecking=False)():
            if self.dims.pp_enabled:
                pieces, losses = inputs.split(2), []
                self.schedule.step(
                    arg_mbs=[(piece,) for piece in pieces] if self.first else None,
                    kwarg_mbs=[{}] * len(pieces),
                    target_mbs=list(labels.split(2)) if self.last else None,
                    losses=losses if self.last else None,
                    loss_kwargs={"global_valid_tokens": count},
                    return_outputs=False,
                )
                loss = sum(losses)
            else:
                loss, _ = self.loss_fn(self.parts[0](inputs), labels, count)
                loss.backward()
        utils.clip_grad_norm_(
            [param for part in self.parts for param in part.parameters()],
            1.0,
            pp_mesh=self.dims.get_optional_mesh("pp"),
            ep_enabled=self.dims.ep_enabled,
        )
        self.optimizers.step()
        self.schedulers.step()
        self.optimizers.zero_grad()
        return float(loss.detach()) * self.dims.dp_shard if self.last else None


def draw(state: TrainState, _: World) -> None:
    """Draw the weights."""
    torch.manual_seed(dist.get_rank())
    for part in state.modules:
        with torch.no_grad():
            part.init_weights()


def make_batch(step: int, dims: ParallelDims) -> Tensor:
    """Return this rank's sequences, which count up from a start of their own."""
    starts = torch.randint(VOCAB, (GLOBAL_BATCH, 1), generator=torch.Generator().manual_seed(step))
    tokens = (starts + torch.arange(SEQ_LEN + 1)) % VOCAB
    mesh = dims.get_optional_mesh("batch")
    return tokens if mesh is None else tokens.chunk(mesh.size())[mesh.get_local_rank()]


def groups(layout: Layout) -> tuple[ParallelismConfig, ParallelDims]:
    """Make torchtitan's groups of a layout; called on all ranks before the first build of it."""
    return make_meshes(layout.pp, layout.dp_shard, layout.ep)


def build(world: World) -> TrainState:
    """Build what a layout trains with; called for every layout."""
    trainer = Trainer(*world.groups)
    return TrainState(trainer.parts, *trainer.make_optimizers(), user=trainer)


def main(switches: Mapping[int, str] = SWITCHES) -> tuple[dict[int, float], list[SwitchReport]]:
    """Train and switch; return the losses by step where the last stage is, and the reports."""
    session = dynatrain.init(build, "pp=2,dp=2", initialize=draw, groups=groups, verify=VERIFY)
    losses: dict[int, float] = {}
    reports = []
    for step in session.steps(NUM_STEPS):
        trainer = session.state.user
        loss = trainer.train_step(make_batch(step, trainer.dims))
        if loss is not None:
            losses[step] = loss
        if step + 1 in switches:
            reports.append(dynatrain.switch_parallelism(switches[step + 1]))
    session.close()
    return losses, reports


if __name__ == "__main__":
    dist.init_process_group("gloo")
    losses, reports = main()
    if losses:
        print(losses, *reports, sep="\n")  # noqa: T201
    dist.destroy_process_group()
