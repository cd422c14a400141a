"""Requests whose model may call `expand_document`: the gateway answers the calls, and the client sees one response."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import httpx
from fastapi import Request, Response

from spec_rag.compression.originals import Expander
from spec_rag.serving.expand_rounds import Round, following_body, with_tool
from spec_rag.serving.request_texts import Shape
from spec_rag.serving.upstream import Upstream

_EVENT_END = re.compile(rb"\r?\n\r?\n")


async def answer_with_expansion(
    request: Request,
    upstream: Upstream,
    shape: Shape,
    path: str,
    body: Mapping[str, Any],
    expand: Expander,
    headers: Mapping[str, str],
    encode: Callable[[Mapping[str, Any]], bytes],
) -> Response:
    """Forward a request with the tool, answer its calls, and return the response without them.

    Args:
        request: the client's.
        upstream: what answers.
        shape, path: of the API.
        body: with shortened texts.
        expand: returns the text of a handle.
        headers: added to the response.
        encode: the JSON of a request.

    Raises:
        ApiError: the upstream cannot be reached, or does not answer in time.
    """
    sent = with_tool(shape, body)
    own = Round(shape)
    while True:
        answer = await upstream.open(request, path, encode(sent), is_plain=True)
        is_events = answer.headers.get("content-type", "").startswith("text/event-stream")
        if answer.status_code != 200:
            return upstream.respond(answer, upstream.read(answer), headers)
        if is_events:
            events = _events(request, upstream, path, sent, own, answer, expand, encode)
            return upstream.respond(answer, events, headers, is_whole=False)
        data = b"".join([piece async for piece in upstream.read(answer)])
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return upstream.respond(answer, _once(data), headers)
        shown = own.read(found)
        if not own.continues:
            return upstream.respond(answer, _once(_encoded(shown) if shown != found else data), headers, is_whole=False)
        sent = following_body(shape, sent, own.next_items(expand))
        own = own.following()


async def _events(
    request: Request,
    upstream: Upstream,
    path: str,
    sent: Mapping[str, Any],
    own: Round,
    answer: httpx.Response,
    expand: Expander,
    encode: Callable[[Mapping[str, Any]], bytes],
) -> AsyncGenerator[bytes, None]:
    """The events of all rounds as one stream."""
    while True:
        done = b""
        async for event in _split(upstream.read(answer)):
            kind, data = _parsed(event)
            if data is None:
                done = event if b"[DONE]" in event else done
                if event is not done:
                    yield event
                continue
            for name, one in own.feed(kind, data):
                yield event if one is data else _written(name, one)
        if not own.continues:
            if own.identity and own.final_identity not in (None, own.identity):
                upstream.aliases.put(own.identity, str(own.final_identity), 1)
            if done:
                yield done
            return
        sent = following_body(own.shape, sent, own.next_items(expand))
        own = own.following()
        answer = await upstream.open(request, path, encode(sent), is_plain=True)
        if answer.status_code != 200:
            error = b"".join([piece async for piece in upstream.read(answer)])
            yield b"event: error\ndata: " + error.replace(b"\n", b" ") + b"\n\n"
            return


async def _split(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Events with the blank lines that end them."""
    held = b""
    try:
        async for piece in pieces:
            held += piece
            while (end := _EVENT_END.search(held)) is not None:
                yield held[: end.end()]
                held = held[end.end() :]
        if held:
            yield held
    finally:
        await pieces.aclose()


def _parsed(event: bytes) -> tuple[str | None, Any]:
    """The type and the JSON of an event; None where it has none."""
    kind, data = None, []
    for line in event.splitlines():
        name, _, value = line.partition(b":")
        if name == b"event":
            kind = value.strip().decode("utf-8", "replace")
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    try:
        return kind, json.loads(b"\n".join(data))
    except ValueError:
        return kind, None


def _written(kind: str | None, data: Any) -> bytes:
    return (f"event: {kind}\n".encode() if kind else b"") + b"data: " + _encoded(data) + b"\n\n"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
