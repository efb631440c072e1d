"""A byte-level GPT: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, tied embeddings.

Plain PyTorch, with nothing in it about dynatrain. Two habits make it switchable:

- a module's name does not depend on the pipeline stage that holds it ("layers.3.attention.wq");
- the model may be built under `torch.device("meta")`, so that `fill` and not the constructor
  gives values to weights and to the rotary tables.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the model. Heads, groups and `ffn_dim` must be divisible by tp."""

    dim: int = 128
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 4
    ffn_dim: int = 512
    seq_len: int = 64
    vocab_size: int = 256  # one token per byte

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


SIZES = {
    "tiny": GPTConfig(),  # 1 M parameters: the demo
    "small": GPTConfig(dim=384, num_layers=8, num_heads=12, ffn_dim=1152, seq_len=256),  # 14 M
    "medium": GPTConfig(dim=768, num_layers=12, num_heads=12, ffn_dim=2304, seq_len=512),  # 83 M
    "large": GPTConfig(dim=1536, num_layers=16, num_heads=24, ffn_dim=4096, seq_len=1024),  # 390 M
}


def rotary_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotation, each (seq_len, head_dim / 2)."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.seq_len, dtype=torch.float32), 10_000.0**-exponent)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) by its position's angle; x is (B, H, T, D)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention. The number of heads follows from the local weights."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wk = nn.Linear(config.dim, kv_dim, bias=False)
        self.wv = nn.Linear(config.dim, kv_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within x, (B, T, dim)."""
        q, k, v = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projected in (self.wq(x), self.wk(x), self.wv(x))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.wo(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension of x."""
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The layers of one pipeline stage; all of them when there is no pipeline.

    The embedding and the output layer are tied. A first stage looks tokens up, a last stage
    computes logits; so both hold `tok_embeddings.weight`, one tensor with two owners.
    """

    def __init__(self, config: GPTConfig, layers: range, *, is_first: bool, is_last: bool) -> None:
        super().__init__()
        self.config, self.is_first, self.is_last = config, is_first, is_last
        cos, sin = rotary_tables(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        if is_first or is_last:
            self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleDict({str(i): Block(config) for i in layers})
        if is_last:
            self.norm = nn.RMSNorm(config.dim, eps=1e-5)
            self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
            self.tie()

    def tie(self) -> None:
        """Make the output layer share the embedding's weight, again after either was replaced."""
        if self.is_last:
            self.output.weight = self.tok_embeddings.weight

    @property
    def second_copies(self) -> frozenset[int]:
        """Ids of parameters of which an earlier stage holds the copy that counts."""
        shared = self.is_last and not self.is_first
        return frozenset({id(self.tok_embeddings.weight)} if shared else ())

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens or the previous stage's output to the next stage's input or to logits."""
        x = self.tok_embeddings(x) if self.is_first else x
        for block in self.layers.values():
            x = block(x, self.rope_cos, self.rope_sin)
        return self.output(self.norm(x)) if self.is_last else x


@torch.no_grad()
def fill(model: GPT, seed: int) -> None:
    """Give the built model its first weights and tables, the same ones in every layout.

    Every rank draws the whole tensor from a generator seeded by the tensor's name and keeps its
    own part, so no weight depends on which rank asks.
    """
    for buffer, table in zip(
        (model.rope_cos, model.rope_sin), rotary_tables(model.config), strict=True
    ):
        buffer.copy_(table)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            whole = torch.ones(parameter.shape)
        else:
            residual = name.endswith(("wo.weight", "w2.weight"))
            std = 0.02 / math.sqrt(2 * model.config.num_layers) if residual else 0.02
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            whole = torch.randn(parameter.shape, generator=generator) * std
        if isinstance(parameter, DTensor):
            parameter.to_local().copy_(local_part(whole, parameter))
        else:
            parameter.copy_(whole)


def local_part(whole: Tensor, like: DTensor) -> Tensor:
    """Cut from `whole` what this rank holds of `like`: tensor parallel first, then fully_shard."""
    mesh = like.device_mesh
    for axis in reversed(range(mesh.ndim)):
        placement = like.placements[axis]
        if not placement.is_replicate():
            length = whole.shape[placement.dim]  # type: ignore[attr-defined]
            size = -(-length // mesh.size(axis))
            begin = min(length, size * mesh.get_local_rank(axis))
            whole = whole.narrow(placement.dim, begin, min(size, length - begin))  # type: ignore[attr-defined]
    return whole
