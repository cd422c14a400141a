"""/v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from spec_rag.generation.structured_output import answer_format, schema_instruction
from spec_rag.generation.tool_calls import ReadCalls, ToolChoice
from spec_rag.results import Answer
from spec_rag.serving import state
from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.chat_schemas import ChatRequest, CompletionRequest, Sampling
from spec_rag.serving.compress_api import as_documents, compression_for
from spec_rag.serving.conversations import Conversation
from spec_rag.serving.document_schemas import ErrorResponse
from spec_rag.serving.engine import GenerationRequest
from spec_rag.serving.event_stream import DONE, Events, begun, event, while_connected
from spec_rag.serving.logprobs import chat_logprobs, text_logprobs
from spec_rag.serving.request_texts import RequestTexts

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 408, 413, 429, 503, 504)
}
_RESPONSES[200] = {"description": "The answer; events where `stream` is true.", "content": {"text/event-stream": {}}}
router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post("/chat/completions", responses=_RESPONSES)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Continue a chat."""
    _check_model(body, request)
    if not body.may_be_shortened():
        return await _continued(body, request)
    async with _turn(request):
        return await _continued(body, request)


@asynccontextmanager
async def _turn(request: Request) -> AsyncGenerator[None, None]:
    """Hold one of the server's turns; waiting ends if the client disconnects."""
    turns = state.of(request).turns
    held = False

    async def acquire() -> None:
        nonlocal held
        await turns.acquire()
        held = True

    try:
        await while_connected(request, acquire())
        yield
    finally:
        if held:
            turns.release()


async def _continued(body: ChatRequest, request: Request) -> Response:
    """The answer, or the stream once its first piece is there."""
    server = state.of(request)
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    documents = as_documents(body.documents or [], server.settings)
    config = compression_for(body.spec_rag, server.settings)
    shortening = server.conversations.shortened(
        RequestTexts.of("chat", {"messages": messages}), documents, config, state.client_of(request)
    )
    conversation = await while_connected(request, shortening)
    try:
        tools, chosen = body.offered()
        choice = ToolChoice.of(tools, chosen, body.parallel_tool_calls)
    except ValueError as error:
        raise ApiError(400, f"tools: {error}", param="tools", code="invalid_value") from error
    tokens = _tokens(body, request, body.max_completion_tokens)
    instruction, options = _format(body, choice)
    prompt = [*instruction, *conversation.messages]
    generation = GenerationRequest(
        prompt, tokens, choice.offered, choice.assistant_prefix, options, body.template_variables()
    )
    reply = _Reply(f"chatcmpl-{uuid.uuid4().hex}", "chat.completion", body.model, conversation)
    generations = repeated(generation, body.choices)
    if body.stream:
        pieces = [_ChatPieces(reply, choice, index) for index in range(len(generations))]
        return await _streamed(request, body, reply, generations, pieces)
    answers = await _answered(request, generations)
    choices = [_chat_choice(index, answer, choice) for index, answer in enumerate(answers)]
    return JSONResponse(reply.whole(choices, answers, len(generations)), headers=conversation.headers)


def _chat_choice(index: int, answer: Answer, choice: ToolChoice) -> dict[str, Any]:
    read = choice.read(answer.text)
    message: dict[str, Any] = {"role": "assistant", "content": read.whole_text, "refusal": None}
    if read.calls:
        message |= {"content": read.whole_text or None, "tool_calls": [call.to_dict() for call in read.calls]}
    reason = "tool_calls" if read.calls else _reason(answer)
    logprobs = chat_logprobs(answer.logprobs)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def repeated(generation: GenerationRequest, times: int) -> list[GenerationRequest]:
    """Requests for several answers to one prompt; consecutive seeds if there is a seed."""
    seed = generation.options.get("seed")
    if seed is None:
        return [generation] * times
    return [replace(generation, options={**generation.options, "seed": (seed + i) % 2**63}) for i in range(times)]


@router.post("/completions", responses=_RESPONSES)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several texts."""
    server = state.of(request)
    _check_model(body, request)
    prompts = body.prompts()
    if len(prompts) * body.choices > server.settings.max_requests:
        raise ApiError(
            400,
            f"prompt: {len(prompts)} prompts with n={body.choices}: at most {server.settings.max_requests} answers.",
            param="prompt",
            code="invalid_value",
        )
    tokens = _tokens(body, request)
    generations = [
        generation
        for prompt in prompts
        for generation in repeated(GenerationRequest(prompt, tokens, options=body.options()), body.choices)
    ]
    reply = _Reply(f"cmpl-{uuid.uuid4().hex}", "text_completion", body.model)
    if body.stream:
        pieces = [_TextPieces(reply, index) for index in range(len(generations))]
        return await _streamed(request, body, reply, generations, pieces)
    answers = await _answered(request, generations)
    choices = [
        {
            "index": i,
            "text": answer.text,
            "logprobs": text_logprobs(answer.logprobs),
            "finish_reason": _reason(answer),
        }
        for i, answer in enumerate(answers)
    ]
    return JSONResponse(reply.whole(choices, answers, body.choices))


async def _answered(request: Request, generations: Sequence[GenerationRequest]) -> list[Answer]:
    """All answers, computed concurrently and counted."""
    server = state.of(request)

    async def together() -> list[Answer]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(server.engine.answer(generation)) for generation in generations]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    answers = await while_connected(request, together())
    for answer in answers:
        server.note_answer(request, answer)
    return answers


@dataclass
class _Reply:
    """Fields that all chunks of one response share."""

    id: str
    object: str
    model: str
    conversation: Conversation = field(default_factory=lambda: Conversation({}))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]], answers: list[Answer], choices_each: int) -> dict[str, Any]:
        """The complete response; `choices_each` answers share a prompt, which is counted once."""
        return {
            **self._head(self.object),
            "choices": choices,
            "usage": _usage(answers, choices_each),
            "spec_rag": self.statistics(answers),
        }

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One event of a stream."""
        kind = "chat.completion.chunk" if self.object == "chat.completion" else self.object
        return event({**self._head(kind), "choices": choices, **more})

    def statistics(self, answers: list[Answer]) -> dict[str, Any]:
        """Sums of the answers' costs, and tokens before and after compression."""
        rows = [answer.stats for answer in answers]
        total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {
            **total,
            "compression_tokens_before": self.conversation.tokens_before,
            "compression_tokens_after": self.conversation.tokens_after,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class _ChatPieces:
    """Stream events of a chat."""

    def __init__(self, reply: _Reply, choice: ToolChoice, index: int = 0) -> None:
        self._reply = reply
        self._index = index
        self._held = choice.stream()

    def opening(self) -> list[bytes]:
        """First events."""
        return [self._delta({"role": "assistant", "content": ""})]

    def piece(self, text: str) -> list[bytes]:
        """Events for a piece of text; none while it may be part of a tool call."""
        shown = self._held.feed(text) if self._held else text
        return [self._delta({"content": shown})] if shown else []

    def closing(self, answer: Answer) -> list[bytes]:
        """Remaining text, tool calls and finish reason."""
        read = self._held.rest() if self._held else ReadCalls.of_text("")
        events = [self._delta({"content": read.whole_text})] if read.whole_text else []
        for i, call in enumerate(read.calls):
            events.append(self._delta({"tool_calls": [{"index": i, **call.to_dict()}]}))
        logprobs = chat_logprobs(answer.logprobs)
        return [*events, self._delta({}, "tool_calls" if read.calls else _reason(answer), logprobs)]

    def _delta(
        self, delta: Mapping[str, Any], reason: str | None = None, logprobs: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._reply.chunk([choice])


class _TextPieces:
    """Stream events of a text completion."""

    def __init__(self, reply: _Reply, index: int = 0) -> None:
        self._reply = reply
        self._index = index

    def opening(self) -> list[bytes]:
        """First events: none."""
        return []

    def piece(self, text: str, reason: str | None = None, logprobs: Mapping[str, Any] | None = None) -> list[bytes]:
        """Events for a piece of text."""
        choice = {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return [self._reply.chunk([choice])]

    def closing(self, answer: Answer) -> list[bytes]:
        """Finish reason and log-probabilities."""
        return self.piece("", _reason(answer), text_logprobs(answer.logprobs))


async def _streamed(
    request: Request,
    body: Sampling,
    reply: _Reply,
    generations: Sequence[GenerationRequest],
    pieces: Sequence[_ChatPieces | _TextPieces],
) -> Response:
    """A streamed response; several answers follow each other, each with its index."""
    server = state.of(request)
    started = time.perf_counter()
    first = await begun(request, server.engine.stream(generations[0]))
    server.metrics.first_piece_seconds.observe(time.perf_counter() - started)

    async def events() -> AsyncGenerator[bytes, None]:
        answers: list[Answer] = []
        source = first
        try:
            for index, writer in enumerate(pieces):
                source = first if index == 0 else server.engine.stream(generations[index])
                for chunk in writer.opening():
                    yield chunk
                async for piece in source:
                    if isinstance(piece, str):
                        for chunk in writer.piece(piece):
                            yield chunk
                        continue
                    server.note_answer(request, piece)
                    answers.append(piece)
                    for chunk in writer.closing(piece):
                        yield chunk
                await source.aclose()
            if body.stream_options and body.stream_options.include_usage:
                yield reply.chunk([], usage=_usage(answers, body.choices), spec_rag=reply.statistics(answers))
            yield DONE
        finally:
            await source.aclose()

    return Events(events(), headers=reply.conversation.headers)


def _check_model(body: Sampling, request: Request) -> None:
    served = state.of(request).model_name
    if body.model != served:
        raise ApiError(
            404, f"model={body.model!r:.100}: this server has {served!r}.", param="model", code="model_not_found"
        )


def _tokens(body: Sampling, request: Request, max_completion_tokens: int | None = None) -> int:
    settings = state.of(request).settings
    tokens = max_completion_tokens or body.max_tokens or settings.default_completion_tokens
    if tokens > settings.max_completion_tokens:
        name = "max_completion_tokens" if max_completion_tokens else "max_tokens"
        raise ApiError(
            400,
            f"{name}={tokens}: this server writes at most {settings.max_completion_tokens} tokens.",
            param=name,
            code="invalid_value",
        )
    if (body.min_tokens or 0) > tokens:
        raise ApiError(
            400,
            f"min_tokens={body.min_tokens}: the answer has at most {tokens} tokens.",
            param="min_tokens",
            code="invalid_value",
        )
    return tokens


def _format(body: ChatRequest, choice: ToolChoice) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The system message that asks for JSON, and the generation options with the constraint."""
    requested = (
        None if body.response_format is None else body.response_format.model_dump(by_alias=True, exclude_none=True)
    )
    try:
        schema, form = answer_format(requested)
        options = choice.constrained_options({**body.options(), "constraint": form})
    except ValueError as error:
        raise ApiError(400, f"response_format: {error}", param="response_format", code="invalid_value") from error
    if schema is None:
        return [], options
    instruction = schema_instruction(schema, has_tools=bool(choice.offered))
    return [{"role": "system", "content": instruction}], options


def _reason(answer: Answer) -> str:
    if answer.finish_reason == "cancelled":
        raise ApiError(503, "The server is shutting down: try again.", code="shutting_down")
    return answer.finish_reason


def _usage(answers: list[Answer], choices_each: int) -> dict[str, int]:
    """Tokens of all prompts and answers; a prompt with several answers is counted once."""
    prompts = sum(answer.usage["prompt_tokens"] for answer in answers[::choices_each])
    written = sum(answer.usage["completion_tokens"] for answer in answers)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}
