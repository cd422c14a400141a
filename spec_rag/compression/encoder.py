"""The draft reads passages one by one, and a question looks at all of them at once.

The instruction is encoded once and each passage on its own after it, all at the same positions; the question's tokens
then attend to the passages' keys and values side by side. So cost is linear in the documents, no context limit binds,
and no document stands in a better place than another. This module turns tokens into attention; it does not know how
importance is made of it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from spec_rag.attention.capture import capture
from spec_rag.compression.context_attention import ParallelContextAttention
from spec_rag.compression.document_draft import Draft, scored_layers
from spec_rag.compression.layer_slicing import first_layers
from spec_rag.compression.passages import EncodedPassage, QuestionTokens, frame
from spec_rag.compression.readout import layer_range
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.models.error_context import check_finite
from spec_rag.models.fingerprint import fingerprint, quick_checksum
from spec_rag.models.model_config import cache_option, layer_kinds
from spec_rag.options.compression import CompressionConfig
from spec_rag.utils import cancellation
from spec_rag.utils.object_state import state_of
from spec_rag.utils.progress import steps

_BATCH_TOKENS = 1024  # passages that are encoded together, padding included


def encoder_for(draft: Draft, config: CompressionConfig, backend: str | None = None) -> PassageEncoder:
    """An encoder for that draft, with the layers that the score needs.

    Raises:
        ConfigError: the score needs layers that were not loaded.
    """
    layers = scored_layers(draft, config)
    if layers[1] > draft.loaded_layers:
        raise ConfigError(
            f"calibration={config.calibration!r} needs {layers[1]} layers of the draft {draft.name!r}, of which "
            f"{draft.loaded_layers} are loaded: load all of them, or change that setting."
        )
    return PassageEncoder(draft, layers, backend)


class _Prefixes(dict[int, tuple[str, EncodedPassage]]):
    """The encoded instruction of one model, by depth, with the checksum of the weights."""


class PassageEncoder:
    """A draft that encodes passages after its instruction, and scores them for questions.

    Args:
        draft: the model that reads, and its tokenizer.
        layers: [first, last) scored layers; a question attends to passages in these alone. None takes those of a
            draft without a readout.
        backend: kernel backend; None chooses by device.

    Raises:
        UnsupportedModelError: some layers hold something else than keys and values, or cannot be told apart.
    """

    def __init__(self, draft: Draft, layers: tuple[int, int] | None = None, backend: str | None = None) -> None:
        if not hasattr(draft.model.get_decoder(), "layers"):
            raise UnsupportedModelError(
                f"draft={draft.name!r} of type {type(draft.model).__name__} has no layers that a question could look "
                "into one by one: choose another draft (docs/architectures.md)."
            )
        if other := layer_kinds(draft.model.config) - {"full_attention", "sliding_attention"}:
            raise UnsupportedModelError(
                f"draft={draft.name!r} has layers of type {', '.join(sorted(other))}, whose reading of a document "
                "cannot be kept for a question: choose a draft of full and sliding-window attention alone."
            )
        self.draft = draft
        self.frame = frame(draft.tokenizer)
        self.backend = backend
        first, last = layers or layer_range(draft.total_layers)
        self.layers = first, min(last, draft.loaded_layers)
        self._decoder = first_layers(draft.model, self.depth)

    @property
    def depth(self) -> int:
        """Layers that run."""
        return self.layers[1]

    @property
    def device(self) -> torch.device:
        """Where the draft is."""
        return torch.device(self.draft.model.device)

    @cached_property
    def prefix(self) -> EncodedPassage:
        """Keys and values of the instruction, read once per model and depth."""
        prefixes = state_of(self.draft.model, _Prefixes)
        weights = quick_checksum(self.draft.model, self.depth)
        if self.depth not in prefixes or prefixes[self.depth][0] != weights:
            cache = DynamicCache()
            ids = torch.tensor([self.frame.head], device=self.device)
            with torch.no_grad():
                self._decoder(input_ids=ids, use_cache=True, **cache_option(self._decoder.forward, cache))
            check_finite(cache.layers[-1].keys, "keys")
            prefixes[self.depth] = (weights, _stacked(cache, 0, 0, len(self.frame.head)))
        return prefixes[self.depth][1]

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights of the layers that run."""
        return fingerprint(self.draft.model, self.depth, self.draft.total_layers)

    def encode(
        self,
        passages: Sequence[Sequence[int]],
        cancelled: threading.Event | None = None,
    ) -> list[EncodedPassage]:
        """Read passages, each on its own after the instruction.

        Args:
            passages: token ids, at least one each.
            cancelled: an event that ends the reading between two batches of passages when it is set.

        Returns:
            One EncodedPassage per passage, in the given order, on the draft's device, with the scored layers.

        Raises:
            CancelledError: `cancelled` was set.
        """
        if not passages:
            return []
        encoded: dict[int, EncodedPassage] = {}
        batches = _batches([len(p) for p in passages])
        with steps("The draft reads", len(batches), silent=True) as done:
            for batch in batches:
                cancellation.check(cancelled)
                read = self._encode_batch([passages[i] for i in batch])
                encoded.update(zip(batch, read, strict=True))
                done()
        return [encoded[i] for i in range(len(passages))]

    def _encode_batch(self, passages: Sequence[Sequence[int]]) -> list[EncodedPassage]:
        start, width = self.prefix.tokens, max(len(p) for p in passages)
        ids = torch.zeros(len(passages), width, dtype=torch.long)
        for row, passage in enumerate(passages):
            ids[row, : len(passage)] = torch.tensor(passage)
        cache = DynamicCache()
        for layer in range(self.depth):
            own = self.prefix.of_layer(layer)
            cache.update(*(x.expand(len(passages), -1, -1, -1) for x in own), layer)
        positions = torch.arange(start, start + width, device=self.device).expand(len(passages), -1)
        with torch.no_grad():
            # padding stands on the right, where a causal mask already hides it
            self._decoder(
                input_ids=ids.to(self.device),
                position_ids=positions,
                use_cache=True,
                **cache_option(self._decoder.forward, cache),
            )
        check_finite(cache.layers[self.depth - 1].keys, "keys")  # a nan reaches all layers above
        return [
            _stacked(cache, row, start, start + len(passage), range(*self.layers))
            for row, passage in enumerate(passages)
        ]

    def attention(self, passages: Sequence[EncodedPassage], questions: Sequence[QuestionTokens]) -> Tensor:
        """What each question attends to in all passages at once, in the scored layers.

        Returns:
            float32 [questions, layers, heads, passage tokens]: the most that any token of the question, its frame
            included, attends to each token of the passages, which stand one after the other.

        Raises:
            UnsupportedModelError: the draft's attention does not go through transformers' interface.
        """
        first_layer, last_layer = self.layers
        start = self.prefix.tokens + max(p.tokens for p in passages)
        # one row with the questions behind each other: padding would be computed too
        ids = torch.tensor([[token for q in questions for token in q.ids]])
        positions = torch.cat([torch.arange(start, start + len(q.ids)) for q in questions])[None]
        lengths = [len(q.ids) for q in questions]
        observer = ParallelContextAttention(self.prefix, passages, lengths, start, first_layer, self.backend)
        with capture(self._decoder, observer), torch.no_grad():
            self._decoder(input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=False)
        if len(observer.scores) != last_layer - first_layer:
            raise UnsupportedModelError(
                f"draft={self.draft.name!r} showed {len(observer.scores)} of {last_layer - first_layer} layers to "
                "transformers' attention interface: choose a draft whose attention goes through it "
                "(docs/architectures.md)."
            )
        return torch.stack(observer.scores, dim=1)


def _stacked(cache: DynamicCache, row: int, start: int, end: int, layers: range | None = None) -> EncodedPassage:
    device = cache.layers[0].keys.device
    chosen = range(len(cache.layers)) if layers is None else layers
    keys, values = (
        torch.stack([getattr(cache.layers[i], name)[row, :, start:end].to(device) for i in chosen])
        for name in ("keys", "values")
    )
    return EncodedPassage(keys, values, chosen.start)


def _batches(lengths: Sequence[int], tokens: int = _BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of like lengths, each of at most so many tokens when padded (or a single row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and lengths[i] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
