"""SpecPCMiddleware: shortens the tool results that an agent's model reads. Needs the langchain package."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from spec_rag.answering.conversation import NOTHING_KEPT, WriteOnceCache, question_at, text_bytes
from spec_rag.compression.encoding_cache import content_address
from spec_rag.compression.originals import EXPAND
from spec_rag.errors import ConfigError, MissingDependencyError
from spec_rag.text.messages import content_text

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ModuleNotFoundError as error:
    raise MissingDependencyError('SpecPCMiddleware needs langchain: pip install "langchain>=1.2"') from error

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from langchain_spec_rag.compressor import SpecPCCompressor
from langchain_spec_rag.messages import text_of

_REMEMBERED = 1024  # shortened results
_REMEMBERED_BYTES = 64 * 2**20


class SpecPCMiddleware(AgentMiddleware):
    """Compresses long tool results, each for the question it was fetched for, before an agent's model reads them.

        create_agent(model, tools=[search], middleware=[SpecPCMiddleware(ratio=0.25)])

    The model is given shortened copies; the agent's state keeps every result whole. What the model has read of a result
    stays the same, byte for byte, in all later turns, so that a server's prefix cache keeps hitting. The figures of a
    compression are in the copy's `response_metadata["spec_pc"]`.

    Args:
        compressor: what compresses; None makes one of the settings.
        min_chars: results shorter than this are left as they are, and so are those that report an error.
        keep_last: so many of the newest tool results are left as they are.
        show_handle: put each result's handle below its shortened text, and give the agent the tool `expand_document`,
            which returns what stands behind a handle. What that tool returns is never shortened.
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
        show_handle: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if compressor is not None and settings:
            raise ConfigError(f"compressor= and {next(iter(settings))}= are both given: set it in the compressor.")
        for name, value in (("min_chars", min_chars), ("keep_last", keep_last)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}={value!r}: must be a non-negative integer.")
        self.compressor = (compressor or SpecPCCompressor(**settings))._with(
            {"keep_empty": True, "metadata_format": "nested"}
        )
        self.min_chars = min_chars
        self.keep_last = keep_last
        self.show_handle = show_handle
        self.tools = [self.compressor.expand_tool()] if show_handle else []
        self._done: WriteOnceCache[Document] = WriteOnceCache(_REMEMBERED, _REMEMBERED_BYTES, _bytes_of)

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        """Call the model on a copy of the request with shortened tool results."""
        asked = self._long_results(request)
        shortened = {i: self._compressed(request.messages[i], query) for i, query in asked.items()}
        return handler(_with_messages(request, shortened))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """`wrap_model_call`, compressing in a thread of its own; cancelling the task ends the compression."""
        asked = self._long_results(request)
        shortened = {i: await self._acompressed(request.messages[i], query) for i, query in asked.items()}
        return await handler(_with_messages(request, shortened))

    def _long_results(self, request: ModelRequest[Any]) -> dict[int, str]:
        """Which messages are to be shortened, and for which question."""
        turns = [_turn(message) for message in request.messages]
        results = [i for i, message in enumerate(request.messages) if isinstance(message, ToolMessage)]
        newest = max(len(results) - self.keep_last, 0)
        asked = {i: question_at(turns, i) for i in results[:newest] if self._is_long(request.messages[i])}
        return {i: query for i, query in asked.items() if query}

    def _is_long(self, message: Any) -> bool:
        if message.status == "error" or not _is_text(message):
            return False
        if self.show_handle and message.name == EXPAND:
            return False
        return len(text_of(message)) >= max(self.min_chars, 1)

    def _compressed(self, message: AnyMessage, query: str) -> ToolMessage:
        document = self._done.get(_address(message, query))
        if document is None:
            (document,) = self.compressor.compress_documents([_document(message)], query)
        return self._copy(message, query, document)

    async def _acompressed(self, message: AnyMessage, query: str) -> ToolMessage:
        document = self._done.get(_address(message, query))
        if document is None:
            (document,) = await self.compressor.acompress_documents([_document(message)], query)
        return self._copy(message, query, document)

    def _copy(self, message: AnyMessage, query: str, document: Document) -> ToolMessage:
        document = self._done.keep(_address(message, query), document)
        figures = {**message.response_metadata, "spec_pc": document.metadata["spec_pc"]}
        content = document.page_content or NOTHING_KEPT
        if self.show_handle:
            content = f"{content}\n\n[Shortened. {EXPAND} has the original, handle: {figures['spec_pc']['handle']}]"
        return cast(ToolMessage, message.model_copy(update={"content": content, "response_metadata": figures}))


def _with_messages(request: ModelRequest[Any], changed: Mapping[int, ToolMessage]) -> ModelRequest[Any]:
    if not changed:
        return request
    return request.override(messages=[changed.get(i, message) for i, message in enumerate(request.messages)])


def _address(message: AnyMessage, query: str) -> str:
    return content_address(query, message.name or "", text_of(message))


def _bytes_of(document: Document) -> int:
    return text_bytes(document.page_content, len(document.metadata["spec_pc"]["kept_spans"]))


def _document(message: AnyMessage) -> Document:
    return Document(text_of(message), metadata={"title": message.name} if message.name else {})


def _is_text(message: Any) -> bool:
    try:
        text_of(message)
    except ValueError:
        return False
    return True


def _turn(message: AnyMessage) -> tuple[str, str]:
    role = "user" if isinstance(message, HumanMessage) else message.type
    return role, content_text(message.content, role, skip_media=True)
