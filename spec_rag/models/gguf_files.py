"""GGUF files: settings that transformers does not read from them, and progress of reading.

transformers reads neither the pre-tokenizer of several families, nor `add_space_prefix`, nor the scaling of rotary
frequencies.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.errors import UnsupportedModelError

logger = logging.getLogger(__name__)

# `tokenizer.ggml.pre` of vocabularies that split digits one by one, and then as GPT-2's does
_DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_LIKE_QWEN2 = {"stablelm2", "hunyuan"}
_LIKE_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "trillion", "granite-docling"}
_SHORT, _LONG, _FREQUENCIES = "rope_factors_short.weight", "rope_factors_long.weight", "rope_freqs.weight"


@dataclass(frozen=True)
class GgufFile:
    """The metadata of a GGUF file.

    Attributes:
        path: the file.
        values: scalar values by key, without arrays.
        tensors: names of the tensors.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> GgufFile:
        """Read the metadata of a file.

        Raises:
            ValueError: it is not a GGUF file.
        """
        try:
            from transformers.integrations.gguf import read_gguf_metadata  # several times faster than the gguf package
        except ImportError:
            reader = _reader(path)
            values = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
            return cls(path, values, tuple(tensor.name for tensor in reader.tensors))
        values, tensors = read_gguf_metadata(str(path))
        return cls(path, values, tuple(tensors))

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, the prefix of its metadata keys."""
        return str(self.values.get("general.architecture", ""))

    def rope(self, name: str) -> Any:
        """A value of the rotary position embedding, or None if the file has none."""
        return self.values.get(f"{self.architecture}.rope.{name}")

    def numbers(self, tensor: str) -> list[float]:
        """The values of a small tensor."""
        found = next(each for each in _reader(self.path).tensors if each.name == tensor)
        return [float(value) for value in found.data.reshape(-1)]


def correct_tokenizer(tokenizer: PreTrainedTokenizerBase, file: GgufFile) -> None:
    """Set the pre-tokenizer of the file's vocabulary, in place."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = file.values.get("tokenizer.ggml.model")
    if backend is None:
        return
    if kind == "gpt2":
        _set_pre_tokenizer(backend, str(file.values.get("tokenizer.ggml.pre", "default")), file.path)
    elif kind == "llama" and file.values.get("tokenizer.ggml.add_space_prefix") is False:
        _leave_out_space_prefix(backend)


def correct_config(config: PretrainedConfig, file: GgufFile) -> None:
    """Set the rotated dimensions and the scaling of rotary frequencies, in place.

    Scaling that transformers cannot express limits the context to the original length, with a warning.

    Raises:
        UnsupportedModelError: the scaling cannot be expressed, and the file does not say the original length.
    """
    text = config.get_text_config(decoder=True)
    if file.architecture == "gpt-oss":
        return  # transformers reads its scaling
    changes = _partial(text, file) | (_scaling(text, file) or {})
    if not changes:
        return
    parameters = dict(getattr(text, "rope_parameters", None) or {})
    if "full_attention" in parameters:  # one set per kind of layer; sliding-window layers are never scaled
        parameters["full_attention"] = {**parameters["full_attention"], **changes}
    else:
        parameters |= changes
    text.rope_parameters = parameters
    if changes.get("rope_type") == "longrope":
        text.original_max_position_embeddings = changes["original_max_position_embeddings"]


def correct_model(model: PreTrainedModel, file: GgufFile) -> None:
    """Divide the rotary frequencies by the factors in the file, as for Llama 3.1, in place.

    Raises:
        UnsupportedModelError: the model keeps its frequencies elsewhere.
    """
    if _FREQUENCIES not in file.tensors:
        return
    factors = torch.tensor(file.numbers(_FREQUENCIES), dtype=torch.float32)
    found = False
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name.endswith("inv_freq") and buffer.shape == factors.shape:
                setattr(module, name, buffer / factors.to(buffer.device))
                found = True
    if not found:
        raise UnsupportedModelError(
            f"{file.path}: its rotary frequencies are scaled by {len(factors)} factors ({_FREQUENCIES}), for which "
            f"{type(model).__name__} has no place. Load the original checkpoint instead."
        )
    # part of the config, so that the fingerprint depends on the frequencies
    model.config.get_text_config(decoder=True).rope_frequency_factors = factors.tolist()


@contextlib.contextmanager
def counted_tensors(done: Callable[[], None]) -> Iterator[None]:
    """Call `done` for each tensor that transformers reads in this block; hide its own progress bar."""
    from transformers import modeling_gguf_pytorch_utils as reading

    def counted(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        for tensor in tensors:
            yield tensor
            done()

    original = getattr(reading, "tqdm", None)
    if original is None:  # another version of transformers
        with contextlib.redirect_stderr(io.StringIO()):
            yield
        return
    reading.tqdm = counted
    try:
        yield
    finally:
        reading.tqdm = original


def _set_pre_tokenizer(backend: Any, name: str, path: Path) -> None:
    if name in _DIGITS_ALONE:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    elif name in _LIKE_QWEN2:
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    elif name not in _LIKE_GPT2 and name not in _known_to_transformers(name):
        logger.warning(
            "%s: its pre-tokenizer %r is read as GPT-2's, so text may be split otherwise than in training; the "
            "original checkpoint has the right one.",
            path,
            name,
        )


def _known_to_transformers(name: str) -> set[str]:
    """The pre-tokenizers that transformers sets; a version that does not list them is assumed to know `name`."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return {name}
    return set(GGUF_PRE_TOKENIZER_SPLITS)


def _leave_out_space_prefix(backend: Any) -> None:
    """Make a sentencepiece tokenizer neither add a leading space on encoding nor strip one on decoding."""
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer.prepend_scheme = "never"
    if isinstance(backend.normalizer, normalizers.Prepend | normalizers.Sequence):
        backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])


def _partial(config: PretrainedConfig, file: GgufFile) -> dict[str, Any]:
    """The share of rotated dimensions per head, for architectures where transformers ignores the file's value."""
    rotated, size = file.rope("dimension_count"), getattr(config, "head_dim", None)
    size = size or config.hidden_size // config.num_attention_heads
    if file.architecture not in ("phi3", "stablelm", "nemotron") or not rotated or rotated > size:
        return {}
    return {"partial_rotary_factor": rotated / size}


def _scaling(config: PretrainedConfig, file: GgufFile) -> dict[str, Any] | None:
    """The scaling as transformers' rope parameters; None without scaling, or if the context was limited instead."""
    kind = file.rope("scaling.type")
    original = file.rope("scaling.original_context_length")
    factor = file.rope("scaling.factor") or file.rope("scale_linear")
    if {_SHORT, _LONG} <= set(file.tensors):
        kind = "longrope"
    elif kind is None and factor is not None and factor != 1:
        kind = "linear"
    if factor is None and original:
        factor = config.max_position_embeddings / original
    if kind in (None, "none") or (kind in ("linear", "yarn") and factor == 1):
        return None
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and factor and original and file.rope("scaling.yarn_ext_factor") in (None, 1.0):
        return _yarn(file, float(factor), int(original))
    if kind == "longrope" and original and {_SHORT, _LONG} <= set(file.tensors):
        return _longrope(file, int(original))
    _limit(config, file, str(kind), original)
    return None


def _yarn(file: GgufFile, factor: float, original: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": float(file.rope("scaling.yarn_beta_fast") or 32.0),
        "beta_slow": float(file.rope("scaling.yarn_beta_slow") or 1.0),
    }
    scale = file.rope("scaling.yarn_attn_factor") or file.rope("scaling.attn_factor") or 1.0
    if scale != 1.0:  # multiplies the default one in llama.cpp
        found["attention_factor"] = float(scale) * (1.0 + 0.1 * math.log(factor))
    return found


def _longrope(file: GgufFile, original: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "original_max_position_embeddings": original,
        "short_factor": file.numbers(_SHORT),
        "long_factor": file.numbers(_LONG),
    }
    if file.rope("scaling.attn_factor"):
        found["attention_factor"] = float(file.rope("scaling.attn_factor"))
    return found


def _limit(config: PretrainedConfig, file: GgufFile, kind: str, original: Any) -> None:
    claimed = config.max_position_embeddings
    if not original:
        raise UnsupportedModelError(
            f"{file.path}: its rotary frequencies are scaled ({kind!r}) in a way that transformers cannot express, and "
            f"it does not say for which part of its {claimed} tokens it was trained. Load the original checkpoint."
        )
    logger.warning(
        "%s: its rotary scaling %r cannot be expressed in transformers, so its context is limited to the %d tokens of "
        "its training instead of the %d that it states; the original checkpoint has them.",
        file.path,
        kind,
        original,
        claimed,
    )
    config.max_position_embeddings = int(original)


@functools.lru_cache(maxsize=1)
def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)
