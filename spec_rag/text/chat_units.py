"""Units of a chat's prompt: token ranges of sentences, lines of code and rows of data."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.text.prompts import Chat, chat_pieces
from spec_rag.text.tokenization import encoded_text, text_ids
from spec_rag.text.units import Span, sentence_spans, touched

_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class ChatUnit:
    """A sentence or line of a message.

    Attributes:
        start, end: half-open token range in the prompt, including trailing white space.
        text: the text.
        in_last_turn, in_last_paragraph: whether it is in the last message, and in the last paragraph of it.
        fenced, is_fence: whether it is inside a code fence, and whether it opens or closes one.
    """

    start: int
    end: int
    text: str
    in_last_turn: bool
    in_last_paragraph: bool
    fenced: bool
    is_fence: bool


@dataclass(frozen=True)
class ChatUnits:
    """Token ids of a chat's prompt, and the units that may be dropped, ascending.

    Tokens in no unit are always kept: the template, system turn, tools, tool calls, and the prefix of the answer.
    """

    ids: Tensor
    units: tuple[ChatUnit, ...]


def chat_units(tokenizer: PreTrainedTokenizerBase, chat: Chat, language: str = "en") -> ChatUnits:
    """Tokenize a chat as `chat_ids` does, and find its units.

    Raises:
        ConfigError: as `chat_ids`, or the tokenizer gives no character offsets.
    """
    turns, pieces = chat_pieces(tokenizer, chat.messages, chat.tools)
    ids: list[int] = []
    ends: list[int] = []  # end of each token in the text
    position = 0
    for piece, is_text in pieces:
        encoded = encoded_text(tokenizer, piece, is_text=is_text)
        ids += encoded.ids
        ends += [position + end for _, end in encoded.offsets]
        position += len(piece)
    text = "".join(piece for piece, _ in pieces)
    units: list[ChatUnit] = []
    searched = 0
    for i, turn in enumerate(turns):
        found = _find(text, turn["content"], searched)
        if found is None:
            continue  # the template changed the text: it is kept whole
        searched = found[1]
        if turn["role"] != "system":
            units += _units_of(text, found, ends, i == len(turns) - 1, language)
    ids += text_ids(tokenizer, chat.assistant_prefix) if chat.assistant_prefix else []
    return ChatUnits(torch.tensor(ids, dtype=torch.long), tuple(units))


def _find(text: str, content: str, start: int) -> Span | None:
    for wanted in (content, content.strip()):
        at = text.find(wanted, start) if wanted else -1
        if at >= 0:
            return at, at + len(wanted)
    return None


def _units_of(text: str, found: Span, ends: list[int], is_last: bool, language: str) -> list[ChatUnit]:
    start, stop = found
    content = text[start:stop]
    spans = sentence_spans(content, language)
    if not spans:
        return []
    fences = [match.span() for match in _FENCED.finditer(content)]
    fenced = touched([(a, a + 1) for a, _ in spans], fences)
    breaks = [match.end() for match in _PARAGRAPH.finditer(content.rstrip())]
    last_paragraph = breaks[-1] if breaks else spans[-1][0]
    # a token belongs to the last unit that starts before the token ends, white space to the unit before it
    borders = [bisect_right(ends, start + a) for a, _ in spans] + [bisect_right(ends, stop)]
    return [
        ChatUnit(
            first,
            behind,
            content[a:b],
            is_last,
            is_last and a >= last_paragraph,
            is_fenced,
            bool(_FENCE.match(content, a)),
        )
        for (a, b), first, behind, is_fenced in zip(spans, borders, borders[1:], fenced, strict=False)
        if first < behind
    ]
