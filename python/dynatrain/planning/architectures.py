"""Parameters of a transformer, from the ``config.json`` that Hugging Face publishes with it.

Names and shapes are those of the checkpoint, but for two things: the experts of a layer are one
tensor, (experts, rows, columns), and query, key and value that one matrix holds are (.., 3, ..),
so that tensor parallelism cuts a plain box of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dynatrain._errors import LayoutError
from dynatrain.given import kind, shown, text, whole
from dynatrain.planning.tensors import TensorSpec

_MOST = 1 << 40
#: Of layers, each of which is listed.
_MOST_LAYERS = 1 << 16
#: (name, shape, dimension that tensor parallelism cuts), of one layer or of the whole model.
_Row = tuple[str, tuple[int, ...], "int | None"]


class _Config:
    """A config.json: its numbers, checked when they are read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def having(self, own: Mapping[str, bool]) -> _Config:
        """The same, and what all models of a family have."""
        return _Config({**self._config, **own})

    def size(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """The first of these that is there and not null."""
        for name in names:
            if (value := self._config.get(name)) is not None:
                found = whole(value)
                most = _MOST_LAYERS if "layer" in name else _MOST
                if found is None or not least <= found <= most:
                    raise _refused(
                        f"cannot use {name}={shown(value)}",
                        f"a whole number from {least} to {most}",
                    )
                return found
        if default is None:
            raise _refused(f"has no {names[0]}", f"{' or '.join(names)}, a whole number")
        return default

    def flag(self, name: str, default: bool) -> bool:
        """A switch of the model; null is none."""
        value = self._config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _refused(f"cannot use {name}={shown(value)}", "true or false")
        return value

    def numbers(self, name: str) -> set[int]:
        """Whole numbers in a list; none where it is not there."""
        value = self._config.get(name) or []
        found = [whole(item) for item in value] if isinstance(value, list | tuple) else [None]
        if None in found:
            raise _refused(f"cannot use {name}={shown(value)}", "a list of whole numbers")
        return {item for item in found if item is not None}


_Family = Callable[[_Config], Iterator[TensorSpec]]


def _refused(what: str, expected: str) -> LayoutError:
    return LayoutError(
        f"plan: the model's config {what}\n  expected {expected}\n  nothing was planned\n"
        "  mend the config, or take a model that `dynatrain plan --help` lists"
    )


def tensors_of(config: Mapping[str, Any]) -> list[TensorSpec]:
    """The parameters of a model, tied ones once; what predicts further tokens is left out.

    Args:
        config: what ``config.json`` holds; ``model_type`` names the family.

    Raises:
        LayoutError: the family is none of these, or a size is missing or no size.
    """
    if not isinstance(config, Mapping):
        raise _refused(f"is {kind(config)}", "an object of names and values")
    family = text(config.get("model_type"))
    if family not in FAMILIES:
        raise _refused(
            f"has model_type={shown(config.get('model_type'))}", f"one of {', '.join(FAMILIES)}"
        )
    return [*FAMILIES[family](_Config(config))]


def _llama_like(config: _Config) -> Iterator[TensorSpec]:
    """Llama, Mistral, Qwen2, Qwen3, with experts or without."""
    yield from _ends(config)
    for layer in range(config.size("num_hidden_layers")):
        yield from _rows(f"model.layers.{layer}", layer, [*_attention(config), *_mlp(config)])


def _mixtral(config: _Config) -> Iterator[TensorSpec]:
    yield from _ends(config)
    hidden, ffn = config.size("hidden_size"), config.size("intermediate_size")
    experts = config.size("num_local_experts")
    for layer in range(config.size("num_hidden_layers")):
        router = [("block_sparse_moe.gate.weight", (experts, hidden), None)]
        yield from _rows(f"model.layers.{layer}", layer, [*_attention(config), *router])
        yield from _experts(
            f"model.layers.{layer}.block_sparse_moe.experts", layer, experts, (ffn, hidden)
        )


def _qwen_moe(config: _Config) -> Iterator[TensorSpec]:
    yield from _ends(config)
    hidden, ffn = config.size("hidden_size"), config.size("moe_intermediate_size")
    experts = config.size("num_experts", "num_local_experts")
    every, dense = config.size("decoder_sparse_step", default=1), config.numbers("mlp_only_layers")
    for layer in range(config.size("num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        is_dense = layer in dense or (layer + 1) % every != 0
        router = [("mlp.gate.weight", (experts, hidden), None)]
        yield from _rows(
            prefix, layer, [*_attention(config), *(_mlp(config) if is_dense else router)]
        )
        if not is_dense:
            yield from _experts(f"{prefix}.mlp.experts", layer, experts, (ffn, hidden))


def _deepseek(config: _Config) -> Iterator[TensorSpec]:
    """Multi-head latent attention; the first layers are dense, the others have experts."""
    yield from _ends(config)
    hidden, ffn = config.size("hidden_size"), config.size("moe_intermediate_size")
    experts = config.size("n_routed_experts")
    shared = config.size("n_shared_experts", default=0, least=0)
    num_dense = config.size("first_k_dense_replace", default=0, least=0)
    for layer in range(config.size("num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        rest = _mlp(config)
        if layer >= num_dense:
            rest = [
                ("mlp.gate.weight", (experts, hidden), None),
                ("mlp.gate.e_score_correction_bias", (experts,), None),
                *(_matrices("mlp.shared_experts", shared * ffn, hidden) if shared else []),
            ]
        yield from _rows(prefix, layer, [*_latent_attention(config), *rest])
        if layer >= num_dense:
            yield from _experts(f"{prefix}.mlp.experts", layer, experts, (ffn, hidden))


def _gpt2(config: _Config) -> Iterator[TensorSpec]:
    """GPT-2 and GPT-3: biases, learned positions, the head tied to the embedding."""
    hidden = config.size("n_embd", "hidden_size")
    num_layers = config.size("n_layer", "num_hidden_layers")
    ffn = config.size("n_inner", default=4 * hidden)
    vocab, last = config.size("vocab_size"), num_layers - 1
    positions = (config.size("n_positions", "n_ctx"), hidden)
    is_tied = config.flag("tie_word_embeddings", True)
    yield TensorSpec("transformer.wte.weight", (vocab, hidden), 0, _ends_of(is_tied, last))
    if not is_tied:
        yield TensorSpec("lm_head.weight", (vocab, hidden), 0, (last,))
    yield TensorSpec("transformer.wpe.weight", positions)
    for name in ("weight", "bias"):
        yield TensorSpec(f"transformer.ln_f.{name}", (hidden,), None, (last,))
    block: list[_Row] = [
        ("ln_1.weight", (hidden,), None),
        ("ln_1.bias", (hidden,), None),
        ("attn.c_attn.weight", (hidden, 3, hidden), 2),
        ("attn.c_attn.bias", (3, hidden), 1),
        ("attn.c_proj.weight", (hidden, hidden), 0),
        ("attn.c_proj.bias", (hidden,), None),
        ("ln_2.weight", (hidden,), None),
        ("ln_2.bias", (hidden,), None),
        ("mlp.c_fc.weight", (hidden, ffn), 1),
        ("mlp.c_fc.bias", (ffn,), 0),
        ("mlp.c_proj.weight", (ffn, hidden), 0),
        ("mlp.c_proj.bias", (hidden,), None),
    ]
    for layer in range(num_layers):
        yield from _rows(f"transformer.h.{layer}", layer, block)


def _ends(config: _Config) -> Iterator[TensorSpec]:
    vocab, hidden = config.size("vocab_size"), config.size("hidden_size")
    last = config.size("num_hidden_layers") - 1
    is_tied = config.flag("tie_word_embeddings", False)
    yield TensorSpec("model.embed_tokens.weight", (vocab, hidden), 0, _ends_of(is_tied, last))
    yield TensorSpec("model.norm.weight", (hidden,), None, (last,))
    if not is_tied:
        yield TensorSpec("lm_head.weight", (vocab, hidden), 0, (last,))


def _ends_of(is_tied: bool, last: int) -> tuple[int, ...]:
    """The layers of an embedding, which is the head, too, where they are tied."""
    return tuple({0, last}) if is_tied else (0,)


def _rows(prefix: str, layer: int, rows: list[_Row]) -> Iterator[TensorSpec]:
    for name, shape, tp_dim in rows:
        yield TensorSpec(f"{prefix}.{name}", shape, tp_dim, (layer,))


def _norms(hidden: int) -> list[_Row]:
    return [
        ("input_layernorm.weight", (hidden,), None),
        ("post_attention_layernorm.weight", (hidden,), None),
    ]


def _attention(config: _Config) -> list[_Row]:
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = config.size("head_dim", default=max(1, hidden // heads))
    kv_heads = config.size("num_key_value_heads", default=heads)
    sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    rows = _norms(hidden)
    has_bias = config.flag("attention_bias", False)
    for name, rows_of_it in sizes.items():
        rows.append((f"self_attn.{name}_proj.weight", (rows_of_it, hidden), 0))
        if has_bias or config.flag("_qkv_bias", False):
            rows.append((f"self_attn.{name}_proj.bias", (rows_of_it,), 0))
    rows.append(("self_attn.o_proj.weight", (hidden, sizes["q"]), 1))
    if has_bias:
        rows.append(("self_attn.o_proj.bias", (hidden,), None))
    if config.flag("_qk_norm", False):
        rows += [(f"self_attn.{name}_norm.weight", (head_dim,), None) for name in "qk"]
    return rows


def _latent_attention(config: _Config) -> list[_Row]:
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    kv_rank, rope = config.size("kv_lora_rank"), config.size("qk_rope_head_dim")
    nope, value = config.size("qk_nope_head_dim"), config.size("v_head_dim")
    rows = [
        *_norms(hidden),
        ("self_attn.kv_a_proj_with_mqa.weight", (kv_rank + rope, hidden), None),
        ("self_attn.kv_a_layernorm.weight", (kv_rank,), None),
        ("self_attn.kv_b_proj.weight", (heads * (nope + value), kv_rank), 0),
        ("self_attn.o_proj.weight", (hidden, heads * value), 1),
    ]
    has_bias = config.flag("attention_bias", False)
    if has_bias:
        rows.append(("self_attn.kv_a_proj_with_mqa.bias", (kv_rank + rope,), None))
        rows.append(("self_attn.o_proj.bias", (hidden,), None))
    rank = config.size("q_lora_rank", default=0)
    if rank == 0:
        return [*rows, ("self_attn.q_proj.weight", (heads * (nope + rope), hidden), 0)]
    return [
        *rows,
        *([("self_attn.q_a_proj.bias", (rank,), None)] if has_bias else []),
        ("self_attn.q_a_proj.weight", (rank, hidden), None),
        ("self_attn.q_a_layernorm.weight", (rank,), None),
        ("self_attn.q_b_proj.weight", (heads * (nope + rope), rank), 0),
    ]


def _mlp(config: _Config) -> list[_Row]:
    ffn, hidden = config.size("intermediate_size"), config.size("hidden_size")
    rows = _matrices("mlp", ffn, hidden)
    if config.flag("mlp_bias", False):
        rows += [(f"mlp.{name}_proj.bias", (ffn,), 0) for name in ("gate", "up")]
        rows.append(("mlp.down_proj.bias", (hidden,), None))
    return rows


def _matrices(prefix: str, ffn: int, hidden: int) -> list[_Row]:
    return [
        (f"{prefix}.gate_proj.weight", (ffn, hidden), 0),
        (f"{prefix}.up_proj.weight", (ffn, hidden), 0),
        (f"{prefix}.down_proj.weight", (hidden, ffn), 1),
    ]


def _experts(
    prefix: str, layer: int, num_experts: int, sizes: tuple[int, int]
) -> Iterator[TensorSpec]:
    ffn, hidden = sizes
    shapes = {"gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn)}
    for name, shape in shapes.items():
        tp_dim = 2 if name == "down_proj" else 1
        spec = (f"{prefix}.{name}.weight", (num_experts, *shape), tp_dim, (layer,))
        yield TensorSpec(*spec, has_experts=True)


def _with(family: _Family, **own: bool) -> _Family:
    """The family of models whose config does not say what each of them has."""
    return lambda config: family(config.having(own))


#: By ``model_type``.
FAMILIES: dict[str, _Family] = {
    "llama": _llama_like,
    "mistral": _llama_like,
    "qwen2": _with(_llama_like, _qkv_bias=True),
    "qwen3": _with(_llama_like, _qk_norm=True),
    "mixtral": _mixtral,
    "qwen3_moe": _with(_qwen_moe, _qk_norm=True),
    "deepseek_v3": _deepseek,
    "gpt2": _gpt2,
}
