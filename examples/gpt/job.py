"""The training job as dynatrain sees it: `build`, `initialize`, and one training step."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.distributed.pipelining import Schedule1F1B

import dynatrain

from .clip import clip_gradients
from .data import StandardLibrary
from .model import GPT, GPTConfig, fill
from .parallelize import (
    build_model,
    build_pipeline,
    cross_entropy,
    finish_gradients,
    mean_loss,
    pipeline_step,
)


@dataclass(frozen=True)
class JobConfig:
    """Everything that decides the weights: two jobs with one config train the same model."""

    total_steps: int
    model: GPTConfig = field(default_factory=GPTConfig)
    global_batch_size: int = 12  # a multiple of 12: divisible by dp 1, 2, 3, 4 and 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0


class StepResult(NamedTuple):
    """What one step reports, equal on every rank."""

    loss: float
    grad_norm: float


def cosine(step: int, *, total_steps: int) -> float:
    """Factor on the learning rate: 10 steps up, then half a cosine down to a tenth."""
    progress = min(1.0, step / total_steps)
    return min(1.0, (step + 1) / 10) * (0.55 + 0.45 * math.cos(math.pi * progress))


class Job:
    """Builds and trains the GPT in whatever world it is handed."""

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        data = StandardLibrary(config.model.seq_len)
        order = dynatrain.ElasticSampler(len(data), config.global_batch_size, seed=config.seed)
        self.loader = dynatrain.ElasticLoader(data, order)

    def build(self, world: dynatrain.World) -> dynatrain.TrainState:
        """Build model, optimizer, scheduler and pipeline for `world`; called for every layout."""
        config = self.config
        model = build_model(config.model, world)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        # foreach=False: under FSDP + TP the tree mixes meshes, which one fused call cannot take.
        optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            foreach=False,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(cosine, total_steps=config.total_steps)
        )
        pipeline = build_pipeline(model, world, config.global_batch_size)
        return dynatrain.TrainState(
            model=model, optimizer=optimizer, scheduler=scheduler, user=pipeline
        )

    def initialize(self, state: dynatrain.TrainState, world: dynatrain.World) -> None:
        """Fill the first world's weights, independently of its layout."""
        fill(state.model, self.config.seed)

    def train_step(self, state: dynatrain.TrainState, world: dynatrain.World) -> StepResult:
        """Train on the next global batch; collective over the world."""
        model: GPT = state.model
        pipeline: Schedule1F1B | None = state.user
        tokens, targets = (part.to(world.device) for part in next(self.loader))
        if pipeline is None:
            loss = cross_entropy(model(tokens), targets)
            loss.backward()
        else:
            loss = pipeline_step(pipeline, model, tokens, targets)
        finish_gradients(model, world)
        max_norm = self.config.max_grad_norm
        norm = clip_gradients(model.parameters(), world, max_norm, model.second_copies)
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad()  # sets them to None: a switch refuses gradients that are held
        return StepResult(mean_loss(loss.detach(), world), norm)
