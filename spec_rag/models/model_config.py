"""Properties of a model that follow from its config: layers, context length and size of the KV cache."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

_WINDOWED = ("sliding_attention", "chunked_attention")
_WITHOUT_PAIRS = ("linear_attention", "conv", "mamba", "recurrent")


def decoder_layers(config: PretrainedConfig) -> int:
    """How many decoder layers a model of this config has."""
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def keep_first_layers(config: PretrainedConfig, layers: int) -> None:
    """Make a config describe the model's first layers only, so that `from_pretrained` leaves the others out."""
    text = config.get_text_config(decoder=True)
    total = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total:  # one entry per layer, such as layer_types
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers


def context_tokens(config: PretrainedConfig | dict[str, Any]) -> int | None:
    """The most tokens a model of this config was made for, or None if it does not say.

    Dynamic NTK scaling stretches what the config names by its factor.

    Args:
        config: a config, or what its config.json says.
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
    """What the decoder's layers are, in transformers' words ("full_attention" ...); empty if the config is silent."""
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or [])


def kv_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the keys and values that a model holds of a sequence of so many tokens, unpruned.

    Layers with a sliding window hold its tokens alone; layers that keep a state of fixed size hold none.

    Returns:
        0 where the config does not say how large they are.
    """
    config = model.config.get_text_config(decoder=True)
    width, layers = _pair_width(config), getattr(config, "num_hidden_layers", None)
    if not (width and layers):
        return 0
    pairs = sum(_held_tokens(config, kind, tokens) for kind in _layer_types(config, layers))
    return int(pairs * width * model.dtype.itemsize)


def _pair_width(config: Any) -> int:
    """Numbers in a token's key and value of all heads of a layer; 0 where the config does not say."""
    if getattr(config, "kv_lora_rank", None):  # one latent vector and the rotated part of the key serve all heads
        return int(config.kv_lora_rank + config.qk_rope_head_dim)
    query_heads = getattr(config, "num_attention_heads", None)
    if not query_heads:
        return 0
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // query_heads
    return int(2 * heads * head)


def _layer_types(config: Any, layers: int) -> list[str]:
    given = getattr(config, "layer_types", None)
    if given:
        return [str(kind) for kind in given]
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return ["sliding_attention" if windowed else "full_attention"] * layers


def _held_tokens(config: Any, kind: str, tokens: int) -> int:
    if kind.startswith(_WITHOUT_PAIRS):
        return 0
    if kind not in _WINDOWED:
        return tokens
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return min(tokens, window - 1) if window else tokens
