"""Tool results shortened for other gateways: messages in, messages out; and LiteLLM's generic guardrail API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from spec_rag.options.compression import CompressionConfig
from spec_rag.serving import state
from spec_rag.serving.conversations import Conversation
from spec_rag.serving.document_schemas import CompressedMessages, CompressMessages, GuardrailRequest
from spec_rag.serving.event_stream import while_connected
from spec_rag.serving.request_texts import RequestTexts

router = APIRouter(tags=["gateways"])


async def compress_messages(body: CompressMessages, request: Request) -> CompressedMessages:
    """Messages with shortened tool results; what fails stays whole."""
    config = state.of(request).settings.compression_with(body.settings())
    found = await _shortened(body.messages, config, request)
    before, after = found.tokens_before, found.tokens_after
    return CompressedMessages(
        messages=found.messages,
        tokens_before=before,
        tokens_after=after,
        tokens_saved=before - after,
        compression_ratio=after / before if before else 1.0,
        not_shortened=dict(found.whole),
    )


@router.post("/beta/litellm_basic_guardrail_api")
async def guardrail(body: GuardrailRequest, request: Request) -> dict[str, Any]:
    """Shorten the tool results of a request that LiteLLM is about to send; its answers are left alone."""
    if body.input_type != "request" or not body.structured_messages:
        return {"action": "NONE"}
    found = await _shortened(body.structured_messages, state.of(request).settings.compression, request)
    if not found.shortened or found.is_audit:
        return {"action": "NONE"}
    texts = [found.shortened.get(text, text) for text in body.texts or ()]
    return {"action": "GUARDRAIL_INTERVENED", "texts": texts, "structured_messages": found.messages}


async def _shortened(messages: list[dict[str, Any]], config: CompressionConfig, request: Request) -> Conversation:
    server = state.of(request)
    texts = RequestTexts.of("chat", {"messages": messages})
    options = replace(server.settings.tool_results, min_chars=server.settings.min_chars)
    shortening = server.conversations.shortened(texts, [], config, state.client_of(request), options)
    found = await while_connected(request, shortening)
    noted = {"tokens_before": found.tokens_before, "tokens_after": found.tokens_after}
    request.scope.get("spec_rag", {}).update(noted)
    return found
