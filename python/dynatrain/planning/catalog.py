"""Models that are known by name, as the configs that were published with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynatrain._errors import LayoutError
from dynatrain.door import wrong_argument
from dynatrain.given import described, shown, text
from dynatrain.planning.architectures import tensors_of
from dynatrain.planning.tensors import OPTIMIZERS, Model, Slot


def _llama(layers: int, hidden: int, ffn: int, heads: tuple[int, int], vocab: int) -> Any:
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocab,
    }


def _qwen3(layers: int, hidden: int, heads: tuple[int, int], ffn: int, experts: int = 0) -> Any:
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 128,
        "vocab_size": 151936,
    }
    if not experts:
        return {"model_type": "qwen3", **sizes, "intermediate_size": ffn}
    moe = {"model_type": "qwen3_moe", "num_experts": experts, "moe_intermediate_size": ffn}
    return {**sizes, **moe, "num_experts_per_tok": 8}


CONFIGS: dict[str, Mapping[str, Any]] = {
    "gpt3-6.7b": {
        "model_type": "gpt2",
        "n_layer": 32,
        "n_embd": 4096,
        "n_positions": 2048,
        "vocab_size": 50257,
    },
    "llama2-7b": _llama(32, 4096, 11008, (32, 32), 32000),
    "llama2-13b": _llama(40, 5120, 13824, (40, 40), 32000),
    "llama2-70b": _llama(80, 8192, 28672, (64, 8), 32000),
    "llama3-8b": _llama(32, 4096, 14336, (32, 8), 128256),
    "llama3-70b": _llama(80, 8192, 28672, (64, 8), 128256),
    "llama3-405b": _llama(126, 16384, 53248, (128, 8), 128256),
    "qwen3-32b": _qwen3(64, 5120, (64, 8), 25600),
    "mixtral-8x7b": {
        **_llama(32, 4096, 14336, (32, 8), 32000),
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen3-30b-a3b": _qwen3(48, 2048, (32, 4), 768, experts=128),
    "qwen3-235b-a22b": _qwen3(94, 4096, (64, 4), 1536, experts=128),
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 61,
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
}


def load_model(name: str | Path | Mapping[str, Any], optimizer: str = "adamw") -> Model:
    """A model on paper: of the catalog, or of a ``config.json`` of Hugging Face.

    Args:
        name: a name of the catalog, the path of a config.json, or what one holds.
        optimizer: what training keeps of each parameter: ``adamw`` (float32 with two moments),
            ``adamw-mixed`` (bfloat16 with float32 master and moments), ``adamw-bf16`` (all
            bfloat16), ``sgd-momentum``, or ``none`` (bfloat16 parameters alone).

    Raises:
        LayoutError: there is no such model, file or optimizer, or the config is none of a known
            family; the message lists those that are known.
    """
    slots = checked_optimizer(optimizer)
    called, config = _config_of(name)
    tensors = tuple(tensors_of(config))
    routed = config.get("num_experts_per_tok") if any(t.has_experts for t in tensors) else None
    return Model(called, tensors, slots, 0 if routed is None else routed)


def checked_optimizer(optimizer: str) -> tuple[Slot, ...]:
    """What an optimizer of a name keeps; raises LayoutError."""
    if text(optimizer) not in OPTIMIZERS:
        raise LayoutError(
            f"plan: no optimizer is called {shown(optimizer)}\n"
            f"  expected one of {', '.join(OPTIMIZERS)}\n  nothing was planned\n  choose one"
        )
    return OPTIMIZERS[optimizer]


def _config_of(name: object) -> tuple[str, Any]:
    if isinstance(name, Mapping):
        return text(name.get("model_type")) or "", name
    if not isinstance(name, str | Path):
        expected = "a model's name, the path of a config.json, or what one holds"
        raise wrong_argument("load_model", "name", name, expected)
    if isinstance(name, str) and name.lower() in CONFIGS:
        return name.lower(), CONFIGS[name.lower()]
    looks_like_a_path = isinstance(name, Path) or name.endswith(".json") or "/" in name
    if not looks_like_a_path:
        raise LayoutError(
            f"plan: no model is called {name!r}\n"
            f"  expected one of {', '.join(CONFIGS)}, or the path of a config.json\n"
            "  nothing was planned\n  choose one, or give a config.json of Hugging Face"
        )
    try:
        return str(name), json.loads(Path(name).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(
            f"plan: cannot read the model's config {str(name)!r}: {described(error)}\n"
            "  expected a config.json as Hugging Face publishes it with a model\n"
            "  nothing was planned\n  give the path of one, or a model's name"
        ) from error
