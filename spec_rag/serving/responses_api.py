"""/v1/responses: OpenAI's Responses API over the chat of this server. Responses are stored in memory only, and bounded.

A request becomes a chat, and the chat's answer or events become a response: text, calls of functions, streams.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from spec_rag.serving import state
from spec_rag.serving.api_errors import ApiError, from_validation
from spec_rag.serving.chat_api import chat_completions
from spec_rag.serving.chat_schemas import ChatRequest, Off
from spec_rag.serving.document_schemas import Body, Documents, Flag
from spec_rag.serving.event_stream import ClosingStream, Events

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_TEXTS = ("input_text", "output_text", "text")
_NAMES = {"max_completion_tokens": "max_output_tokens", "messages": "input", "response_format": "text.format"}
_SHARED = ("model", "temperature", "top_p", "parallel_tool_calls", "stream", "documents", "spec_rag", "user")
_ECHOED = ("instructions", "previous_response_id", "temperature", "top_p", "max_output_tokens", "user")


class ResponsesRequest(Body):
    """A request of the Responses API; built-in tools and background responses are refused."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: Flag | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    stream: Flag | None = None
    stream_options: dict[str, Any] | None = None
    store: Flag | None = None
    background: Off | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    documents: Documents | None = None
    spec_rag: dict[str, Any] | None = None


@router.post("/responses")
async def create(body: ResponsesRequest, request: Request) -> Response:
    """Answer, and remember the response unless `store` is false."""
    earlier = _stored(request, body.previous_response_id)["messages"] if body.previous_response_id else []
    messages = [*earlier, *_messages(body.input)]
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    try:
        chat = ChatRequest.model_validate(_chat(body, [*system, *messages]))
        answer = await chat_completions(chat, request)
    except ValidationError as error:
        raise _renamed(from_validation(error.errors())) from error
    except ApiError as error:
        raise _renamed(error) from error
    building = _Building(body, messages, request)
    if isinstance(answer, ClosingStream):
        return Events(building.events(answer), headers=_own_headers(answer))
    building.read(json.loads(bytes(answer.body)))
    return JSONResponse(building.finished(), headers=_own_headers(answer))


@router.get("/responses/{identity}")
async def retrieve(identity: str, request: Request) -> dict[str, Any]:
    """A stored response."""
    found: dict[str, Any] = _stored(request, identity)["response"]
    return found


@router.delete("/responses/{identity}")
async def delete(identity: str, request: Request) -> dict[str, Any]:
    """Forget a stored response."""
    _stored(request, identity)
    state.of(request).responses.put(identity, {"owner": None}, 64)
    return {"id": identity, "object": "response", "deleted": True}


def _stored(request: Request, identity: str) -> dict[str, Any]:
    found = state.of(request).responses.get(identity)
    if found is None or found["owner"] != state.client_of(request):
        raise ApiError(
            404,
            f"previous_response_id={identity!r:.100}: unknown, or removed from memory: send its items.",
            param="previous_response_id",
            code="response_not_found",
        )
    return found


def _chat(body: ResponsesRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    chat: dict[str, Any] = {name: getattr(body, name) for name in _SHARED}
    chat |= {"messages": messages, "max_completion_tokens": body.max_output_tokens}
    chat["tools"] = [_tool(tool, i) for i, tool in enumerate(body.tools or ())] or None
    chosen = body.tool_choice
    if isinstance(chosen, dict) and chosen.get("type") == "function":
        chosen = {"type": "function", "function": {"name": chosen.get("name")}}
    chat["tool_choice"] = chosen
    form = (body.text or {}).get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
    chat["response_format"] = form
    chat["reasoning_effort"] = (body.reasoning or {}).get("effort")
    if body.stream:
        chat["stream_options"] = {"include_usage": True}
    return chat


def _tool(tool: Mapping[str, Any], place: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        kind = f"{tool.get('type')!r:.80}"
        raise ApiError(
            400,
            f"tools.{place}.type={kind}: this server has no built-in tools; give functions.",
            param=f"tools.{place}.type",
            code="invalid_value",
        )
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _messages(given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items of a request as messages of a chat; calls join the answer before them."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(given):
        kind = item.get("type") or "message"
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = _content(item.get("output"), f"input.{place}.output")
            mark = {"compress": item["compress"]} if "compress" in item else {}
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content, **mark})
        elif kind == "message":
            content = _content(item.get("content"), f"input.{place}.content")
            messages.append({**item, "content": content})
        elif kind != "reasoning":
            raise _unreadable(f"input.{place}.type", kind)
    return messages


def _content(content: Any, place: str) -> Any:
    if not isinstance(content, list):
        return content
    parts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _TEXTS:
            raise _unreadable(f"{place}.{i}.type", kind)
        parts.append({**part, "type": "text"})
    return parts


def _unreadable(param: str, kind: Any) -> ApiError:
    message = f"{param}={kind!r:.80}: this server reads text, calls of functions and their outputs alone."
    return ApiError(400, message, param=param, code="invalid_value")


def _renamed(error: ApiError) -> ApiError:
    """An error of the chat in the words of the request."""
    message, param = error.message, error.param
    for name, own in _NAMES.items():
        message = message.replace(name, own)
        param = param.replace(name, own) if param else param
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers)


def _own_headers(answer: Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("x-spec-rag-")}


class _Building:
    """A response that grows out of a chat's answer."""

    def __init__(self, body: ResponsesRequest, messages: list[dict[str, Any]], request: Request) -> None:
        self._body = body
        self._messages = messages
        self._request = request
        self._number = 0
        self._text = ""
        self._message: dict[str, Any] | None = None
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": body.model,
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_details": None,
            "tools": body.tools or [],
            "tool_choice": body.tool_choice or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "text": body.text or {"format": {"type": "text"}},
            "metadata": body.metadata or {},
            "truncation": body.truncation or "disabled",
            "store": body.store is not False,
            **{name: getattr(body, name) for name in _ECHOED},
        }

    def read(self, chat: Mapping[str, Any]) -> None:
        """Take in a whole answer."""
        choice = chat["choices"][0]
        if choice["message"]["content"]:
            self.response["output"].append(_message(choice["message"]["content"]))
        self.response["output"] += [_call(one) for one in choice["message"].get("tool_calls", ())]
        self._end(choice["finish_reason"], chat["usage"])

    def finished(self) -> dict[str, Any]:
        """The response, which is stored."""
        if self._body.store is not False:
            messages = [*self._messages, *_messages(self.response["output"])]
            entry = {"owner": state.client_of(self._request), "messages": messages, "response": self.response}
            size = 2 * len(json.dumps([messages, self.response]))
            state.of(self._request).responses.put(self.response["id"], entry, size)
        return self.response

    async def events(self, answer: ClosingStream) -> AsyncGenerator[bytes, None]:
        """The events of the response."""
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)
        reason = "stop"
        source = answer.body_iterator
        try:
            async for data in _chunks(source):
                if "error" in data:
                    yield self._event(
                        "error", **{name: data["error"].get(name) for name in ("code", "message", "param")}
                    )
                    return
                for choice in data["choices"]:
                    reason = choice.get("finish_reason") or reason
                    if text := choice["delta"].get("content"):
                        for event in self._add_text(text):
                            yield event
                    for call in choice["delta"].get("tool_calls", ()):
                        for event in [*self._end_message(), *self._add_call(call)]:
                            yield event
                if data.get("usage"):
                    for event in self._end_message():
                        yield event
                    self._end(reason, data["usage"])
        finally:
            await answer.aclose()
        self.finished()
        yield self._event(f"response.{self.response['status']}", response=self.response)

    def _end(self, reason: str, usage: Mapping[str, int]) -> None:
        if reason == "length":
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            self.response["status"] = "completed"
        self.response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = json.dumps({"type": kind, "sequence_number": self._number, **fields}, ensure_ascii=False)
        self._number += 1
        return f"event: {kind}\ndata: {data}\n\n".encode("utf-8", "replace")

    def _add_text(self, text: str) -> list[bytes]:
        events = []
        if self._message is None:
            self._message = {**_message(""), "status": "in_progress"}
            item = {**self._message, "content": []}
            events.append(self._event("response.output_item.added", output_index=self._place, item=item))
            part = self._message["content"][0]
            events.append(self._event("response.content_part.added", **self._where, part=part))
        self._text += text
        return [*events, self._event("response.output_text.delta", **self._where, delta=text, logprobs=[])]

    def _end_message(self) -> list[bytes]:
        if self._message is None:
            return []
        item = {**_message(self._text), "id": self._message["id"]}
        events = [
            self._event("response.output_text.done", **self._where, text=self._text, logprobs=[]),
            self._event("response.content_part.done", **self._where, part=item["content"][0]),
            self._event("response.output_item.done", output_index=self._place, item=item),
        ]
        self.response["output"].append(item)
        self._message, self._text = None, ""
        return events

    def _add_call(self, call: Mapping[str, Any]) -> list[bytes]:
        item = _call(call)
        where = {"output_index": self._place, "item_id": item["id"]}
        begun = {**item, "arguments": "", "status": "in_progress"}
        arguments = item["arguments"]
        events = [
            self._event("response.output_item.added", output_index=self._place, item=begun),
            self._event("response.function_call_arguments.delta", **where, delta=arguments),
            self._event("response.function_call_arguments.done", **where, name=item["name"], arguments=arguments),
            self._event("response.output_item.done", output_index=self._place, item=item),
        ]
        self.response["output"].append(item)
        return events

    @property
    def _place(self) -> int:
        return len(self.response["output"])

    @property
    def _where(self) -> dict[str, Any]:
        assert self._message is not None
        return {"output_index": self._place, "content_index": 0, "item_id": self._message["id"]}


def _message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    identity = f"msg_{uuid.uuid4().hex}"
    return {"type": "message", "id": identity, "role": "assistant", "status": "completed", "content": [part]}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": call["id"], "status": "completed"}
    return {**item, "name": call["function"]["name"], "arguments": call["function"]["arguments"]}


async def _chunks(source: AsyncIterable[Any]) -> AsyncIterator[dict[str, Any]]:
    """The JSON of a chat's events."""
    async for event in source:
        for line in bytes(event).split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line.removeprefix(b"data: "))
