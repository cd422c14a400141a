"""In front of another server: chats are shortened and handed on, everything else under /v1 is handed on as it is."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from spec_rag.serving import state
from spec_rag.serving.compress_api import as_given, compression_for
from spec_rag.serving.document_schemas import Documents
from spec_rag.serving.errors import ApiError, from_validation
from spec_rag.serving.streams import while_connected
from spec_rag.serving.upstream import Upstream

_DOCUMENTS: TypeAdapter[Documents] = TypeAdapter(Documents)

router = APIRouter(prefix="/v1", tags=["upstream"])


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Shorten a chat, and hand it on: every other field reaches the upstream as it is."""
    server = state.of(request)
    body = _read(await request.body())
    try:
        documents = _DOCUMENTS.validate_python(body.pop("documents", None) or [])
    except ValidationError as error:
        problems = [{**problem, "loc": ("documents", *problem["loc"])} for problem in error.errors()]
        raise from_validation(problems) from error
    given = body.pop("spec_rag", None)
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, "spec_rag: must be an object.", param="spec_rag", code="invalid_value")
    config = compression_for(given, server.settings)
    shortening = server.conversations.shortened(
        body["messages"], as_given(documents, server.settings), config, state.client_of(request)
    )
    conversation = await while_connected(request, shortening)
    noted = {"tokens_before": conversation.tokens_before, "tokens_after": conversation.tokens_after}
    request.scope.get("spec_rag", {}).update(noted)
    sent = json.dumps({**body, "messages": conversation.messages}, ensure_ascii=False).encode("utf-8", "replace")
    return await _upstream(request).forward(request, "chat/completions", sent, conversation.headers)


@router.api_route("/{path:path}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
async def anything_else(path: str, request: Request) -> Response:
    """Hand a request on as it is."""
    return await _upstream(request).forward(request, path, await request.body(), {})


def _upstream(request: Request) -> Upstream:
    upstream = state.of(request).upstream
    assert upstream is not None
    return upstream


def _read(data: bytes) -> dict[str, Any]:
    """A chat's body, whose messages are objects; what is in them is the upstream's business."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is no JSON.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, "body: must be an object.", code="invalid_value")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "messages: must be a list of objects.", param="messages", code="invalid_value")
    return body
