"""SpecPCMiddleware: shortens the tool results that an agent's model reads. Needs the langchain package."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from spec_rag.answering.conversation import WriteOnceCache, question_at, text_bytes
from spec_rag.compression.encoding_cache import content_address
from spec_rag.errors import CancelledError, ConfigError, MissingDependencyError
from spec_rag.options.tool_results import Mode, OnError, ToolResultOptions
from spec_rag.text.messages import content_text
from spec_rag.tool_results.shorten import ShortenedResult, call_question, plan_result
from spec_rag.utils.cancellation import in_thread
from spec_rag.utils.fail_open import fault_reason, within

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ModuleNotFoundError as error:
    raise MissingDependencyError('SpecPCMiddleware needs langchain: pip install "langchain>=1.2"') from error

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from langchain_spec_rag.compressor import SpecPCCompressor
from langchain_spec_rag.messages import text_of

logger = logging.getLogger(__name__)
_REMEMBERED = 1024  # shortened results
_REMEMBERED_BYTES = 64 * 2**20


class SpecPCMiddleware(AgentMiddleware):
    """Shortens long tool results by their kind, each for the call that returned it, before an agent's model reads them.

        create_agent(model, tools=[search], middleware=[SpecPCMiddleware(ratio=0.25)])

    The model is given shortened copies; the agent's state keeps every result whole. What the model has read of a
    result stays the same, byte for byte, in all later turns, so that a server's prefix cache keeps hitting. JSON, code,
    tables, logs and diffs keep their format; listings and matches of a search lose no entry. A mark says how much is
    left out, with a handle for the tool `expand_document`, which the agent is given. The figures are in the copy's
    `response_metadata["spec_pc"]`: kind, handle, omissions, and why a result that may be shortened stayed whole.

    Args:
        compressor: what reads; None makes one of the settings.
        min_chars: shorter results stay whole; the floor in tokens is `min_tokens` of the compressor.
        keep_last: so many of the newest tool results stay whole.
        expand: give the agent the tool, and write handles. What the tool returns is never shortened.
        mode: "auto"; "lossless" folds repeated lines and paths and removes white space of JSON; "off".
        only_tools, except_tools: names of tools whose results may, or may not, be shortened, with wildcards.
        show_omissions: write marks; False cuts prose without a trace.
        deadline_seconds: time to shorten the results of one model call; None waits.
        on_error: after a fault, "original" goes on with the whole result, "raise" raises it.
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
        expand: bool = True,
        mode: Mode = "auto",
        only_tools: Sequence[str] = (),
        except_tools: Sequence[str] = (),
        show_omissions: bool = True,
        deadline_seconds: float | None = 60.0,
        on_error: OnError = "original",
        **settings: Any,
    ) -> None:
        super().__init__()
        expand = settings.pop("show_handle", expand)  # the former name
        if compressor is not None and settings:
            raise ConfigError(f"compressor= and {next(iter(settings))}= are both given: set it in the compressor.")
        if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 0:
            raise ConfigError(f"keep_last={keep_last!r}: must be a non-negative integer.")
        self.options = ToolResultOptions(
            mode, tuple(only_tools), tuple(except_tools), min_chars, show_omissions, deadline_seconds, on_error
        )
        self.compressor = compressor or SpecPCCompressor(**settings)
        self.keep_last = keep_last
        self.expand = expand
        self.tools = [self.compressor.expand_tool()] if expand else []
        self._done: WriteOnceCache[ShortenedResult] = WriteOnceCache(_REMEMBERED, _REMEMBERED_BYTES, _bytes_of)

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        """Call the model on a copy of the request with shortened tool results."""
        return handler(self._shortened(request, None))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """`wrap_model_call`, shortening in a thread of its own; cancelling the task ends it."""
        return await handler(await in_thread(lambda cancelled: self._shortened(request, cancelled)))

    def _shortened(self, request: ModelRequest[Any], cancelled: threading.Event | None) -> ModelRequest[Any]:
        changed: dict[int, ToolMessage] = {}
        wanted = self._questions(request)
        names = [name for name, _, _ in wanted.values()]
        seconds = self.options.deadline_seconds
        share = None if seconds is None else seconds / max(len(names), 1)
        for i, (tool, question, message) in wanted.items():
            result = self._result(text_of(message), tool, question, share, cancelled)
            figures = {**message.response_metadata, "spec_pc": _figures(result)}
            changed[i] = message.model_copy(update={"content": result.text, "response_metadata": figures})
        if not changed:
            return request
        return request.override(messages=[changed.get(i, message) for i, message in enumerate(request.messages)])

    def _questions(self, request: ModelRequest[Any]) -> dict[int, tuple[str | None, str, ToolMessage]]:
        """Tool and question of each message that may be shortened, by its index."""
        turns = [_turn(message) for message in request.messages]
        calls = {
            str(call["id"]): (call["name"], call["args"])
            for message in request.messages
            if isinstance(message, AIMessage)
            for call in message.tool_calls
        }
        results = [i for i, message in enumerate(request.messages) if isinstance(message, ToolMessage)]
        found: dict[int, tuple[str | None, str, ToolMessage]] = {}
        for i in results[: max(len(results) - self.keep_last, 0)]:
            message = cast(ToolMessage, request.messages[i])
            name, arguments = calls.get(message.tool_call_id, (None, None))
            tool = message.name or name
            if message.status == "error" or not _is_text(message):
                continue
            question = call_question(question_at(turns, i), tool, arguments)
            if question and self.options.refusal(text_of(message), tool) is None:
                found[i] = (tool, question, message)
        return found

    def _result(
        self, text: str, tool: str | None, question: str, seconds: float | None, cancelled: threading.Event | None
    ) -> ShortenedResult:
        key = content_address(question, tool or "", text)
        found = self._done.get(key)
        if found is None:
            try:
                found = within(lambda own: self._shorten(text, tool, question, own), seconds, cancelled)
            except CancelledError:
                raise
            except Exception as error:
                if self.options.on_error == "raise":
                    raise
                reason = fault_reason(error)
                logger.warning("A tool result stays whole: %s. on_error='raise' raises it.", reason, exc_info=error)
                found = ShortenedResult(text, text, reason=reason)
            found = self._done.keep(key, found)
        if found.handle is not None:  # a handle lives as long as its conversation
            self.compressor.store.hold(text, [])
        return found

    def _shorten(
        self, text: str, tool: str | None, question: str, cancelled: threading.Event | None
    ) -> ShortenedResult:
        plan = plan_result(text, self.options, tool)
        if plan.result is not None:
            return plan.result
        given = {"documents": [Document(text)], "query": question, "cancelled": cancelled}
        compression = RunnableLambda(self.compressor._compression).invoke(given)
        return plan.shortened(compression, self.compressor.store if self.expand else None)


def _figures(result: ShortenedResult) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "handle": result.handle,
        "omissions": [[one.first_line, one.last_line] for one in result.omissions],
        "original_tokens": result.tokens_before,
        "compressed_tokens": result.tokens_after,
        "not_shortened": result.reason,
    }


def _bytes_of(result: ShortenedResult) -> int:
    return text_bytes(result.text, 2 * len(result.omissions))


def _is_text(message: Any) -> bool:
    try:
        text_of(message)
    except ValueError:
        return False
    return True


def _turn(message: AnyMessage) -> tuple[str, str]:
    role = "user" if isinstance(message, HumanMessage) else message.type
    return role, content_text(message.content, role, skip_media=True)
