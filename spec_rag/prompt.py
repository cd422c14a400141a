"""How documents and a question are laid out for the draft, and which token stands for which characters.

The frame around the documents is the draft's own chat turn. This module knows tokenizers, not models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.tokens import encode, text_ids

INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant).\n\n"
)
_DOCUMENTS, _QUESTION = "\ue002", "\ue003"

Query = str | Sequence[Mapping[str, str]]


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
class DocumentTokens:
    """A document, or a passage of one, as the draft reads it.

    Attributes:
        ids: header with the title, text, closing line break.
        offsets: per token its character range in the text; (0, 0) outside it.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]

    def token_range(self, start: int, end: int) -> tuple[int, int]:
        """Indices [first, last) of the tokens that touch the characters [start, end); empty where none does."""
        touching = [i for i, (a, b) in enumerate(self.offsets) if b > a and b > start and a < end]
        return (touching[0], touching[-1] + 1) if touching else (0, 0)


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The user turn of the draft's chat template around documents and question; plain text where it has none."""
    template = tokenizer.chat_template or ""
    if "<|im_start|>" in template:
        # ChatML adds a persona of its own when no system message is given, which says nothing about documents
        shell = f"<|im_start|>user\n{_DOCUMENTS}{_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    elif template:
        turn = [{"role": "user", "content": _DOCUMENTS + _QUESTION}]
        shell = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    else:
        shell = f"{tokenizer.bos_token or ''}{_DOCUMENTS}{_QUESTION}\n"
    before, _, rest = shell.partition(_DOCUMENTS)
    _, _, after = rest.partition(_QUESTION)
    special = {"add_special_tokens": False}
    return Frame(
        head=list(encode(tokenizer, before + INSTRUCTION, **special)["input_ids"]),
        before_question=list(encode(tokenizer, "\nQuestion: ", **special)["input_ids"]),
        after_question=list(encode(tokenizer, "\nAnswer:" + after, **special)["input_ids"]),
    )


def question_tokens(tokenizer: PreTrainedTokenizerBase, layout: Frame, question: str) -> QuestionTokens:
    """The question in its frame; special tokens spelled out in it stay text."""
    own = text_ids(tokenizer, question)
    start = len(layout.before_question)
    return QuestionTokens([*layout.before_question, *own, *layout.after_question], start, start + len(own))


def document_header(title: str | None) -> str:
    """What stands before a document's text. It has no number, so that a document reads the same in every company."""
    return f"Document (Title: {title}) " if title else "Document: "


def document_tokens(tokenizer: PreTrainedTokenizerBase, text: str, title: str | None) -> DocumentTokens:
    """Tokens of a document with their characters.

    Raises:
        ConfigError: the tokenizer gives no character offsets.
    """
    header = document_header(title)
    if not tokenizer.is_fast:
        raise ConfigError("The draft's tokenizer gives no character offsets: load a fast tokenizer.")
    encoded = encode(
        tokenizer,
        header + text + "\n",
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )
    end = len(header) + len(text)
    offsets = [(max(a, len(header)) - len(header), min(b, end) - len(header)) for a, b in encoded["offset_mapping"]]
    return DocumentTokens(list(encoded["input_ids"]), [(a, b) if b > a else (0, 0) for a, b in offsets])


def question_text(query: Query, last_turns: int = 3) -> str:
    """The question of a string or of a chat history, whose last turns are the observation window.

    Raises:
        ConfigError: there is no question in it.
    """
    if isinstance(query, str):
        text = query
    else:
        turns = [
            turn for turn in query if turn.get("role") in ("user", "assistant", "human", "ai") and turn.get("content")
        ]
        text = "\n".join(str(turn["content"]) for turn in turns[-last_turns:])
    if not text.strip():
        raise ConfigError(f"query={query!r} is empty: compression is guided by a question, so give one.")
    return text.strip()
