"""Which texts of a chat are shortened, and for which question, so that a later turn finds them unchanged.

Shortened are long tool results, messages and text parts that are marked with `compress`, and the `documents` of a
request, which are put before the question. Everything is a pure function of the conversation up to its place, and is
remembered besides; who asks is part of the address, so nothing passes from one client to another. Messages are dicts as
OpenAI's API has them, and are never changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spec_rag.answering.conversation import NOTHING_KEPT, WriteOnceCache, question_at, text_bytes
from spec_rag.compression.encoding_cache import content_address
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import Compression
from spec_rag.serving.engine import Engine
from spec_rag.serving.metrics import Metrics
from spec_rag.text.documents import Document
from spec_rag.text.spans import Span
from spec_rag.text.units import kept_text, unit_structure

_RESULTS = ("tool", "function")
SETS_OF_DOCUMENTS = 8  # remembered with one and the same conversation


@dataclass(frozen=True)
class Shortened:
    """A text after compression, with its tokens before and after."""

    text: str
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True)
class Block:
    """What was put before one question: the text, and which spans of which documents it shows."""

    text: str
    shown: Mapping[str, Sequence[Span]]
    tokens_before: int
    tokens_after: int


@dataclass
class Conversation:
    """Messages as the model reads them, and what was left out of them."""

    messages: list[dict[str, Any]]
    tokens_before: int = 0
    tokens_after: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Tokens before and after; empty where nothing was to be compressed."""
        if not self.tokens_before:
            return {}
        return {
            "X-Spec-RAG-Tokens-Before": str(self.tokens_before),
            "X-Spec-RAG-Tokens-After": str(self.tokens_after),
        }

    def count(self, one: Shortened | Block) -> None:
        """Add the tokens of one text."""
        self.tokens_before += one.tokens_before
        self.tokens_after += one.tokens_after


@dataclass
class Conversations:
    """Shortens conversations, and remembers how.

    Args:
        engine: what reads.
        min_chars: unmarked tool results below this length are left as they are.
        metrics: what is counted.
        max_bytes: of what is remembered: one half are texts, the other what was put before questions.
        most: so many texts, and so many conversations with documents, are remembered.
    """

    engine: Engine
    min_chars: int
    metrics: Metrics
    max_bytes: int
    most: int = 4096
    _texts: WriteOnceCache[Shortened] = field(init=False)
    _blocks: WriteOnceCache[tuple[Block, ...]] = field(init=False)

    def __post_init__(self) -> None:
        half = self.max_bytes // 2
        self._texts = WriteOnceCache(self.most, half, lambda one: text_bytes(one.text))
        self._blocks = WriteOnceCache(self.most, half, lambda blocks: sum(map(_bytes_of, blocks)))

    async def shortened(
        self,
        messages: Sequence[Mapping[str, Any]],
        documents: Sequence[Document],
        config: CompressionConfig,
        owner: str = "",
    ) -> Conversation:
        """The conversation with shortened texts.

        Args:
            messages: as the client sent them.
            documents: documents of the request.
            config: compression config.
            owner: hash of the client's credentials.

        Raises:
            ConfigError: documents come without any question.
        """
        asking = content_address(owner, repr(config))
        turns = [(str(message.get("role")), _asked(message)) for message in messages]
        conversation = Conversation([])
        for place, message in enumerate(messages):
            question = question_at(turns, place)
            conversation.messages.append(await self._message(message, question, config, asking, conversation))
        if documents:
            await self._put_documents(messages, turns, documents, config, asking, conversation)
        return conversation

    async def _message(
        self,
        message: Mapping[str, Any],
        question: str,
        config: CompressionConfig,
        asking: str,
        conversation: Conversation,
    ) -> dict[str, Any]:
        mark = message.get("compress")
        plain = {name: value for name, value in message.items() if name != "compress"}
        content = message.get("content")
        wanted = mark is True or (mark is None and message.get("role") in _RESULTS)

        async def shorten(text: str, marked: bool) -> str:
            if not question or not text.strip() or len(text) < (1 if marked else self.min_chars):
                return text
            one = await self._text(text, str(message.get("name") or "") or None, question, config, asking)
            conversation.count(one)
            return one.text

        if isinstance(content, str) and wanted:
            plain["content"] = await shorten(content, mark is True)
        elif isinstance(content, list):
            parts: list[Any] = []
            for part in content:
                if not isinstance(part, Mapping):
                    parts.append(await shorten(part, mark is True) if wanted and isinstance(part, str) else part)
                    continue
                own = {name: value for name, value in part.items() if name != "compress"}
                chosen = part.get("compress") is True or (wanted and part.get("compress") is not False)
                if chosen and part.get("type") == "text" and isinstance(part.get("text"), str):
                    own["text"] = await shorten(part["text"], True in (mark, part.get("compress")))
                parts.append(own)
            plain["content"] = parts
        return plain

    async def _text(
        self, text: str, title: str | None, question: str, config: CompressionConfig, asking: str
    ) -> Shortened:
        key = content_address(asking, question, title or "", text)
        found = self._texts.get(key)
        if found is not None:
            self.metrics.frozen.inc()
            return found
        compression = await self.engine.compress([Document(text, title)], question, config)
        self.metrics.count_compression(compression)
        kept = compression.text or NOTHING_KEPT
        return self._texts.keep(key, Shortened(kept, compression.tokens_before, compression.tokens_after))

    async def _put_documents(
        self,
        messages: Sequence[Mapping[str, Any]],
        turns: Sequence[tuple[str, str]],
        documents: Sequence[Document],
        config: CompressionConfig,
        asking: str,
        conversation: Conversation,
    ) -> None:
        """Put before each question what was kept of the documents for it, and not shown before an earlier one."""
        addressed = {content_address(one.title or "", one.text): one for one in documents}
        places = [i for i, (role, text) in enumerate(turns) if role == "user" and text.strip()]
        if not places:
            raise ConfigError("documents: there is no question of a user that they could be compressed for.")
        shown: dict[str, list[Span]] = {name: [] for name in addressed}
        for place in places:
            key = content_address(asking, json.dumps(messages[: place + 1], sort_keys=True, default=str))
            earlier = self._blocks.get(key) or ()
            fitting = [block for block in earlier if block.shown.keys() <= addressed.keys()]
            if place == places[-1]:
                fitting = [block for block in fitting if block.shown.keys() == addressed.keys()]
            block = next(reversed(fitting), None)
            if block is None and place == places[-1]:
                compression = await self.engine.compress(list(addressed.values()), question_at(turns, place), config)
                self.metrics.count_compression(compression)
                block = _block(compression, addressed, shown)
                # others may have asked in the meantime
                earlier = self._blocks.get(key) or ()
                self._blocks.replace(key, (*earlier, block)[-SETS_OF_DOCUMENTS:])
            elif block is not None:
                self.metrics.frozen.inc()
            if block is None:
                continue
            for name, spans in block.shown.items():
                shown[name] += spans
            conversation.count(block)
            conversation.messages[place] = _before(conversation.messages[place], block.text)


def _bytes_of(block: Block) -> int:
    return text_bytes(block.text, sum(1 + len(spans) for spans in block.shown.values()))


def _block(compression: Compression, addressed: Mapping[str, Document], shown: Mapping[str, Sequence[Span]]) -> Block:
    settings = compression.settings
    ellipsis = "" if settings["ellipsis"] is None and settings["unit"] == "token" else settings["ellipsis"]
    texts: list[str] = []
    new: dict[str, list[Span]] = {}
    for name, left in zip(addressed, compression.documents, strict=True):
        spans = without(left.spans, shown[name])
        new[name] = spans
        structure = unit_structure(left.original_text, settings["unit"], settings["language"])
        text = kept_text(left.original_text, spans, ellipsis, structure)
        if text.strip():
            texts.append(f"{left.title}: {text}" if left.title else text)
    if not any(shown.values()):
        return Block("\n\n".join(texts), new, compression.tokens_before, compression.tokens_after)
    # the documents were counted with the first block
    units = [
        unit.tokens
        for left, spans in zip(compression.documents, new.values(), strict=True)
        for unit in left.units
        if any(unit.start < end and unit.end > start for start, end in spans)
    ]
    return Block("\n\n".join(texts), new, 0, sum(units))


def without(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """The parts of ascending spans that no taken span covers."""
    left: list[Span] = []
    for start, end in spans:
        for a, b in sorted(taken):
            if a < end and b > start:
                if a > start:
                    left.append((start, a))
                start = b
        if start < end:
            left.append((start, end))
    return left


def _before(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The message with a text before its own."""
    if not text:
        return dict(message)
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": text}, *content]}
    return {**message, "content": f"{text}\n\n{content or ''}"}


def _asked(message: Mapping[str, Any]) -> str:
    """The text of a message that is not itself to be shortened."""
    content = message.get("content")
    if message.get("compress") is True:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [
        part if isinstance(part, str) else str(part.get("text") or "")
        for part in content
        if isinstance(part, str) or (isinstance(part, Mapping) and part.get("compress") is not True)
    ]
    return "\n".join(text for text in texts if text.strip())
