"""How documents and a question are laid out for the draft, and which token stands for which characters.

A passage is what the draft reads in one piece: a run of a document's units. The frame around passages and question is
the draft's own chat turn. This module knows tokenizers, not models.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document
from spec_rag.text.messages import question_of
from spec_rag.text.prompts import chat_text
from spec_rag.text.tokenization import encoded_text, template_ids, text_ids
from spec_rag.text.units import PASSAGE_CHARS as PASSAGE_CHARS
from spec_rag.text.units import Span, passage_spans

INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant).\n\n"
)
_DOCUMENTS, _QUESTION = "\ue002", "\ue003"

Query = str | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Frame:
    """Token ids around the documents and around the question."""

    head: list[int]
    before_question: list[int]
    after_question: list[int]


@dataclass(frozen=True)
class QuestionTokens:
    """A question with what stands around it: `ids`, of which [start, end) are the question's own."""

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class Passage:
    """A run of a document's units, read in one piece.

    Attributes:
        document: index of its document.
        start, end: its characters in the document's text.
        ids: as the draft reads it: a header with the title, the text, a closing line break.
        offsets: per token its character range in the passage's text; (0, 0) outside it.
        first_token: where its tokens start among all passages' tokens.
    """

    document: int
    start: int
    end: int
    ids: list[int]
    offsets: list[Span]
    first_token: int

    def token_range(self, start: int, end: int) -> tuple[int, int]:
        """Tokens [first, last) among all passages' that touch the document's characters [start, end).

        Returns:
            (0, 0) where none does.
        """
        tokens, starts, ends = self._inside
        first, last = bisect_right(ends, start - self.start), bisect_left(starts, end - self.start)
        if first >= last:
            return 0, 0
        return self.first_token + tokens[first], self.first_token + tokens[last - 1] + 1

    @cached_property
    def _inside(self) -> tuple[list[int], list[int], list[int]]:
        """The tokens that stand for characters, with their first and last-but-one characters."""
        tokens = [i for i, (a, b) in enumerate(self.offsets) if b > a]
        return tokens, [self.offsets[i][0] for i in tokens], [self.offsets[i][1] for i in tokens]


@dataclass(frozen=True)
class EncodedPassage:
    """A passage's keys and values under the draft, without the instruction's.

    Attributes:
        keys, values: [layers, KV heads, tokens, dim].
        first_layer: the layer that comes first.
    """

    keys: Tensor
    values: Tensor
    first_layer: int = 0

    @property
    def tokens(self) -> int:
        """Of the passage."""
        return int(self.keys.shape[2])

    @property
    def last_layer(self) -> int:
        """The layer behind the last."""
        return self.first_layer + int(self.keys.shape[0])

    def has(self, layer: int) -> bool:
        """Whether it has the keys and values of that layer."""
        return self.first_layer <= layer < self.last_layer

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [KV heads, tokens, dim]."""
        return self.keys[layer - self.first_layer], self.values[layer - self.first_layer]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return int(self.keys.nbytes + self.values.nbytes)


def question_text(query: Query, last_turns: int = 3) -> str:
    """The question of a string or of a chat history, whose last turns are the observation window.

    Args:
        query: see `spec_rag.text.messages.turns_of`.
        last_turns: of the user and the assistant, at most.

    Raises:
        ConfigError: there is no question in it, or it is of another kind.
    """
    text = question_of(query, last_turns)
    if text is None:
        raise ConfigError(
            f"query={query!r:.80} of type {type(query).__name__}: give the question as a string, or a chat history as "
            "a list of {'role': ..., 'content': ...}."
        )
    if not text:
        raise ConfigError(f"query={query!r:.200} is empty: compression is guided by a question, so give one.")
    return text


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The user turn of the draft's chat template around documents and question; plain text where it has none."""
    template = tokenizer.chat_template or ""
    if "<|im_start|>" in template:
        # ChatML adds a persona of its own when no system message is given, which says nothing about documents
        shell = f"<|im_start|>user\n{_DOCUMENTS}{_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    elif template:
        turn = [{"role": "user", "content": _DOCUMENTS + _QUESTION}]
        shell = chat_text(tokenizer, turn)
    else:
        shell = f"{tokenizer.bos_token or ''}{_DOCUMENTS}{_QUESTION}\n"
    before, _, rest = shell.partition(_DOCUMENTS)
    _, _, after = rest.partition(_QUESTION)
    return Frame(
        head=template_ids(tokenizer, before + INSTRUCTION),
        before_question=template_ids(tokenizer, "\nQuestion: "),
        after_question=template_ids(tokenizer, "\nAnswer:" + after),
    )


def question_tokens(tokenizer: PreTrainedTokenizerBase, layout: Frame, question: str) -> QuestionTokens:
    """The question in its frame; control tokens spelled out in it stay text."""
    own = text_ids(tokenizer, question)
    start = len(layout.before_question)
    return QuestionTokens([*layout.before_question, *own, *layout.after_question], start, start + len(own))


def passage_header(title: str | None) -> str:
    """What stands before a passage's text. It has no number, so that a passage reads the same in every company."""
    return f"Document (Title: {title}) " if title else "Document: "


def split_passages(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document], units: Sequence[Sequence[Span]]
) -> list[Passage]:
    """Passages of whole units, each of at most PASSAGE_CHARS characters, or one unit.

    Raises:
        ConfigError: the tokenizer gives no character offsets.
    """
    passages: list[Passage] = []
    first_token = 0
    for d, (document, spans) in enumerate(zip(documents, units, strict=True)):
        for start, end in passage_spans(document.text, spans):
            passages.append(_passage(tokenizer, document, d, start, end, first_token))
            first_token += len(passages[-1].ids)
    return passages


def _passage(
    tokenizer: PreTrainedTokenizerBase, document: Document, index: int, start: int, end: int, first_token: int
) -> Passage:
    header = passage_header(document.title)
    text = document.text[start:end]
    encoded = encoded_text(tokenizer, header + text + "\n")
    first, last = len(header), len(header) + len(text)
    offsets = [(max(a, first) - first, min(b, last) - first) for a, b in encoded.offsets]
    return Passage(index, start, end, encoded.ids, [(a, b) if b > a else (0, 0) for a, b in offsets], first_token)


def align_units(units: Sequence[Sequence[Span]], passages: Sequence[Passage]) -> dict[str, Tensor]:
    """Which tokens, passage and document each unit has.

    Args:
        units: spans of the units, per document.
        passages: as `split_passages` made them of these units.

    Returns:
        ranges: int64 [units, 2], first and last-but-one token of each unit among all passages' tokens.
        passages: int64 [units], the passage each unit belongs to.
        documents: int64 [units], the document each unit belongs to.
        passage_ranges: int64 [passages, 2], their tokens.
    """
    ranges, owners = [], []
    i = 0
    for d, spans in enumerate(units):
        for start, end in spans:
            while passages[i].document < d or passages[i].end < end:
                i += 1
            ranges.append(passages[i].token_range(start, end))
            owners.append(i)
    whole = [(p.first_token, p.first_token + len(p.ids)) for p in passages]
    return {
        "ranges": torch.tensor(ranges, dtype=torch.long).reshape(-1, 2),
        "passages": torch.tensor(owners, dtype=torch.long),
        "documents": torch.tensor([passages[i].document for i in owners], dtype=torch.long),
        "passage_ranges": torch.tensor(whole, dtype=torch.long).reshape(-1, 2),
    }
