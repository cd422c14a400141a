"""The draft reads documents one by one, and a question looks at all of them at once.

The instruction is encoded once and each passage on its own after it, all at the same positions; the question's tokens
then attend to the passages' keys and values side by side. So cost is linear in the documents, no context limit binds,
and no document stands in a better place than another. This module turns tokens into attention; it does not know how
importance is made of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from spec_rag_kernels import questions_attention
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.attention_capture import AttentionCall, Replaced, capture
from spec_rag.checkpoints import decoder_layers
from spec_rag.errors import UnsupportedModelError
from spec_rag.prompt import QuestionTokens, frame

_BATCH_TOKENS = 1024  # passages that are encoded together, padding included


@dataclass(frozen=True)
class EncodedPassage:
    """A passage's keys and values under the draft, without the instruction's.

    Attributes:
        keys, values: [layers, KV heads, tokens, dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        return int(self.keys.shape[2])

    @property
    def layers(self) -> int:
        return int(self.keys.shape[0])

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.values.nbytes)


class DocumentReader:
    """A draft with its instruction already read.

    Args:
        model: the draft.
        tokenizer: its tokenizer.
        depth: read with the first `depth` layers only; None means all. Likelihood needs all.
        backend: kernel backend; None chooses by device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        depth: int | None = None,
        backend: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.frame = frame(tokenizer)
        self.total_layers = decoder_layers(model.config)
        self.depth = min(depth or self.total_layers, self.total_layers)
        self.backend = backend
        self._decoder = _first_layers(model, self.depth)
        self._prefix: EncodedPassage | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def prefix(self) -> EncodedPassage:
        """Keys and values of the instruction."""
        if self._prefix is None:
            cache = DynamicCache()
            ids = torch.tensor([self.frame.head], device=self.device)
            with torch.no_grad():
                self._decoder(input_ids=ids, past_key_values=cache, use_cache=True)
            self._prefix = _stacked(cache, 0, 0, len(self.frame.head))
        return self._prefix

    def encode(self, passages: Sequence[Sequence[int]]) -> list[EncodedPassage]:
        """Read passages, each on its own after the instruction.

        Args:
            passages: token ids, at least one each.

        Returns:
            One EncodedPassage per passage, in the given order, on the draft's device.
        """
        encoded: dict[int, EncodedPassage] = {}
        for batch in _batches([len(p) for p in passages]):
            width = max(len(passages[i]) for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in enumerate(batch):
                ids[row, : len(passages[i])] = torch.tensor(passages[i])
            start = self.prefix.tokens
            cache = DynamicCache()
            for layer in range(self.depth):
                keys, values = (x[layer].expand(len(batch), -1, -1, -1) for x in (self.prefix.keys, self.prefix.values))
                cache.update(keys, values, layer)
            positions = torch.arange(start, start + width, device=self.device).expand(len(batch), -1)
            with torch.no_grad():
                # padding stands on the right, where a causal mask already hides it
                self._decoder(
                    input_ids=ids.to(self.device), position_ids=positions, past_key_values=cache, use_cache=True
                )
            for row, i in enumerate(batch):
                encoded[i] = _stacked(cache, row, start, start + len(passages[i]))
        return [encoded[i] for i in range(len(passages))]

    def attention(
        self, passages: Sequence[EncodedPassage], questions: Sequence[QuestionTokens], first_layer: int, last_layer: int
    ) -> Tensor:
        """What each question attends to in all passages at once, in layers [first_layer, last_layer).

        Returns:
            float32 [questions, layers, heads, passage tokens]: the most that any token of the question, its frame
            included, attends to each token of the passages, which stand one after the other.
        """
        decoder = _first_layers(self.model, min(last_layer, self.depth))
        start = self.prefix.tokens + max(p.tokens for p in passages)
        # one row with the questions behind each other: padding would be computed too
        ids = torch.tensor([[token for q in questions for token in q.ids]])
        positions = torch.cat([torch.arange(start, start + len(q.ids)) for q in questions])[None]
        observer = _SideBySide(self, passages, [len(q.ids) for q in questions], first_layer)
        with capture(decoder, observer), torch.no_grad():
            decoder(input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=False)
        return torch.stack(observer.scores, dim=1)

    def log_likelihood(self, passages: Sequence[EncodedPassage], question: QuestionTokens) -> Tensor:
        """How well each passage, on its own, foretells the question.

        Returns:
            float32 [passages, question tokens]: log p(token | passage, question so far) of the question's own tokens.

        Raises:
            ValueError: the reader stops below the last layer.
        """
        if self.depth < self.total_layers:
            raise ValueError(f"depth={self.depth}: the likelihood needs all {self.total_layers} layers of the draft.")
        result = torch.zeros(len(passages), question.end - question.start)
        asked = question.ids[: question.end - 1]  # the last of its tokens is foretold by the one before
        for batch in _batches([p.tokens + len(asked) for p in passages], 4 * _BATCH_TOKENS):
            observer = _OneByOne(self, [passages[i] for i in batch], len(asked))
            ids = torch.tensor(asked).expand(len(batch), -1)
            starts = torch.tensor([self.prefix.tokens + passages[i].tokens for i in batch])
            positions = starts[:, None] + torch.arange(len(asked))
            with capture(self._decoder, observer), torch.no_grad():
                hidden = self._decoder(
                    input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=False
                ).last_hidden_state
                logits = self.model.get_output_embeddings()(hidden[:, question.start - 1 :])
            own = torch.tensor(question.ids[question.start : question.end], device=logits.device)
            log_p = logits.float().log_softmax(-1).gather(-1, own.expand(len(batch), -1)[..., None])[..., 0]
            result[list(batch)] = log_p.cpu()
        return result


class _SideBySide:
    """Observer: each question attends to the instruction, all passages and itself.

    The questions stand behind each other in one row, so that the shared keys are neither copied nor read per question.
    """

    def __init__(
        self, reader: DocumentReader, passages: Sequence[EncodedPassage], lengths: Sequence[int], first_layer: int
    ) -> None:
        self.reader = reader
        self.passages = passages
        self.lengths = lengths
        self.first_layer = first_layer
        self.scores: list[Tensor] = []

    def __call__(self, call: AttentionCall) -> Replaced:
        _refuse_unscored(call)
        every = [self.reader.prefix, *self.passages]
        keys, values = (
            torch.cat([x[call.layer].to(call.query) for x in parts], dim=1)[None]
            for parts in ([p.keys for p in every], [p.values for p in every])
        )
        output, scores = questions_attention(
            call.query,
            keys,
            values,
            call.key,
            call.value,
            self.lengths,
            scaling=call.scaling,
            with_scores=call.layer >= self.first_layer,
            backend=self.reader.backend,
        )
        if scores is not None:
            self.scores.append(scores[:, :, self.reader.prefix.tokens :].to(self.reader.device))
        return Replaced(output)


class _OneByOne:
    """Observer: each row attends to the instruction, its own passage and itself."""

    def __init__(self, reader: DocumentReader, passages: Sequence[EncodedPassage], queries: int) -> None:
        self.reader = reader
        self.passages = passages
        width = max(p.tokens for p in passages)
        lengths = torch.tensor([p.tokens for p in passages])
        before = torch.arange(width) < lengths[:, None]
        rows = len(passages)
        seen = [
            torch.ones(rows, queries, reader.prefix.tokens, dtype=torch.bool),
            before[:, None].expand(-1, queries, -1),
            torch.ones(queries, queries, dtype=torch.bool).tril().expand(rows, -1, -1),
        ]
        self.mask = torch.cat(seen, dim=2)[:, None]
        self.width = width

    def __call__(self, call: AttentionCall) -> Replaced:
        _refuse_unscored(call)
        rows = len(self.passages)
        parts = []
        for name, own in (("keys", call.key), ("values", call.value)):
            prefix = getattr(self.reader.prefix, name)[call.layer].to(own).expand(rows, -1, -1, -1)
            padded = [
                F.pad(getattr(p, name)[call.layer].to(own), (0, 0, 0, self.width - p.tokens)) for p in self.passages
            ]
            parts.append(torch.cat([prefix, torch.stack(padded), own], dim=2))
        keys, values = parts
        return Replaced(
            F.scaled_dot_product_attention(
                call.query,
                keys,
                values,
                attn_mask=self.mask.to(call.query.device),
                scale=call.scaling,
                enable_gqa=call.query.shape[1] != call.key.shape[1],
            )
        )


def _refuse_unscored(call: AttentionCall) -> None:
    if call.softcap is not None or call.sinks is not None:
        raise UnsupportedModelError(
            "The draft caps its attention logits or has attention sinks, which reading documents side by side does not "
            "do: choose another draft, or scoring='joint'."
        )


def _first_layers(model: PreTrainedModel, depth: int) -> nn.Module:
    """The decoder with its first `depth` layers and no final norm where that is fewer; the weights are shared."""
    decoder = model.get_decoder()
    if depth >= len(decoder.layers):
        return decoder  # type: ignore[no-any-return]
    shallow = copy.copy(decoder)
    shallow._modules = dict(decoder._modules)
    shallow.layers = nn.ModuleList(list(decoder.layers)[:depth])
    return shallow  # type: ignore[no-any-return]


def _stacked(cache: DynamicCache, row: int, start: int, end: int) -> EncodedPassage:
    device = cache.layers[0].keys.device
    return EncodedPassage(
        *(
            torch.stack([getattr(layer, name)[row, :, start:end].to(device) for layer in cache.layers])
            for name in ("keys", "values")
        )
    )


def _batches(lengths: Sequence[int], tokens: int = _BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of like lengths, each of at most so many tokens when padded (or a single row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and lengths[i] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
