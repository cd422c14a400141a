"""In front of another server: chats are shortened and forwarded, everything else under /v1 is forwarded unchanged."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from spec_rag.serving import state
from spec_rag.serving.api_errors import ApiError, from_validation
from spec_rag.serving.compress_api import as_documents, compression_for
from spec_rag.serving.document_schemas import Documents
from spec_rag.serving.event_stream import while_connected
from spec_rag.serving.json_edits import read_json, with_changes
from spec_rag.serving.upstream import Upstream
from spec_rag.serving.upstream_paths import forwarded_path

_DOCUMENTS: TypeAdapter[Documents] = TypeAdapter(Documents)

router = APIRouter(prefix="/v1", tags=["upstream"])


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Shorten a chat and forward it; every other field reaches the upstream as the client wrote it."""
    server = state.of(request)
    data = await request.body()
    text, body = _read(data)
    try:
        documents = _DOCUMENTS.validate_python(body.get("documents") or [])
    except ValidationError as error:
        problems = [{**problem, "loc": ("documents", *problem["loc"])} for problem in error.errors()]
        raise from_validation(problems) from error
    given = body.get("spec_rag")
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, "spec_rag: must be an object.", param="spec_rag", code="invalid_value")
    config = compression_for(given, server.settings)
    shortening = server.conversations.shortened(
        body["messages"], as_documents(documents, server.settings), config, state.client_of(request)
    )
    conversation = await while_connected(request, shortening)
    noted = {"tokens_before": conversation.tokens_before, "tokens_after": conversation.tokens_after}
    request.scope.get("spec_rag", {}).update(noted)
    sent = {name: value for name, value in body.items() if name not in ("documents", "spec_rag")}
    sent["messages"] = conversation.messages
    if sent != body:
        data = with_changes(text, body, sent).encode("utf-8", "replace")
    return await _upstream(request).forward(request, "chat/completions", data, conversation.headers)


@router.api_route(
    "/{path:path}",
    methods=["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"],
    include_in_schema=False,
)
async def anything_else(path: str, request: Request) -> Response:
    """Forward a request unchanged."""
    return await _upstream(request).forward(request, forwarded_path(request.scope), await request.body(), {})


def _upstream(request: Request) -> Upstream:
    upstream = state.of(request).upstream
    assert upstream is not None
    return upstream


def _read(data: bytes) -> tuple[str, dict[str, Any]]:
    """The text and value of a chat's body, whose messages are objects; their fields are the upstream's business."""
    text, body = read_json(data)
    if not isinstance(body, dict):
        raise ApiError(400, "body: must be an object.", code="invalid_value")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "messages: must be a list of objects.", param="messages", code="invalid_value")
    return text, body
