"""In front of another server: chats are shortened and forwarded, everything else under /v1 is forwarded unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from spec_rag.compression.originals import expander
from spec_rag.serving import state
from spec_rag.serving.api_errors import ApiError, from_validation
from spec_rag.serving.compress_api import as_documents, compression_for
from spec_rag.serving.conversations import NOT_SHORTENED
from spec_rag.serving.document_schemas import Documents
from spec_rag.serving.event_stream import while_connected
from spec_rag.serving.expand_rounds import may_offer
from spec_rag.serving.json_edits import read_json, with_changes
from spec_rag.serving.request_texts import ITEMS, RequestTexts, Shape
from spec_rag.serving.upstream import Upstream
from spec_rag.serving.upstream_expand import answer_with_expansion
from spec_rag.serving.upstream_paths import forwarded_path

_DOCUMENTS: TypeAdapter[Documents] = TypeAdapter(Documents)
_SHAPES: dict[str, Shape] = {"chat/completions": "chat", "responses": "responses", "messages": "messages"}

router = APIRouter(prefix="/v1", tags=["upstream"])


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Shorten a chat and forward it; every other field reaches the upstream as the client wrote it."""
    return await _shortened(request, "chat/completions")


@router.post("/responses")
async def responses(request: Request) -> Response:
    """The same for OpenAI's Responses API."""
    return await _shortened(request, "responses")


@router.post("/messages")
async def messages(request: Request) -> Response:
    """The same for Anthropic's Messages API."""
    return await _shortened(request, "messages")


async def _shortened(request: Request, path: str) -> Response:
    server, shape = state.of(request), _SHAPES[path]
    data = await request.body()
    text, body = _read(data, shape)
    own = ("documents", "spec_rag") if shape == "chat" else ("spec_rag",)
    given = body.get("spec_rag")
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, "spec_rag: must be an object.", param="spec_rag", code="invalid_value")
    config = compression_for(given, server.settings)
    documents = _documents(body) if shape == "chat" else []
    shortening = server.conversations.shortened(
        RequestTexts.of(shape, body), as_documents(documents, server.settings), config, state.client_of(request)
    )
    conversation = await while_connected(request, shortening)
    noted = {"tokens_before": conversation.tokens_before, "tokens_after": conversation.tokens_after}
    request.scope.get("spec_rag", {}).update(
        noted, **({"whole": dict(conversation.whole)} if conversation.whole else {})
    )
    sent = {name: value for name, value in conversation.body.items() if name not in own}
    known = _upstream(request).aliases.get(str(sent.get("previous_response_id")))
    sent = sent if known is None else {**sent, "previous_response_id": known}

    def encode(changed: Mapping[str, Any]) -> bytes:
        return data if changed == body else with_changes(text, body, dict(changed)).encode("utf-8", "replace")

    if server.settings.expand and may_offer(shape, sent):
        return await answer_with_expansion(
            request,
            _upstream(request),
            shape,
            path,
            sent,
            expander(server.conversations.originals),
            conversation.headers,
            encode,
        )
    return await _upstream(request).forward(request, path, encode(sent), conversation.headers)


def _documents(body: dict[str, Any]) -> Documents:
    try:
        return _DOCUMENTS.validate_python(body.get("documents") or [])
    except ValidationError as error:
        problems = [{**problem, "loc": ("documents", *problem["loc"])} for problem in error.errors()]
        raise from_validation(problems) from error


@router.api_route(
    "/{path:path}",
    methods=["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"],
    include_in_schema=False,
)
async def anything_else(path: str, request: Request) -> Response:
    """Forward a request unchanged; the response to one with a body says so in a header."""
    data = await request.body()
    headers = {NOT_SHORTENED: "route"} if data else {}
    return await _upstream(request).forward(request, forwarded_path(request.scope), data, headers)


def _upstream(request: Request) -> Upstream:
    upstream = state.of(request).upstream
    assert upstream is not None
    return upstream


def _read(data: bytes, shape: Shape) -> tuple[str, dict[str, Any]]:
    """The text and value of a body; its fields are the upstream's business, but for a chat's messages."""
    text, body = read_json(data)
    if not isinstance(body, dict):
        raise ApiError(400, "body: must be an object.", code="invalid_value")
    items = body.get(ITEMS[shape])
    if shape != "responses" and (not isinstance(items, list) or not all(isinstance(item, dict) for item in items)):
        raise ApiError(400, "messages: must be a list of objects.", param="messages", code="invalid_value")
    return text, body
