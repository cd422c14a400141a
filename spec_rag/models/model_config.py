"""Properties of a model that follow from its config: layers, context length and size of the KV cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

_WINDOWED = ("sliding_attention", "chunked_attention")
_WITHOUT_PAIRS = ("linear_attention", "conv", "mamba", "recurrent")


def decoder_layers(config: PretrainedConfig) -> int:
    """Number of decoder layers."""
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def cache_option(call: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """A KV cache as the keyword argument of a model's `forward` or `prepare_inputs_for_generation`.

    Transformers 5.24 renamed `past_key_values` to `cache` and warns about the old name; models with code of their own
    may still have it.
    """
    return {"cache" if "cache" in inspect.signature(call).parameters else "past_key_values": cache}


def keep_first_layers(config: PretrainedConfig, layers: int) -> None:
    """Truncate a config, in place, to the first layers, so that `from_pretrained` loads only these."""
    text = config.get_text_config(decoder=True)
    total = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total:  # one entry per layer, such as layer_types
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers


def context_tokens(config: PretrainedConfig | dict[str, Any]) -> int | None:
    """Maximum context length in tokens, or None if the config has none.

    Dynamic NTK scaling stretches what the config names by its factor.

    Args:
        config: a config, or the content of its config.json.
    """
    if isinstance(config, dict):
        own = config.get("text_config", config)
        limit, rope = own.get("max_position_embeddings"), own.get("rope_parameters") or own.get("rope_scaling")
    else:
        text = config.get_text_config(decoder=True)
        limit, rope = getattr(text, "max_position_embeddings", None), getattr(text, "rope_parameters", None)
    if not limit:
        return None
    rope = rope if isinstance(rope, dict) else {}
    is_dynamic = rope.get("rope_type", rope.get("type")) == "dynamic"
    return int(limit * max(1.0, float(rope.get("factor") or 1.0))) if is_dynamic else int(limit)


def layer_kinds(config: PretrainedConfig) -> set[str]:
    """The set of layer types of the decoder ("full_attention", ...); empty if the config lists none."""
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or [])


def kv_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the unpruned KV cache of a sequence of `tokens` tokens.

    Sliding-window layers hold at most their window; layers with a state of fixed size hold no keys and values.

    Returns:
        0 if the config does not determine the size.
    """
    config = model.config.get_text_config(decoder=True)
    width, layers = _pair_width(config), getattr(config, "num_hidden_layers", None)
    if not (width and layers):
        return 0
    pairs = sum(_held_tokens(config, kind, tokens) for kind in _layer_types(config, layers))
    return int(pairs * width * model.dtype.itemsize)


def _pair_width(config: Any) -> int:
    """Values in the keys and values of one token in one layer; 0 if the config does not determine it."""
    if getattr(config, "kv_lora_rank", None):  # MLA: one latent vector and one rotated key part for all heads
        return int(config.kv_lora_rank + config.qk_rope_head_dim)
    query_heads = getattr(config, "num_attention_heads", None)
    if not query_heads:
        return 0
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // query_heads
    return int(2 * heads * head)


def _layer_types(config: Any, layers: int) -> list[str]:
    layer_types = getattr(config, "layer_types", None)
    if layer_types:
        return [str(kind) for kind in layer_types]
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return ["sliding_attention" if windowed else "full_attention"] * layers


def _held_tokens(config: Any, kind: str, tokens: int) -> int:
    if kind.startswith(_WITHOUT_PAIRS):
        return 0
    if kind not in _WINDOWED:
        return tokens
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return min(tokens, window - 1) if window else tokens
