"""One context for many questions: the target reads it once and keeps the pairs that any question may need.

Importance is measured without a question, by a repetition of the context (KVzip, arXiv 2505.23416).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spec_rag.attention.capture import base_attention
from spec_rag.attention.token_selection import select_across_layers
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.generation.pruned_cache import MASK_PER_HEAD, PrunedCache
from spec_rag.generation.repetition import PIECE_TOKENS, read_pieces, repetition_scores
from spec_rag.models.error_context import check_finite, error_context, ways_of_loading
from spec_rag.models.fingerprint import fingerprint
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import RopeSwitch
from spec_rag.text.context_prompts import context_ids, repetition_ids
from spec_rag.utils.atomic_files import write_whole
from spec_rag.utils.cancellation import check
from spec_rag.utils.tensor_files import tensors_from_bytes, tensors_to_bytes
from spec_rag.utils.validation import FromDict, check_integer, check_share

DEFAULT_KEEP = 0.25
MIN_PAIRS = 256
"""Default minimum of pairs per KV head; with fewer, answers become incoherent. Shorter texts are kept whole."""

_FORMAT = "2"
_PARTS = ("keys", "values", "positions", "lengths")
_ALWAYS_KEPT = 4  # the first tokens, which act as attention sinks


@dataclass(frozen=True)
class ContextOptions(FromDict):
    """How a context is read.

    Args:
        system: text of the system's turn, for a text context with a chat template.
        keep: share of the pairs that is kept, above 0 and at most 1; None is 0.25, or the share that max_bytes allows.
        max_bytes: maximum bytes of keys and values; stronger than min_pairs.
        min_pairs: minimum pairs per KV head on average, whatever keep says; a context of fewer tokens is kept whole.
            None is 256 if keep is None, else 0.

    Raises:
        ConfigError: a value is out of range.
    """

    system: str | None = None
    keep: float | None = None
    max_bytes: int | None = None
    min_pairs: int | None = None

    def __post_init__(self) -> None:
        check_share("keep", self.keep)
        check_integer("max_bytes", self.max_bytes, 1, optional=True)
        check_integer("min_pairs", self.min_pairs, 0, optional=True)

    @classmethod
    def of(cls, options: dict[str, Any]) -> ContextOptions:
        """The options of one call of `ContextCache.read`."""
        chosen: ContextOptions = cls.from_dict(options)
        return chosen

    @property
    def requested(self) -> float:
        """The size that was requested: `keep`, else `max_bytes`, else the default share."""
        return self.keep if self.keep is not None else self.max_bytes or DEFAULT_KEEP

    def pairs_per_head(self, tokens: int, pair_bytes: int) -> int:
        """Pairs that a KV head keeps on average, of a context of `tokens` tokens with `pair_bytes` bytes per token.

        Raises:
            ConfigError: max_bytes is less than the pairs of one token.
        """
        share = self.keep if self.keep is not None else DEFAULT_KEEP if self.max_bytes is None else 1.0
        minimum = self.min_pairs if self.min_pairs is not None else MIN_PAIRS if self.keep is None else 0
        kept = max(1, math.ceil(share * tokens), min(minimum, tokens))
        if self.max_bytes is None:
            return kept
        if self.max_bytes < pair_bytes:
            raise ConfigError(f"max_bytes={self.max_bytes}: the pairs of a single token take {pair_bytes} bytes.")
        return min(kept, self.max_bytes // pair_bytes)


@dataclass(frozen=True, eq=False)
class ContextCache:
    """The pairs that a target keeps of a context, for any number of questions.

    Created by `read` or `load`; `spec_rag.generate(pair, question, context=...)` starts from it. Immutable, so threads
    may share it.

    Attributes:
        ids: int64 [tokens], the context with the start of its chat turn.
        keys, values: per layer [pairs, dim], the kept pairs, ordered by KV head.
        positions: per layer int64 [pairs], their positions in the context; ascending within a head.
        lengths: per layer int64 [KV heads], number of pairs of each head.
        target_key: fingerprint of the target.
        settings: the options it was read with.
    """

    ids: Tensor
    keys: tuple[Tensor, ...] = field(repr=False)
    values: tuple[Tensor, ...] = field(repr=False)
    positions: tuple[Tensor, ...] = field(repr=False)
    lengths: tuple[Tensor, ...] = field(repr=False)
    target_key: str = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        pair: ModelPair,
        context: str | Sequence[int] | Tensor,
        *,
        cancelled: threading.Event | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> ContextCache:
        """Let the target read a context once, and keep the most important part of its pairs.

        This takes two to three times as long as reading it; each question is then answered without reading it again. If
        the target's attention takes a mask per head ("sdpa", "eager"), heads and layers compete for the pairs, and a
        question pads each layer to its widest head; otherwise all heads keep equally many.

        Args:
            pair: the models; the target is needed.
            context: text, which opens the user's turn if the tokenizer has a chat template; or token ids.
            cancelled: an event that ends the reading when it is set.
            backend: kernel backend; None selects by device.
            **options: fields of `ContextOptions`: system, keep, max_bytes, min_pairs.

        Raises:
            ConfigError: an argument is out of range or unknown, or the context is empty.
            PromptTooLongError: the context exceeds the target's own.
            UnsupportedModelError: the target's cache cannot be pruned, or its rotary frequencies change here.
            CancelledError: it was cancelled.
            OutOfMemoryError, NotFiniteError: the target ran out of memory, or computed NaN or infinity.
        """
        target = ModelPair.check(pair).require_target()
        chosen = ContextOptions.of(options)
        ids = context_ids(pair.tokenizer, context, chosen.system)
        pair.check_context(target, len(ids) + PIECE_TOKENS, "target", "split the context.")
        check_one_side(target, len(ids) + PIECE_TOKENS)
        with pair.lock.hold(cancelled) as acquired, _reading_errors(pair, len(ids)):
            check(None if acquired else cancelled)
            cache = PrunedCache(target.config)
            read_pieces(target, ids, cache, cancelled)
            check_finite(cache.layers[-1].keys, "keys")
            pair_bytes = sum(layer.keys[:, :, :1].nbytes + layer.values[:, :, :1].nbytes for layer in cache.layers)
            pairs_per_head = chosen.pairs_per_head(len(ids), pair_bytes)
            masks = _visible_pairs(cache, len(ids))
            if pairs_per_head < len(ids):
                repetition = repetition_ids(pair.tokenizer, context)
                scores = repetition_scores(target, cache, repetition, cancelled, backend)
                full = [i for i, layer in enumerate(cache.layers) if not layer.is_sliding]
                adaptive = base_attention(target) in MASK_PER_HEAD
                best = select_across_layers(
                    [scores[i][0] for i in full], pairs_per_head, _ALWAYS_KEPT, adaptive=adaptive
                )
                for i, mask in zip(full, best, strict=True):
                    masks[i] = mask
            return cls(
                ids,
                tuple(layer.keys[0][mask] for layer, mask in zip(cache.layers, masks, strict=True)),
                tuple(layer.values[0][mask] for layer, mask in zip(cache.layers, masks, strict=True)),
                tuple(mask.nonzero()[:, 1] for mask in masks),
                tuple(mask.sum(dim=1) for mask in masks),
                _weights_of(target),
                {"asked": chosen.requested, "kept": pairs_per_head / len(ids), "system": chosen.system},
            )

    @property
    def tokens(self) -> int:
        """Tokens of the context with the start of its turn."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the kept keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def save(self, path: str | Path) -> None:
        """Write it to a file atomically.

        Raises:
            FileNotWrittenError: (an OSError) it cannot be written; an older file is unchanged.
        """
        tensors = {"ids": self.ids.cpu()}
        for name in _PARTS:
            tensors |= {f"{name}.{i}": part.cpu() for i, part in enumerate(getattr(self, name))}
        about = {"format": _FORMAT, "key": self.target_key, "settings": json.dumps(self.settings)}
        write_whole(Path(path), tensors_to_bytes({name: t.contiguous() for name, t in tensors.items()}, about))

    @classmethod
    def load(cls, path: str | Path, pair: ModelPair) -> ContextCache:
        """Read a file that `save` wrote, onto the target's device.

        Raises:
            ConfigError: the file is damaged or of another version, or the pair's target has other weights.
            OSError: it cannot be read.
        """
        target = ModelPair.check(pair).require_target()
        try:
            tensors, about = tensors_from_bytes(Path(path).read_bytes())
            if about.get("format") != _FORMAT:
                raise ValueError("it is no context of this version of spec-rag")
            settings = json.loads(about["settings"])
            layers = range(len([name for name in tensors if name.startswith("keys.")]))
            parts = [tuple(tensors[f"{name}.{i}"].to(target.device) for i in layers) for name in _PARTS]
        except (ValueError, KeyError) as error:
            raise ConfigError(f"context={str(path)!r}: {error}. Read the context again.") from error
        loaded = cls(tensors["ids"], parts[0], parts[1], parts[2], parts[3], about["key"], settings)
        loaded.check(pair)
        return loaded

    def check(self, pair: ModelPair) -> None:
        """Refuse a pair whose target is not the one that read the context.

        Raises:
            ConfigError: its weights differ.
        """
        if _weights_of(pair.require_target()) != self.target_key:
            raise ConfigError(
                "context: it was read by another target, whose keys and values the pair's target cannot use. Read it "
                "with this pair."
            )

    def start(self, target: Any, padding: Tensor) -> PrunedCache:
        """A cache with one row per question, which shares no memory that it changes with this object.

        Args:
            target: the model that read the context.
            padding: int64 [rows], padding tokens between the context and each question.
        """
        cache = PrunedCache(target.config)
        ranges = self.tokens + torch.stack([torch.zeros_like(padding), padding], dim=1)
        for layer, *parts in zip(cache.layers, self.keys, self.values, self.positions, self.lengths, strict=True):
            keys, values, positions = (x.expand(len(padding), *x.shape[1:]) for x in _padded_heads(*parts))
            layer.load(keys, values, positions, self.tokens, ranges)
        return cache


def check_one_side(target: Any, tokens: int) -> None:
    """Refuse a context whose tokens exceed the target's switch of rotary frequencies.

    Args:
        target: the model that reads it.
        tokens: tokens of the context and of everything after it.

    Raises:
        UnsupportedModelError: they exceed it.
    """
    switch = RopeSwitch.of(target.config)
    if switch is not None and tokens > switch.tokens:
        raise UnsupportedModelError(
            f"context: it takes {tokens} tokens with everything after it, but keys that {type(target).__name__} has "
            f"cached cannot be read there, as {switch.reason()}: shorten the context or max_new_tokens, or put the "
            "context into the prompt."
        )


def _reading_errors(pair: ModelPair, tokens: int) -> error_context:
    target = pair.require_target()

    def suggestions() -> list[str]:
        return [f"a shorter context than {tokens} tokens", *ways_of_loading("target", target)]

    return error_context("target", pair.name_of("target") or "", target, suggestions)


def _visible_pairs(cache: PrunedCache, tokens: int) -> list[Tensor]:
    """Per layer bool [KV heads, tokens]: the pairs that the first token after the context attends to."""
    masks = []
    for layer in cache.layers:
        mask = torch.ones(layer.keys.shape[1], tokens, dtype=torch.bool, device=layer.keys.device)
        if layer.sliding_window is not None:
            mask[:, : max(0, tokens + 1 - layer.sliding_window)] = False
        masks.append(mask)
    return masks


def _padded_heads(keys: Tensor, values: Tensor, positions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's pairs as [1, KV heads, widest head, dim], and their positions; shorter heads start with empty slots."""
    heads, widest = len(lengths), int(lengths.max())
    if len(positions) == heads * widest:
        keys, values = keys.view(1, heads, widest, -1), values.view(1, heads, widest, -1)
        return keys, values, positions.view(1, heads, widest)
    filled = torch.arange(widest, device=lengths.device) >= widest - lengths[:, None]
    slots = torch.full((heads, widest), -1, dtype=torch.long, device=positions.device)
    slots[filled] = positions
    padded = [x.new_zeros(heads, widest, x.shape[-1]) for x in (keys, values)]
    for wide, flat in zip(padded, (keys, values), strict=True):
        wide[filled] = flat
    return padded[0][None], padded[1][None], slots[None]


def _weights_of(target: Any) -> str:
    layers = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    return fingerprint(target, layers, layers)
