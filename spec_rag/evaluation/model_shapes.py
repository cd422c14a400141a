"""Sizes of decoders, by name or from a config, without loading weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spec_rag.errors import ConfigError, ModelNotFoundError, UnsupportedModelError


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder with gated feed-forward layers and grouped KV heads.

    Args:
        name: name of the model.
        layers, hidden, intermediate: number of layers, widths of the residual stream and of the feed-forward layers.
        heads, kv_heads, head_dim: numbers of query and KV heads, and their width.
        vocabulary: rows of the embedding.
        tied: whether the output layer is the embedding.
        attention_biases: biases per layer divided by head_dim: heads + 2 kv_heads for biased query, key and value.
        norms: norms of the hidden width per layer.
        head_norms: norms of the head width per layer (query and key: 2).
        tokenizer: name of the tokenizer; None if unknown.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    attention_biases: int = 0
    norms: int = 2
    head_norms: int = 0
    tokenizer: str | None = field(default=None, compare=False)

    @property
    def layer_weights(self) -> int:
        """Number of weights of the matrices of all layers."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def output_weights(self) -> int:
        """Number of weights of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        small = (self.attention_biases + self.head_norms) * self.head_dim + self.norms * self.hidden
        embeddings = self.output_weights * (1 if self.tied else 2)
        return embeddings + self.layer_weights + self.layers * small + self.hidden

    def kv_values(self, tokens: int) -> int:
        """Number of values in the keys and values of `tokens` tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens


def _llama(name: str, *sizes: int, tied: bool) -> ModelShape:
    layers, hidden, intermediate, heads, kv_heads, vocabulary = sizes
    return ModelShape(name, layers, hidden, intermediate, heads, kv_heads, hidden // heads, vocabulary, tied)


def _qwen2(name: str, *sizes: int, tied: bool) -> ModelShape:
    shape = _llama(name, *sizes, tied=tied)
    return replace(shape, attention_biases=shape.heads + 2 * shape.kv_heads)


_MODELS = [
    _llama("SmolLM2-135M", 30, 576, 1536, 9, 3, 49152, tied=True),
    _llama("SmolLM2-360M", 32, 960, 2560, 15, 5, 49152, tied=True),
    _llama("SmolLM2-1.7B", 24, 2048, 8192, 32, 32, 49152, tied=True),
    _llama("Llama-3.2-1B", 16, 2048, 8192, 32, 8, 128256, tied=True),
    _llama("Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128256, tied=True),
    _llama("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128256, tied=False),
    _llama("Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128256, tied=False),
    _qwen2("Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 151936, tied=True),
    _qwen2("Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 151936, tied=True),
    _qwen2("Qwen2.5-3B", 36, 2048, 11008, 16, 2, 151936, tied=True),
    _qwen2("Qwen2.5-7B", 28, 3584, 18944, 28, 4, 152064, tied=False),
    _qwen2("Qwen2.5-14B", 48, 5120, 13824, 40, 8, 152064, tied=False),
    _qwen2("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 152064, tied=False),
    _qwen2("Qwen2.5-72B", 80, 8192, 29568, 64, 8, 152064, tied=False),
]
_TOKENIZERS = {"SmolLM2": "SmolLM2", "Llama": "Llama-3.1", "Qwen2.5": "Qwen2.5"}
KNOWN_SHAPES: Mapping[str, ModelShape] = {
    shape.name: replace(shape, tokenizer=_TOKENIZERS[shape.name.split("-")[0]]) for shape in _MODELS
}
_VOCABULARIES = {49152: "SmolLM2", 128256: "Llama-3.1", 151665: "Qwen2.5"}
"""Tokenizers of known models by number of tokens, including special ones."""

_SAME_SHAPE = {"llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b", "llama-3.3-70b": "llama-3.1-70b"}


def _same_width(config: Any) -> dict[str, int]:
    return {}


def _biases(config: Any) -> int:
    return int(config.num_attention_heads + 2 * config.num_key_value_heads)


def _optional_biases(config: Any) -> dict[str, int]:
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False):
            raise UnsupportedModelError(
                f"{name}=True of {config.model_type} cannot be planned: its biases are not supported."
            )
    return {}


_FAMILIES: Mapping[str, Callable[[Any], dict[str, int]]] = {
    "llama": _optional_biases,
    "mistral": _same_width,
    "smollm3": _optional_biases,
    "granite": _optional_biases,
    "phi3": _same_width,
    "gemma": _optional_biases,
    "gemma2": lambda config: {**_optional_biases(config), "norms": 4},
    "qwen2": lambda config: {"attention_biases": _biases(config)},
    "qwen3": lambda config: {**_optional_biases(config), "head_norms": 2},
}
"""Supported families of transformers, with the differences from the default shape."""


def shape_of_config(config: Any, name: str = "") -> ModelShape:
    """The shape of a transformers config.

    Raises:
        UnsupportedModelError: the family is not supported, such as a mixture of experts.
    """
    text = config.get_text_config()
    if text.model_type not in _FAMILIES:
        raise UnsupportedModelError(
            f"model_type={text.model_type!r} of {name or 'the config'} cannot be planned. "
            f"Supported families: {', '.join(_FAMILIES)}."
        )
    heads = text.num_attention_heads
    shape = ModelShape(
        name or text.model_type,
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        heads,
        text.num_key_value_heads or heads,
        getattr(text, "head_dim", None) or text.hidden_size // heads,
        text.vocab_size,
        bool(text.tie_word_embeddings),
    )
    differences: dict[str, Any] = dict(_FAMILIES[text.model_type](text))
    return replace(shape, **differences)


def model_shape(name: str) -> ModelShape:
    """The shape of a model.

    Args:
        name: a known model, with or without the organisation ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"), a
            config.json, or a folder with one.

    Raises:
        ConfigError: the name is unknown and no such file exists.
        ModelNotFoundError: the folder has no readable config.json.
        UnsupportedModelError: as for `shape_of_config`.
    """
    path = Path(name)
    if path.exists():
        from transformers import AutoConfig

        try:
            shape = shape_of_config(AutoConfig.from_pretrained(path, local_files_only=True), path.name)
            return replace(shape, tokenizer=_tokenizer_of(path))
        except (UnsupportedModelError, ConfigError):
            raise
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"{name}: no readable config.json: {error}") from error
    first_version = re.search(r"llama-3-\d", name.lower()) is not None
    bare = re.sub(r"^meta-|-(instruct|chat)$", "", name.rsplit("/", 1)[-1].lower())
    bare = _SAME_SHAPE.get(bare, bare)
    shapes = {model.lower(): shape for model, shape in KNOWN_SHAPES.items()}
    if bare not in shapes:
        raise ConfigError(
            f"model {name!r} is not known: give one of {', '.join(KNOWN_SHAPES)}, or a folder with its config.json."
        )
    return replace(shapes[bare], tokenizer="Llama-3") if first_version else shapes[bare]


def shares_tokens(draft: ModelShape, target: ModelShape) -> bool | None:
    """Whether two models have the same tokenizer; None if unknown and the vocabularies have the same size."""
    if draft.tokenizer is not None and target.tokenizer is not None:
        return draft.tokenizer == target.tokenizer
    return None if draft.vocabulary == target.vocabulary else False


def _tokenizer_of(path: Path) -> str | None:
    """Name of the tokenizer of a folder: that of a known model, else a hash; None without a tokenizer."""
    folder = path if path.is_dir() else path.parent
    if not (folder / "tokenizer.json").exists():
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return None
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) in _VOCABULARIES:
        return _VOCABULARIES[len(vocabulary)]
    listed = "\n".join(f"{token} {number}" for token, number in sorted(vocabulary.items()))
    return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()
