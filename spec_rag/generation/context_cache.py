"""One context for many questions: the target reads it once, and keeps the pairs that any question may need.

What matters is found without a question, by a repetition of the context. Heads that copy keep almost all of it, others
little (KVzip, arXiv 2505.23416). This module does not know how answers are generated.
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
from spec_rag.utils.validation import check_integer

DEFAULT_KEEP = 0.25
MIN_PAIRS = 256
"""Pairs that each KV head keeps by default, at least: from fewer, answers fall apart. Shorter texts stay whole."""

_FORMAT = "2"
_PARTS = ("keys", "values", "positions", "lengths")
_ALWAYS_KEPT = 4  # the first tokens, which every query leans on


@dataclass(frozen=True, eq=False)
class ContextCache:
    """The pairs that a target keeps of a context, for any number of questions on it.

    Made by `read` or `load`; `spec_rag.generate(pair, question, context=...)` starts from it. It may serve several
    threads; nothing changes it.

    Attributes:
        ids: int64 [tokens], the context with the opening of its chat turn.
        keys, values: per layer [pairs, dim], the kept pairs of one KV head after another's.
        positions: per layer int64 [pairs], where they stand in the context; ascending within a head.
        lengths: per layer int64 [KV heads], how many pairs each head keeps.
        target_key: which weights have read it.
        settings: how it was read.
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
        system: str | None = None,
        keep: float | None = None,
        max_bytes: int | None = None,
        min_pairs: int | None = None,
        cancelled: threading.Event | None = None,
        backend: str | None = None,
    ) -> ContextCache:
        """Let the target read a context once and keep the part of its pairs that matters.

        Takes two to three times as long as reading it; each question is then answered without reading it again. Where
        the target's attention takes a mask for each head ("sdpa", "eager"), heads and layers keep as many pairs as
        are worth it, and a question lays them out as wide as the layer's widest head; else all keep as many.

        Args:
            pair: the models; the target is needed.
            context: text, which opens the user's turn where the tokenizer has a chat template; or token ids.
            system: what the system's turn says, for text with a chat template.
            keep: share of the pairs that is kept, above 0 and at most 1; None is 0.25, or what
                max_bytes allows.
            max_bytes: keep at most so many bytes of keys and values.
            min_pairs: pairs that each KV head keeps on average, at least, whatever keep says; max_bytes is stronger. A
                context of fewer tokens stays whole. None is 256 where keep is None, else 0.
            cancelled: an event that ends the reading when it is set.
            backend: kernel backend; None chooses by device.

        Raises:
            ConfigError: an argument is out of range, or the context is empty.
            PromptTooLongError: the context is beyond the target's own.
            UnsupportedModelError: the target's cache cannot be pruned, or its rotary frequencies change here.
            CancelledError: it was cancelled.
            OutOfMemoryError, NotFiniteError: the target ran out of memory, or computed nan or inf.
        """
        target = ModelPair.check(pair).require_target()
        _check_share(keep, max_bytes)
        check_integer("min_pairs", min_pairs, 0, optional=True)
        if min_pairs is None:
            min_pairs = MIN_PAIRS if keep is None else 0
        ids = context_ids(pair.tokenizer, context, system)
        pair.check_context(target, len(ids) + PIECE_TOKENS, "target", "split the context.")
        check_one_side(target, len(ids) + PIECE_TOKENS)
        with pair.lock.hold(cancelled) as mine, _explained_reading(pair, len(ids)):
            check(None if mine else cancelled)
            cache = PrunedCache(target.config)
            read_pieces(target, ids, cache, cancelled)
            check_finite(cache.layers[-1].keys, "keys")
            pair_bytes = sum(layer.keys[:, :, :1].nbytes + layer.values[:, :, :1].nbytes for layer in cache.layers)
            kept = _kept_tokens(len(ids), pair_bytes, keep, max_bytes, min_pairs)
            chosen = _whole(cache, len(ids))
            if kept < len(ids):
                asked, repeated = repetition_ids(pair.tokenizer, context)
                scores = repetition_scores(target, cache, len(ids), asked, repeated, cancelled, backend)
                full = [i for i, layer in enumerate(cache.layers) if not layer.is_sliding]
                adaptive = base_attention(target) in MASK_PER_HEAD
                best = select_across_layers([scores[i][0] for i in full], kept, _ALWAYS_KEPT, adaptive=adaptive)
                for i, mask in zip(full, best, strict=True):
                    chosen[i] = mask
            settings = {"asked": keep if keep is not None else max_bytes or DEFAULT_KEEP, "kept": kept / len(ids)}
            return cls(
                ids,
                tuple(layer.keys[0][mask] for layer, mask in zip(cache.layers, chosen, strict=True)),
                tuple(layer.values[0][mask] for layer, mask in zip(cache.layers, chosen, strict=True)),
                tuple(mask.nonzero()[:, 1] for mask in chosen),
                tuple(mask.sum(dim=1) for mask in chosen),
                _weights_of(target),
                {**settings, "system": system},
            )

    @property
    def tokens(self) -> int:
        """Of the context, with the opening of its turn."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Of the keys and values that are held."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def save(self, path: str | Path) -> None:
        """Write it to a file. Whoever reads meanwhile, or after a crash, finds the old file or the new one, whole.

        Raises:
            FileNotWrittenError: (an OSError) it cannot be written; an older file stays as it was.
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
            ConfigError: it is damaged, of another version, or was read by other weights than the pair's target.
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
            raise ConfigError(f"context={str(path)!r}: {error}. Read the context anew.") from error
        found = cls(tensors["ids"], parts[0], parts[1], parts[2], parts[3], about["key"], settings)
        found.check(pair)
        return found

    def check(self, pair: ModelPair) -> None:
        """Refuse a pair whose target has not read it.

        Raises:
            ConfigError: the weights are others.
        """
        if _weights_of(pair.require_target()) != self.target_key:
            raise ConfigError(
                "context: it was read by another target, whose keys and values the pair's target cannot use. Read it "
                "with this pair."
            )

    def start(self, target: Any, padding: Tensor) -> PrunedCache:
        """A cache for as many questions as there are in `padding`; it leaves this one's tensors alone.

        Args:
            target: the model that has read the context.
            padding: int64 [rows], tokens of padding between the context and each question.
        """
        cache = PrunedCache(target.config)
        between = self.tokens + torch.stack([torch.zeros_like(padding), padding], dim=1)
        for layer, *parts in zip(cache.layers, self.keys, self.values, self.positions, self.lengths, strict=True):
            keys, values, positions = (x.expand(len(padding), *x.shape[1:]) for x in _laid_out(*parts))
            layer.take(keys, values, positions, self.tokens, between)
        return cache


def check_one_side(target: Any, tokens: int) -> None:
    """Refuse a context whose keys could not be read behind the switch of the target's rotary frequencies.

    Args:
        target: the model that reads it.
        tokens: of the context and of what is read or written behind it.

    Raises:
        UnsupportedModelError: so many tokens go beyond the switch.
    """
    switch = RopeSwitch.of(target.config)
    if switch is not None and tokens > switch.tokens:
        raise UnsupportedModelError(
            f"context: it takes {tokens} tokens with what stands behind it, but keys that {type(target).__name__} has "
            f"cached cannot be read there, as {switch.reason()}: shorten the context or max_new_tokens, or put the "
            "context into the prompt."
        )


def _explained_reading(pair: ModelPair, tokens: int) -> error_context:
    target = pair.require_target()

    def ways() -> list[str]:
        return [f"a shorter context than {tokens} tokens", *ways_of_loading("target", target)]

    return error_context("target", pair.name_of("target") or "", target, ways)


def _whole(cache: PrunedCache, tokens: int) -> list[Tensor]:
    """Per layer bool [KV heads, tokens]: all that it can see of the context once that has been read."""
    masks = []
    for layer in cache.layers:
        mask = torch.ones(layer.keys.shape[1], tokens, dtype=torch.bool, device=layer.keys.device)
        if layer.sliding_window is not None:
            mask[:, : max(0, tokens + 1 - layer.sliding_window)] = False
        masks.append(mask)
    return masks


def _laid_out(keys: Tensor, values: Tensor, positions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's pairs as [1, KV heads, widest head, dim] and positions; shorter heads begin with empty slots."""
    heads, widest = len(lengths), int(lengths.max())
    if len(positions) == heads * widest:
        keys, values = keys.view(1, heads, widest, -1), values.view(1, heads, widest, -1)
        return keys, values, positions.view(1, heads, widest)
    there = torch.arange(widest, device=lengths.device) >= widest - lengths[:, None]
    slots = torch.full((heads, widest), -1, dtype=torch.long, device=positions.device)
    slots[there] = positions
    wide = [x.new_zeros(heads, widest, x.shape[-1]) for x in (keys, values)]
    for held, given in zip(wide, (keys, values), strict=True):
        held[there] = given
    return wide[0][None], wide[1][None], slots[None]


def _check_share(keep: float | None, max_bytes: int | None) -> None:
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1):
        raise ConfigError(f"keep={keep!r}: must be above 0 and at most 1.")
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
        raise ConfigError(f"max_bytes={max_bytes!r}: must be an integer of at least 1.")


def _kept_tokens(tokens: int, pair_bytes: int, keep: float | None, max_bytes: int | None, min_pairs: int) -> int:
    """Pairs that a KV head keeps on average."""
    share = keep if keep is not None else DEFAULT_KEEP if max_bytes is None else 1.0
    kept = max(1, math.ceil(share * tokens), min(min_pairs, tokens))
    if max_bytes is None:
        return kept
    if max_bytes < pair_bytes:
        raise ConfigError(f"max_bytes={max_bytes}: the pairs of a single token take {pair_bytes} bytes.")
    return min(kept, max_bytes // pair_bytes)


def _weights_of(target: Any) -> str:
    layers = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    return fingerprint(target, layers, layers)
