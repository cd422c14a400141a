"""Which texts of a request are shortened, and for which question, so that a later turn finds them unchanged.

Shortened are long tool results, texts that are marked with `compress`, and the `documents` of a chat, which are put
before the question. Everything is a pure function of the conversation up to its place, and is remembered besides; who
asks is part of the address, so nothing passes from one client to another. A text whose shortening fails or takes too
long stays as it is, now and in later turns.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from spec_rag.answering.conversation import WriteOnceCache, question_at, text_bytes
from spec_rag.compression.encoding_cache import content_address
from spec_rag.compression.originals import Originals
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.report import Compression
from spec_rag.serving.engine import Engine
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.request_texts import GivenText, RequestTexts, replaced
from spec_rag.text.documents import Document
from spec_rag.text.spans import Span
from spec_rag.text.units import kept_text, touched, unit_structure
from spec_rag.tool_results.shorten import Plan, ShortenedResult, call_question, plan_result
from spec_rag.utils.cancellation import in_thread
from spec_rag.utils.fail_open import fault_reason

log = logging.getLogger("spec_rag.serving")
SETS_OF_DOCUMENTS = 8  # remembered with one and the same conversation
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """What was put before one question: the text, and which spans of which documents it shows."""

    text: str
    shown: Mapping[str, Sequence[Span]]
    tokens_before: int
    tokens_after: int


@dataclass
class Conversation:
    """A request as the model reads it, and what was left out of it.

    Attributes:
        body: of the request.
        whole: why texts stayed whole, counted by reason.
        is_audit: whether the body is the original, and the tokens are what would have been sent.
        shortened: new texts by their originals.
    """

    body: dict[str, Any]
    tokens_before: int = 0
    tokens_after: int = 0
    whole: Counter[str] = field(default_factory=Counter)
    is_audit: bool = False
    shortened: dict[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages of a chat."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def headers(self) -> dict[str, str]:
        """Tokens before and after, and why texts stayed whole; empty where nothing was to be shortened."""
        headers = {}
        if self.tokens_before:
            headers["X-Spec-RAG-Tokens-Before"] = str(self.tokens_before)
            headers["X-Spec-RAG-Tokens-After"] = str(self.tokens_after)
        if self.whole:
            headers[NOT_SHORTENED] = ", ".join(f"{reason}={count}" for reason, count in sorted(self.whole.items()))
        if self.is_audit:
            headers["X-Spec-RAG-Mode"] = "audit"
        return headers

    def count(self, one: ShortenedResult | Block) -> None:
        """Add the tokens of one text."""
        self.tokens_before += one.tokens_before
        self.tokens_after += one.tokens_after


NOT_SHORTENED = "X-Spec-RAG-Not-Shortened"


@dataclass
class Conversations:
    """Shortens conversations, and remembers how.

    Args:
        engine: what reads.
        options: how tool results are shortened.
        metrics: what is counted.
        max_bytes: of what is remembered: a quarter are texts, a quarter what was put before questions, half originals.
        most: so many texts, and so many conversations with documents, are remembered.
        is_audit: return each request as it came, and count what would have been saved.
    """

    engine: Engine
    options: ToolResultOptions
    metrics: Metrics
    max_bytes: int
    most: int = 4096
    is_audit: bool = False
    originals: Originals = field(init=False)
    _texts: WriteOnceCache[ShortenedResult] = field(init=False)
    _blocks: WriteOnceCache[tuple[Block, ...]] = field(init=False)

    def __post_init__(self) -> None:
        quarter = max(self.max_bytes // 4, 1)
        self._texts = WriteOnceCache(self.most, quarter, lambda one: text_bytes(one.text, len(one.omissions)))
        self._blocks = WriteOnceCache(self.most, quarter, lambda blocks: sum(map(_bytes_of, blocks)))
        self.originals = Originals(2 * quarter)

    async def shortened(
        self,
        request: RequestTexts,
        documents: Sequence[Document],
        config: CompressionConfig,
        owner: str = "",
        options: ToolResultOptions | None = None,
    ) -> Conversation:
        """The request with shortened texts.

        Args:
            request: as the client sent it.
            documents: documents of the request, in addition to its messages.
            config: compression config.
            owner: hash of the client's credentials.
            options: how tool results are shortened; None takes the server's.

        Raises:
            ConfigError: documents come without any question.
        """
        options = options or self.options
        asking = content_address(owner, repr(config), repr(options))
        given = options.deadline_seconds
        deadline = None if given is None else asyncio.get_running_loop().time() + given
        marks: dict[Any, Any] = dict.fromkeys(request.marks)
        conversation = Conversation({}, whole=Counter(request.skipped), is_audit=self.is_audit)
        changes = dict(marks)
        for text in request.texts:
            result = await self._result(text, request, config, options, asking, deadline)
            if result.reason is None:
                changes[text.path] = conversation.shortened[text.text] = result.text
            else:
                conversation.whole[_word(result.reason)] += 1
            conversation.count(result)
        conversation.body = replaced(dict(request.body), marks if self.is_audit else changes)
        if documents:
            conversation.body["messages"] = list(conversation.messages)
            await self._put_documents(request, documents, config, asking, conversation, deadline)
        if self.is_audit:
            self.metrics.audit_saved.inc(conversation.tokens_before - conversation.tokens_after)
        for reason, count in conversation.whole.items():
            self.metrics.whole.labels(reason).inc(count)
        return conversation

    async def _result(
        self,
        given: GivenText,
        request: RequestTexts,
        config: CompressionConfig,
        options: ToolResultOptions,
        asking: str,
        deadline: float | None,
    ) -> ShortenedResult:
        if given.is_marked:
            options = replace(options, min_chars=1, only_tools=(), except_tools=())
        question = call_question(question_at(request.turns, given.place), given.tool, given.arguments)
        refusal = options.refusal(given.text, given.tool) or (None if question else "no question")
        if refusal is not None:
            return ShortenedResult(given.text, given.text, reason=refusal)
        key = content_address(asking, question, given.tool or "", given.text)
        found = self._texts.get(key)
        if found is None:
            try:
                work = self._shorten(given, question, config, options)
                found = await _within(work, deadline)
            except Exception as error:
                if options.on_error == "raise":
                    raise
                found = ShortenedResult(given.text, given.text, reason=_log_fault(error))
            found = self._texts.keep(key, replace(found, original=""))
        else:
            self.metrics.frozen.inc()
        if found.handle is not None:  # a handle lives as long as its conversation
            self.originals.hold(given.text, [])
        return found

    async def _shorten(
        self, given: GivenText, question: str, config: CompressionConfig, options: ToolResultOptions
    ) -> ShortenedResult:
        plan: Plan = await in_thread(lambda cancelled: plan_result(given.text, options, given.tool))
        if plan.result is None:
            compression = await self.engine.compress([plan.document], question, config)
            self.metrics.draft_seconds.inc(compression.draft_seconds)
            result = await in_thread(lambda cancelled: plan.shortened(compression, self.originals))
        else:
            result = plan.result
            if result.reason is None:
                result = replace(result, tokens_before=await self.engine.count([given.text]))
        if result.reason is None:
            result = replace(result, tokens_after=await self.engine.count([result.text]))
            self.metrics.tokens_before.inc(result.tokens_before)
            self.metrics.tokens_after.inc(result.tokens_after)
        return result

    async def _put_documents(
        self,
        request: RequestTexts,
        documents: Sequence[Document],
        config: CompressionConfig,
        asking: str,
        conversation: Conversation,
        deadline: float | None,
    ) -> None:
        """Put before each question what was kept of the documents for it, and not shown before an earlier one."""
        turns, messages = request.turns, request.body["messages"]
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
                block = await self._new_block(
                    addressed, question_at(turns, place), config, shown, conversation, deadline
                )
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
            text = _whole_block(addressed, shown={}).text if self.is_audit and place == places[0] else block.text
            if not self.is_audit or place == places[0]:
                conversation.messages[place] = _before(conversation.messages[place], text)

    async def _new_block(
        self,
        addressed: Mapping[str, Document],
        question: str,
        config: CompressionConfig,
        shown: Mapping[str, Sequence[Span]],
        conversation: Conversation,
        deadline: float | None,
    ) -> Block:
        try:
            work = self.engine.compress(list(addressed.values()), question, config)
            compression = await _within(work, deadline)
        except Exception as error:
            if self.options.on_error == "raise":
                raise
            conversation.whole[_word(_log_fault(error))] += 1
            return _whole_block(addressed, shown)
        self.metrics.count_compression(compression)
        return _block(compression, addressed, shown)


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
    tokens = 0
    for left, spans in zip(compression.documents, new.values(), strict=True):
        is_shown = touched([(unit.start, unit.end) for unit in left.units], spans)
        tokens += sum(unit.tokens for unit, shows in zip(left.units, is_shown, strict=True) if shows)
    return Block("\n\n".join(texts), new, 0, tokens)


def _whole_block(addressed: Mapping[str, Document], shown: Mapping[str, Sequence[Span]]) -> Block:
    """The documents as they came; of a document of which something was shown before, the rest."""
    new = {name: without([(0, len(one.text))], shown.get(name, ())) for name, one in addressed.items()}
    texts = {name: kept_text(one.text, new[name], "") for name, one in addressed.items()}
    titled = [f"{one.title}: {texts[name]}" if one.title else texts[name] for name, one in addressed.items()]
    return Block("\n\n".join(text for text in titled if text.strip()), new, 0, 0)


def without(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """The parts of ascending spans that no taken span covers; linear after one sort."""
    left: list[Span] = []
    covered = sorted(taken)
    i, place = 0, 0  # all before `place` is covered or done
    for start, end in spans:
        start = max(start, place)
        while i < len(covered) and covered[i][0] < end:
            if covered[i][0] > start:
                left.append((start, covered[i][0]))
            start = max(start, covered[i][1])
            i += 1
        if start < end:
            left.append((start, end))
        place = max(start, end)
    return left


async def _within(work: Awaitable[T], deadline: float | None) -> T:
    """The result of the work.

    Raises:
        TimeoutError: the deadline of the event loop's clock has passed.
    """
    async with asyncio.timeout_at(deadline):
        return await work


def _log_fault(error: Exception) -> str:
    """Log that a text stays whole; returns the reason."""
    reason = fault_reason(error)
    log.warning(json.dumps({"event": "not_shortened", "reason": reason}))
    return reason


def _word(reason: str) -> str:
    return reason.replace(" ", "-")


def _before(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The message with a text before its own."""
    if not text:
        return dict(message)
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": text}, *content]}
    return {**message, "content": f"{text}\n\n{content or ''}"}
