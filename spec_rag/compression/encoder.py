"""The draft reads passages one by one, and a question looks at all of them at once.

The instruction is encoded once and each passage on its own after it, all at the same positions; the question's tokens
then attend to the passages' keys and values side by side. So cost is linear in the documents, no context limit binds,
and no document stands in a better place than another. This module turns tokens into attention; it does not know how
importance is made of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from spec_rag.attention.capture import capture
from spec_rag.compression.context_attention import ParallelContextAttention, PerPassageAttention
from spec_rag.compression.document_draft import Draft, Layers, layers_for
from spec_rag.compression.layer_slicing import CachedLowerLayers, first_layers, layers_behind
from spec_rag.compression.passages import EncodedPassage, QuestionTokens, frame
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.models.error_context import check_finite
from spec_rag.models.fingerprint import fingerprint, quick_checksum
from spec_rag.models.model_config import layer_kinds
from spec_rag.options.compression import CompressionConfig
from spec_rag.utils import cancellation
from spec_rag.utils.object_state import state_of
from spec_rag.utils.progress import steps

_BATCH_TOKENS = 1024  # passages that are encoded together, padding included


def encoder_for(draft: Draft, config: CompressionConfig, backend: str | None = None) -> PassageEncoder:
    """A reader of that draft, only as deep as the score needs.

    Raises:
        ConfigError: the score needs layers that were not loaded.
    """
    layers = layers_for(draft, config)
    depth, needs = layers.listened[1], f"calibration={config.calibration!r} listens to {layers.listened[1]}"
    if config.needs_whole_draft:
        depth, needs = draft.total_layers, f"likelihood={config.likelihood!r} needs all {draft.total_layers}"
    if depth > draft.loaded_layers:
        raise ConfigError(
            f"{needs} layers of the draft {draft.name!r}, of which {draft.loaded_layers} are loaded: load all of "
            "them, or change that setting."
        )
    return PassageEncoder(draft, depth, backend, layers)


class _Prefixes(dict[int, tuple[str, EncodedPassage]]):
    """The encoded instruction of one model, by depth, with the checksum of the weights."""


class PassageEncoder:
    """A draft with its instruction already read.

    Args:
        draft: the model that reads, and its tokenizer.
        depth: read with the first `depth` layers only; None means all that are loaded. Likelihood needs all.
        backend: kernel backend; None chooses by device.
        layers: which of them a question sees passages in, and which are listened to; None takes the usual ones.

    Raises:
        UnsupportedModelError: some layers hold something else than keys and values, or cannot be told apart.
    """

    def __init__(
        self, draft: Draft, depth: int | None = None, backend: str | None = None, layers: Layers | None = None
    ) -> None:
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
        self.depth = min(depth or draft.loaded_layers, draft.loaded_layers)
        self.backend = backend
        self.layers = layers or Layers.of(draft.total_layers)
        self._decoder = first_layers(draft.model, self.depth)
        self._fingerprints: dict[int, str] = {}
        self._lower: dict[tuple[int, ...], tuple[CachedLowerLayers, int]] = {}

    @property
    def device(self) -> torch.device:
        """Where the draft is."""
        return torch.device(self.draft.model.device)

    @property
    def reading_depth(self) -> int:
        """Layers that passages are read with: above them no question sees them."""
        return min(self.depth, self.layers.seen[1])

    @cached_property
    def prefix(self) -> EncodedPassage:
        """Keys and values of the instruction, read once per model and depth."""
        prefixes = state_of(self.draft.model, _Prefixes)
        weights = quick_checksum(self.draft.model, self.depth)
        if self.depth not in prefixes or prefixes[self.depth][0] != weights:
            cache = DynamicCache()
            ids = torch.tensor([self.frame.head], device=self.device)
            with torch.no_grad():
                self._decoder(input_ids=ids, past_key_values=cache, use_cache=True)
            check_finite(cache.layers[-1].keys, "keys")
            prefixes[self.depth] = (weights, _stacked(cache, 0, 0, len(self.frame.head)))
        return prefixes[self.depth][1]

    def fingerprint(self, depth: int | None = None) -> str:
        """Which weights the first `depth` layers read with."""
        depth = depth or self.depth
        if depth not in self._fingerprints:
            self._fingerprints[depth] = fingerprint(self.draft.model, depth, self.draft.total_layers)
        return self._fingerprints[depth]

    def encode(
        self,
        passages: Sequence[Sequence[int]],
        cancelled: threading.Event | None = None,
        depth: int | None = None,
    ) -> list[EncodedPassage]:
        """Read passages, each on its own after the instruction.

        Args:
            passages: token ids, at least one each.
            cancelled: an event that ends the reading between two batches of passages when it is set.
            depth: with the first `depth` layers alone; None takes all in which a question may see passages.

        Returns:
            One EncodedPassage per passage, in the given order, on the draft's device, with the layers in which a
            question may see it.

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
                read = self._encode_batch([passages[i] for i in batch], depth or self.reading_depth)
                encoded.update(zip(batch, read, strict=True))
                done()
        return [encoded[i] for i in range(len(passages))]

    def _encode_batch(self, passages: Sequence[Sequence[int]], depth: int) -> list[EncodedPassage]:
        start, width = self.prefix.tokens, max(len(p) for p in passages)
        ids = torch.zeros(len(passages), width, dtype=torch.long)
        for row, passage in enumerate(passages):
            ids[row, : len(passage)] = torch.tensor(passage)
        cache = DynamicCache()
        for layer in range(depth):
            own = self.prefix.of_layer(layer)
            cache.update(*(x.expand(len(passages), -1, -1, -1) for x in own), layer)
        positions = torch.arange(start, start + width, device=self.device).expand(len(passages), -1)
        decoder = first_layers(self.draft.model, depth)
        with torch.no_grad():
            # padding stands on the right, where a causal mask already hides it
            decoder(input_ids=ids.to(self.device), position_ids=positions, past_key_values=cache, use_cache=True)
        check_finite(cache.layers[depth - 1].keys, "keys")  # what is none in a layer is none in all above
        seen = range(self.layers.seen[0], min(self.layers.seen[1], depth))
        return [_stacked(cache, row, start, start + len(passage), seen) for row, passage in enumerate(passages)]

    def attention(self, passages: Sequence[EncodedPassage], questions: Sequence[QuestionTokens]) -> Tensor:
        """What each question attends to in all passages at once, in the layers that are listened to.

        Returns:
            float32 [questions, layers, heads, passage tokens]: the most that any token of the question, its frame
            included, attends to each token of the passages, which stand one after the other.

        Raises:
            UnsupportedModelError: the draft's attention does not go through transformers' interface.
        """
        first_layer, last_layer = self.layers.listened
        decoder = first_layers(self.draft.model, last_layer)
        start = self.prefix.tokens + max(p.tokens for p in passages)
        # one row with the questions behind each other: padding would be computed too
        ids = torch.tensor([[token for q in questions for token in q.ids]])
        positions = torch.cat([torch.arange(start, start + len(q.ids)) for q in questions])[None]
        lengths = [len(q.ids) for q in questions]
        observer = ParallelContextAttention(self.prefix, passages, lengths, start, first_layer, self.backend)
        with capture(decoder, observer), torch.no_grad(), self._noting(decoder, questions[0], start) as noting:
            noting(input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=False)
        if len(observer.scores) != last_layer - first_layer:
            raise UnsupportedModelError(
                f"draft={self.draft.name!r} showed {len(observer.scores)} of {last_layer - first_layer} layers to "
                "transformers' attention interface: choose a draft whose attention goes through it "
                "(docs/architectures.md)."
            )
        return torch.stack(observer.scores, dim=1)

    def log_likelihood(
        self,
        passages: Sequence[EncodedPassage],
        question: QuestionTokens,
        cancelled: threading.Event | None = None,
    ) -> Tensor:
        """How well each passage, on its own, foretells the question.

        Returns:
            float32 [passages, question tokens]: log p(token | passage, question so far) of the question's own tokens.

        Raises:
            ValueError: the reader stops below the last layer.
            CancelledError: `cancelled` was set.
        """
        total = self.draft.total_layers
        if self.depth < total:
            raise ValueError(f"depth={self.depth}: the likelihood needs all {total} layers of the draft.")
        result = torch.zeros(len(passages), question.end - question.start)
        asked = question.ids[: question.end - 1]  # the last of its tokens is foretold by the one before
        decoder, start = self._behind_lower_layers(passages, question)
        for batch in _batches([p.tokens + len(asked) for p in passages], 4 * _BATCH_TOKENS):
            cancellation.check(cancelled)
            chosen = [passages[i] for i in batch]
            observer = PerPassageAttention(self.prefix, chosen, len(asked), start)
            ids = torch.tensor(asked).expand(len(batch), -1)
            starts = torch.tensor([start or self.prefix.tokens + p.tokens for p in chosen])
            positions = starts[:, None] + torch.arange(len(asked))
            with capture(self._decoder, observer), torch.no_grad():
                hidden = decoder(
                    input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=False
                ).last_hidden_state
                logits = self.draft.model.get_output_embeddings()(hidden[:, question.start - 1 :])
            own = torch.tensor(question.ids[question.start : question.end], device=logits.device)
            log_p = logits.float().log_softmax(-1).gather(-1, own.expand(len(batch), -1)[..., None])[..., 0]
            result[list(batch)] = log_p.cpu()
        check_finite(result.amax(), "log-likelihoods")
        return result

    @contextmanager
    def _noting(self, decoder: nn.Module, question: QuestionTokens, start: int) -> Iterator[nn.Module]:
        """Note what the layers that see no passage give for the question, which is the same whatever it is asked of."""
        depth = self.layers.seen[0]
        if not depth:
            yield decoder
            return
        lower = CachedLowerLayers(depth)
        yield lower.noting(decoder)
        self._lower[tuple(question.ids)] = (lower.first_tokens(len(question.ids)), start)

    def _behind_lower_layers(
        self, passages: Sequence[EncodedPassage], question: QuestionTokens
    ) -> tuple[nn.Module, int | None]:
        """A decoder that goes on where the question begins to see passages, and the question's position.

        Where passages are seen from the first layer on, the whole decoder, and None: each row's own position.
        """
        if not self.layers.seen[0]:
            return self._decoder, None
        if tuple(question.ids) not in self._lower:
            start = self.prefix.tokens + max(p.tokens for p in passages)
            decoder = first_layers(self.draft.model, self.layers.seen[0])
            positions = torch.arange(start, start + len(question.ids), device=self.device)[None]
            observer = ParallelContextAttention(
                self.prefix, [], [len(question.ids)], start, self.layers.seen[0], self.backend
            )
            with capture(decoder, observer), torch.no_grad(), self._noting(decoder, question, start) as noting:
                noting(
                    input_ids=torch.tensor([question.ids], device=self.device), position_ids=positions, use_cache=False
                )
        lower, start = self._lower[tuple(question.ids)]
        return layers_behind(self.draft.model, lower.first_tokens(question.end - 1)), start


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
