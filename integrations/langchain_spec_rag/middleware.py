"""SpecPCMiddleware: shortens the tool results that an agent's model reads. Needs the langchain package."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from spec_rag.errors import ConfigError, MissingDependencyError

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ModuleNotFoundError as error:
    raise MissingDependencyError('SpecPCMiddleware needs langchain: pip install "langchain>=1.2"') from error

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from langchain_spec_rag.compressor import SpecPCCompressor
from langchain_spec_rag.messages import text_of

NOTHING_KEPT = "(Nothing in this result bears on the question.)"
_REMEMBERED = 256


class SpecPCMiddleware(AgentMiddleware):
    """Compresses long tool results for the question at hand before an agent's model reads them.

        create_agent(model, tools=[search], middleware=[SpecPCMiddleware(ratio=0.25)])

    The model is given shortened copies; the agent's state keeps every result whole. Each result is compressed by
    itself, so what the model has read of it stays the same while the question does. The figures of a compression are in
    the copy's `response_metadata["spec_pc"]`.

    Args:
        compressor: what compresses; None makes one of the settings.
        min_chars: results shorter than this are left as they are, and so are those that report an error.
        keep_last: so many of the newest tool results are left as they are.
        **settings: those of SpecPCCompressor.

    Raises:
        ConfigError: (a ValueError) an argument is out of range, or compressor and settings are both given.
    """

    def __init__(
        self,
        compressor: SpecPCCompressor | None = None,
        *,
        min_chars: int = 1000,
        keep_last: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        if compressor is not None and settings:
            raise ConfigError(f"compressor= and {next(iter(settings))}= are both given: set it in the compressor.")
        for name, value in (("min_chars", min_chars), ("keep_last", keep_last)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}={value!r}: must be a non-negative integer.")
        self.compressor = (compressor or SpecPCCompressor(**settings))._with({"keep_empty": True})
        self.min_chars = min_chars
        self.keep_last = keep_last
        self._done: OrderedDict[tuple[str, str], Document] = OrderedDict()
        self._lock = threading.Lock()

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        """Call the model on a copy of the request with shortened tool results."""
        query, long = self._long_results(request)
        shortened = {i: self._compressed(request.messages[i], query) for i in long}
        return handler(_with_messages(request, shortened))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """`wrap_model_call`, compressing in a thread of its own; cancelling the task ends the compression."""
        query, long = self._long_results(request)
        shortened = {i: await self._acompressed(request.messages[i], query) for i in long}
        return await handler(_with_messages(request, shortened))

    def _long_results(self, request: ModelRequest[Any]) -> tuple[str, list[int]]:
        """The question, and which messages are to be shortened for it."""
        query = _last_question(request.messages)
        results = [i for i, message in enumerate(request.messages) if isinstance(message, ToolMessage)]
        newest = len(results) - self.keep_last
        return query, [i for i in results[:newest] if query and self._is_long(request.messages[i])]

    def _is_long(self, message: Any) -> bool:
        if message.status == "error" or not _is_text(message):
            return False
        return len(text_of(message)) >= max(self.min_chars, 1)

    def _compressed(self, message: AnyMessage, query: str) -> ToolMessage:
        document = self._remembered(message, query)
        if document is None:
            (document,) = self.compressor.compress_documents([_document(message)], query)
        return self._copy(message, query, document)

    async def _acompressed(self, message: AnyMessage, query: str) -> ToolMessage:
        document = self._remembered(message, query)
        if document is None:
            (document,) = await self.compressor.acompress_documents([_document(message)], query)
        return self._copy(message, query, document)

    def _remembered(self, message: AnyMessage, query: str) -> Document | None:
        with self._lock:
            return self._done.get((query, text_of(message)))

    def _copy(self, message: AnyMessage, query: str, document: Document) -> ToolMessage:
        with self._lock:
            self._done[query, text_of(message)] = document
            while len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        figures = {**message.response_metadata, "spec_pc": document.metadata["spec_pc"]}
        content = document.page_content or NOTHING_KEPT
        return cast(ToolMessage, message.model_copy(update={"content": content, "response_metadata": figures}))


def _with_messages(request: ModelRequest[Any], changed: Mapping[int, ToolMessage]) -> ModelRequest[Any]:
    if not changed:
        return request
    return request.override(messages=[changed.get(i, message) for i, message in enumerate(request.messages)])


def _document(message: AnyMessage) -> Document:
    return Document(text_of(message), metadata={"title": message.name} if message.name else {})


def _is_text(message: Any) -> bool:
    try:
        text_of(message)
    except ValueError:
        return False
    return True


def _last_question(messages: Sequence[AnyMessage]) -> str:
    """The text of the last human message, and of human messages right before it."""
    last = max((i for i, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)
    first = last
    while first > 0 and isinstance(messages[first - 1], HumanMessage):
        first -= 1
    texts = [text_of(message) for message in messages[max(first, 0) : last + 1]]
    return "\n".join(text for text in texts if text.strip())
