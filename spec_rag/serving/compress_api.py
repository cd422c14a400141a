"""/v1/compress, /v1/rerank and /v1/read."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from spec_rag.answering.answer import answer_messages
from spec_rag.answering.chunking import DEFAULT_CHUNK_CHARS, Chunk, retrieve, split_chunks
from spec_rag.errors import ConfigError, UnreadableFileError
from spec_rag.loaders.reading import read_bytes
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import Compression
from spec_rag.serving import state
from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.document_schemas import (
    CompressBody,
    CompressedMessages,
    CompressedText,
    CompressMessages,
    CompressRequest,
    CompressResponse,
    Documents,
    ErrorResponse,
    RerankedDocument,
    RerankRequest,
    RerankResponse,
    RerankText,
    Unit,
)
from spec_rag.serving.event_stream import DONE, Events, begun, event, while_connected
from spec_rag.serving.guardrail_api import compress_messages
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import Document
from spec_rag.utils.cancellation import in_thread

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 408, 413, 429, 501, 503, 504)
}
router = APIRouter(prefix="/v1", tags=["documents"])


_COMPRESSED: dict[str, Any] = {
    "model": CompressResponse | CompressedMessages,
    "content": {"text/event-stream": {}},
}


@router.post("/compress", responses={**_ERRORS, 200: _COMPRESSED})
async def compress(body: CompressBody, request: Request) -> Response:
    """Compress documents for a question, or the tool results of `messages`; the target is not used."""
    if isinstance(body, CompressMessages):
        return JSONResponse((await compress_messages(body, request)).model_dump())
    server = state.of(request)
    config = server.settings.compression_with(body.settings())
    texts = server.files.resolve(state.client_of(request), body.documents)
    documents: list[Document] = as_documents(texts, server.settings)
    if body.top_k is not None:
        documents = list(await in_thread(lambda cancelled: _chunks(documents, body)))

    async def events() -> AsyncGenerator[bytes, None]:
        loop, progress = asyncio.get_running_loop(), asyncio.Queue[tuple[str, int, int] | None]()

        def listener(what: str, done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress.put_nowait, (what, done, total))

        working = asyncio.ensure_future(server.engine.compress(documents, body.query, config, listener))
        working.add_done_callback(lambda _: progress.put_nowait(None))
        try:
            while (step := await progress.get()) is not None:
                yield event({"object": "progress", "what": step[0], "done": step[1], "total": step[2]})
            yield event(response(working.result(), body).model_dump())
            yield DONE
        finally:
            working.cancel()

    def response(compression: Compression, body: CompressRequest) -> CompressResponse:
        server.metrics.count_compression(compression)
        request.scope.get("spec_rag", {}).update(
            tokens_before=compression.tokens_before, tokens_after=compression.tokens_after
        )
        return _as_json(compression, body)

    if body.stream:
        return Events(await begun(request, events()))
    compression = await while_connected(request, server.engine.compress(documents, body.query, config))
    return Response(response(compression, body).model_dump_json(), media_type="application/json")


@router.post("/rerank", responses=_ERRORS, response_model_exclude_none=True)
async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
    """Order documents by their relevance to the question, as scored by the draft."""
    server = state.of(request)
    if server.settings.upstream is None and body.model not in (None, server.draft_name, server.model_name):
        raise ApiError(
            404,
            f"model={body.model!r:.100}: this server has {server.model_name!r} with the draft {server.draft_name!r}.",
            param="model",
            code="model_not_found",
        )
    documents = as_documents(body.plain_documents(), server.settings)
    if not body.question.strip():
        raise ApiError(400, "query is empty: give a question.", param="query", code="invalid_value")
    config = server.settings.compression_with({"ratio": 1.0})
    if body.max_tokens_per_doc is not None:
        documents = await server.engine.shortened(documents, body.max_tokens_per_doc)
    scores = await while_connected(request, server.engine.relevance(documents, body.question, config))
    order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))[: body.top_n]
    tokens = await server.engine.count([body.question, *(document.text for document in documents)])
    request.scope.get("spec_rag", {}).update(tokens_before=tokens)
    return RerankResponse(
        id=f"rerank-{uuid.uuid4().hex}",
        model=server.draft_name,
        results=[
            RerankedDocument(
                index=i,
                relevance_score=_probability(scores[i]),
                document=_as_returned(body.documents[i]) if body.return_documents else None,
            )
            for i in order
        ],
        meta={
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
        usage={"total_tokens": tokens, "prompt_tokens": tokens},
    )


rerank_router = APIRouter(tags=["documents"])
for _path in ("/rerank", "/v2/rerank"):
    rerank_router.post(_path, responses=_ERRORS, response_model_exclude_none=True)(rerank)


def _as_returned(document: str | RerankText) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else {"text": document.text}


@router.post("/read", responses={**_ERRORS, 200: {"content": {"text/event-stream": {}}}})
async def read(
    file: UploadFile,
    request: Request,
    stream: Annotated[bool, Form()] = False,
    encoding: Annotated[str | None, Form(pattern="^[A-Za-z0-9_.:-]{1,40}$")] = None,
) -> Any:
    """Extract the text of a file: text, Markdown, HTML, PDF, .docx, EPUB, notebooks, data or source code.

    `id` names the text in later requests: {"file": id} in the `documents` of /v1/compress. `page_starts` has the
    index of the first character of each page of a PDF. `encoding` applies to text and HTML; the default is UTF-8, or
    what the file declares. With `stream`, the response is events: the progress, then the document or an error.
    """
    data = await file.read()
    name = (file.filename or "").replace("\\", "/").rpartition("/")[2]

    async def extracted() -> dict[str, Any]:
        try:
            document = await in_thread(lambda cancelled: read_bytes(name, data, encoding=encoding))
        except (UnreadableFileError, UnicodeError) as error:  # codecs such as "idna" raise the latter
            raise ApiError(400, str(error), param="file", code="unreadable_file") from error
        server = state.of(request)
        return {
            "object": "document",
            "id": server.files.put(state.client_of(request), document.text),
            "name": name,
            "title": document.title,
            "text": document.text,
            "tokens": await server.engine.count([document.text]),
            "page_starts": document.metadata.get("page_starts", []),
        }

    async def events() -> AsyncGenerator[bytes, None]:
        yield event({"object": "progress", "what": "Reading", "done": 0, "total": 1})
        yield event(await extracted())
        yield DONE

    return Events(events()) if stream else await extracted()


def compression_for(options: dict[str, Any] | None, settings: ServerSettings) -> CompressionConfig:
    """The compression config of a chat.

    Raises:
        ApiError: an option is invalid.
    """
    try:
        return settings.compression_with(options)
    except ConfigError as error:
        raise ApiError(400, f"spec_rag: {error}", param="spec_rag", code="invalid_value") from error


def as_documents(documents: Documents, settings: ServerSettings) -> list[Document]:
    """Convert the documents of a request.

    Raises:
        ApiError: there are too many.
    """
    if len(documents) > settings.max_documents:
        raise ApiError(
            400,
            f"documents: {len(documents)} documents; a request may have {settings.max_documents}.",
            param="documents",
            code="too_many_documents",
        )
    return [
        Document(document)
        if isinstance(document, str)
        else Document(document.text, document.title, document.id, document.metadata or {}, document.score)
        for document in documents
    ]


def _chunks(documents: Sequence[Document], body: CompressRequest) -> Sequence[Document]:
    assert body.top_k is not None
    chunks = [
        chunk
        for i, document in enumerate(documents)
        for chunk in split_chunks(
            Document(document.text, document.title, document.id, {"document": i}),
            body.chunk_chars or DEFAULT_CHUNK_CHARS,
        )
    ]
    return retrieve(body.query, chunks, body.top_k)


def _as_json(compression: Compression, body: CompressRequest) -> CompressResponse:
    texts = []
    for i, compressed in enumerate(compression.documents):
        source = compressed.source if compressed.source is not None else Document(compressed.original_text)
        chunk = source if isinstance(source, Chunk) else None
        offset = chunk.start if chunk else 0
        texts.append(
            CompressedText(
                document=chunk.metadata["document"] if chunk else i,
                id=getattr(source, "id", None),
                title=compressed.title,
                text=compressed.text,
                start=offset,
                end=offset + len(compressed.original_text),
                spans=[(offset + a, offset + b) for a, b in compressed.spans],
                tokens_before=compressed.tokens_before,
                tokens_after=compressed.tokens_after,
                units=[
                    Unit(
                        start=offset + unit.start,
                        end=offset + unit.end,
                        importance=unit.importance if math.isfinite(unit.importance) else None,
                        tokens=unit.tokens,
                        kept=unit.kept,
                        reason=unit.reason,
                    )
                    for unit in compressed.units
                ]
                if body.with_units
                else None,
            )
        )
    return CompressResponse(
        query=compression.query,
        draft=compression.draft,
        draft_seconds=compression.draft_seconds,
        budget_tokens=compression.budget_tokens,
        tokens_before=compression.tokens_before,
        tokens_after=compression.tokens_after,
        ratio=compression.ratio,
        over_budget=compression.over_budget,
        text=compression.text,
        documents=texts,
        messages=answer_messages(compression),
    )


def _probability(score: float) -> float:
    """Logistic function of a score; 0 for -inf."""
    return 0.0 if score == -math.inf else 1 / (1 + math.exp(-max(min(score, 500.0), -500.0)))
