"""A small model, and what jobs hold beside its tensors: notes, averages, counters, histories."""

from __future__ import annotations

import torch
from torch import nn


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def train(state, num_steps=2):
    """Steps on gradients that are a function of the weights."""
    for _ in range(num_steps):
        for module in state.modules:
            for param in module.parameters():
                param.grad = param.detach() * 0.5 + 0.1
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()


class Notes(dict):
    """An extra of plain data."""

    def state_dict(self):
        return dict(self)

    def load_state_dict(self, state_dict):
        self.clear()
        self.update(state_dict)


class Counter:
    """An extra of one number."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict["value"]


class Face:
    """An object of one build before one of all builds, into which nothing would be loaded."""

    def __init__(self, behind):
        self.state_dict = behind.state_dict
        self.load_state_dict = behind.load_state_dict


class Shadow:
    """A moving average by name, copied in place when it is loaded."""

    def __init__(self, module):
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update_parameters(self, module):
        for name, param in module.named_parameters():
            self.shadow[name].lerp_(param.detach(), 0.5)

    def state_dict(self):
        return self.shadow

    def load_state_dict(self, state_dict):
        for name, tensor in state_dict.items():
            self.shadow[name].copy_(tensor)


class Scaled(nn.Linear):
    """A layer with a history behind torch's hook, as FP8 layers keep of their largest values."""

    def __init__(self):
        super().__init__(3, 3)
        self.largest = [0.0]

    def get_extra_state(self):
        return {"largest": self.largest}

    def set_extra_state(self, state):
        self.largest = state["largest"]


class Counted(torch.optim.SGD):
    """Counts its steps beside its state, as a wrapper with a warm-up does."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.num_steps = 0

    def step(self, closure=None):
        self.num_steps += 1
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state_dict):
        self.num_steps = state_dict.pop("num_steps")
        super().load_state_dict(state_dict)
