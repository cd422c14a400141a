"""One context for many questions: the target reads it once, and keeps the pairs that any question may need.

What matters is found without a question: the target is made to repeat the context, piece by piece, and a pair counts as
much as the repetition attends to it (KVzip, arXiv 2505.23416). This module does not know how answers are generated.
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
from spec_rag_kernels import window_scores
from torch import Tensor

from spec_rag.attention.capture import AttentionCall, capture
from spec_rag.cancellation import check
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.generation.pruned_cache import PrunedCache
from spec_rag.models.fingerprint import fingerprint
from spec_rag.models.pair import ModelPair
from spec_rag.tensor_files import tensors_from_bytes, tensors_to_bytes, write_whole
from spec_rag.text.contexts import context_ids
from spec_rag.text.tokens import text_ids

DEFAULT_KEEP = 0.25
_FORMAT = "1"
_PIECE_TOKENS = 512
_OVERLAP_TOKENS = 8
_ALWAYS_KEPT = 4  # the first tokens, which every query leans on


@dataclass(frozen=True, eq=False)
class ContextCache:
    """The pairs that a target keeps of a context, for any number of questions on it.

    Made by `read` or `load`; `spec_rag.generate(pair, question, context=...)` starts from it. It may serve several
    threads; nothing changes it.

    Attributes:
        ids: int64 [tokens], the context with the opening of its chat turn.
        keys, values: per layer [1, KV heads, kept, dim].
        positions: per layer int64 [1, KV heads, kept], ascending positions of the kept pairs.
        target_key: which weights have read it.
        settings: how it was read.
    """

    ids: Tensor
    keys: tuple[Tensor, ...] = field(repr=False)
    values: tuple[Tensor, ...] = field(repr=False)
    positions: tuple[Tensor, ...] = field(repr=False)
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
        cancelled: threading.Event | None = None,
        backend: str | None = None,
    ) -> ContextCache:
        """Let the target read a context once and keep the part of its pairs that matters.

        Takes two to three times as long as reading it; each question is then answered without reading it again.

        Args:
            pair: the models; the target is needed.
            context: text, which opens the user's turn where the tokenizer has a chat template; or token ids.
            system: what the system's turn says, for text with a chat template.
            keep: share of the pairs that each layer and KV head keeps, above 0 and at most 1; None is 0.25, or what
                max_bytes allows.
            max_bytes: keep at most so many bytes of keys and values.
            cancelled: an event that ends the reading when it is set.
            backend: kernel backend; None chooses by device.

        Raises:
            ConfigError: an argument is out of range, or the context is empty.
            PromptTooLongError: the context is beyond the target's own.
            UnsupportedModelError: the target's cache cannot be pruned.
            CancelledError: it was cancelled.
        """
        target = ModelPair.check(pair).require_target()
        _check_share(keep, max_bytes)
        ids = context_ids(pair.tokenizer, context, system)
        pair.check_context(target, len(ids) + _PIECE_TOKENS, "target", "split the context.")
        with pair.lock.hold(cancelled) as mine:
            check(None if mine else cancelled)
            cache = PrunedCache(target.config)
            _read_pieces(target, ids, cache, cancelled)
            pair_bytes = sum(layer.keys[:, :, :1].nbytes + layer.values[:, :, :1].nbytes for layer in cache.layers)
            kept = _kept_tokens(len(ids), pair_bytes, keep, max_bytes)
            if kept < len(ids):
                prelude = [] if pair.tokenizer is None else text_ids(pair.tokenizer, "\n\nRepeat the text:\n\n")
                scores = _copy_scores(target, ids, cache, prelude, cancelled, backend)
            for i, layer in enumerate(cache.layers):
                whole = torch.arange(len(ids), device=layer.keys.device).expand(1, layer.keys.shape[1], -1)
                chosen = whole if kept == len(ids) or layer.is_sliding else _best(scores[i], kept)
                layer.keep(chosen, len(ids))
            weights = _weights_of(target)
        layers = cache.layers
        return cls(
            ids,
            tuple(layer.keys.contiguous() for layer in layers),
            tuple(layer.values.contiguous() for layer in layers),
            tuple(layer.positions for layer in layers if layer.positions is not None),
            weights,
            {
                "asked": keep if keep is not None else max_bytes or DEFAULT_KEEP,
                "kept": kept / len(ids),
                "system": system,
            },
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
            OSError: it cannot be written; an older file stays as it was.
        """
        tensors = {"ids": self.ids.cpu()}
        for i, (keys, values, positions) in enumerate(zip(self.keys, self.values, self.positions, strict=True)):
            tensors |= {f"keys.{i}": keys.cpu(), f"values.{i}": values.cpu(), f"positions.{i}": positions.cpu()}
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
            layers = len([name for name in tensors if name.startswith("keys.")])
            parts = [
                tuple(tensors[f"{name}.{i}"].to(target.device) for i in range(layers))
                for name in ("keys", "values", "positions")
            ]
        except (ValueError, KeyError) as error:
            raise ConfigError(f"context={str(path)!r}: {error}. Read the context anew.") from error
        found = cls(tensors["ids"], parts[0], parts[1], parts[2], about["key"], settings)
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

    def start(self, target: Any, rows: int = 1) -> PrunedCache:
        """A cache for `rows` questions, which shares this one's tensors and leaves them alone."""
        cache = PrunedCache(target.config)
        for layer, keys, values, positions in zip(cache.layers, self.keys, self.values, self.positions, strict=True):
            keys, values, positions = (x.expand(rows, *x.shape[1:]) for x in (keys, values, positions))
            layer.take(keys, values, positions, self.tokens)
        return cache


class _CopyScores:
    """Observes the repetition: per layer and KV head, the most that any of its queries attends to each pair."""

    def __init__(self, tokens: int, layers: int, backend: str | None) -> None:
        self.tokens = tokens
        self.backend = backend
        self.best: list[Tensor | None] = [None] * layers

    def __call__(self, call: AttentionCall) -> None:
        """Reduce one call of one layer."""
        if call.layer >= len(self.best):
            raise UnsupportedModelError(
                f"Layer {call.layer} shares the keys of another, which cannot be pruned on its own: choose a target "
                "whose every layer has its own keys."
            )
        scores = window_scores(
            call.query,
            call.key,
            scaling=call.scaling,
            reduce_queries="max",
            reduce_heads="kv",
            head_reduction="max",
            softcap=call.softcap,
            sliding_window=call.sliding_window,
            sinks=call.sinks,
            backend=self.backend,
        )[:, :, : self.tokens]
        best = self.best[call.layer]
        self.best[call.layer] = scores if best is None else torch.maximum(best, scores)


def _read_pieces(target: Any, ids: Tensor, cache: PrunedCache, cancelled: threading.Event | None) -> None:
    """Fill the cache with the whole context, piece by piece, so that no piece's activations are large."""
    decoder = target.get_decoder()
    for start in range(0, len(ids), _PIECE_TOKENS):
        check(cancelled)
        piece = ids[start : start + _PIECE_TOKENS].to(target.device)
        positions = torch.arange(start, start + len(piece), device=target.device)
        with torch.no_grad():
            decoder(input_ids=piece[None], position_ids=positions[None], past_key_values=cache, use_cache=True)


def _copy_scores(
    target: Any,
    ids: Tensor,
    cache: PrunedCache,
    prelude: Sequence[int],
    cancelled: threading.Event | None,
    backend: str | None,
) -> list[Tensor]:
    """Per layer float32 [1, KV heads, tokens]: how much a repetition of the context attends to each of its pairs."""
    observer = _CopyScores(len(ids), len(cache.layers), backend)
    decoder = target.get_decoder()
    for start in range(0, len(ids), _PIECE_TOKENS):
        check(cancelled)
        before = ids[max(0, start - _OVERLAP_TOKENS) : start]
        piece = torch.cat([torch.tensor(prelude, dtype=torch.long), before, ids[start : start + _PIECE_TOKENS]])
        positions = torch.arange(len(ids), len(ids) + len(piece), device=target.device)
        with capture(target, observer), torch.no_grad():
            decoder(
                input_ids=piece[None].to(target.device),
                position_ids=positions[None],
                past_key_values=cache,
                use_cache=True,
            )
        for layer in cache.layers:
            layer.crop(-len(piece))
    found = [scores for scores in observer.best if scores is not None]
    if len(found) != len(cache.layers):
        raise UnsupportedModelError(
            f"{type(target).__name__} showed {len(found)} of its {len(cache.layers)} layers to the attention "
            "interface: its cache cannot be pruned faithfully."
        )
    return found


def _best(scores: Tensor, kept: int) -> Tensor:
    """int64 [1, KV heads, kept], ascending: the best pairs of each head, and the first tokens."""
    scores = scores.clone()
    scores[..., : min(_ALWAYS_KEPT, kept)] = math.inf
    return scores.topk(kept, dim=-1).indices.sort(dim=-1).values


def _check_share(keep: float | None, max_bytes: int | None) -> None:
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1):
        raise ConfigError(f"keep={keep!r}: must be above 0 and at most 1.")
    if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
        raise ConfigError(f"max_bytes={max_bytes!r}: must be an integer of at least 1.")


def _kept_tokens(tokens: int, pair_bytes: int, keep: float | None, max_bytes: int | None) -> int:
    """Pairs that each layer and KV head keeps."""
    share = keep if keep is not None else DEFAULT_KEEP if max_bytes is None else 1.0
    kept = max(1, math.ceil(share * tokens))
    if max_bytes is None:
        return kept
    if max_bytes < pair_bytes:
        raise ConfigError(f"max_bytes={max_bytes}: the pairs of a single token take {pair_bytes} bytes.")
    return min(kept, max_bytes // pair_bytes)


def _weights_of(target: Any) -> str:
    layers = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    return fingerprint(target, layers, layers)
