"""Requests and responses of /v1/compress and /v1/rerank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from spec_rag.options.compression import CompressionOptions
from spec_rag.options.presets import FORMER_NAMES
from spec_rag.text.messages import question_of

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class Body(BaseModel):
    """A body that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class _DocumentFields(Body):
    title: str | None = None
    id: str | None = None
    metadata: dict[str, Any] | None = None
    score: Number | None = None


class RequestDocument(_DocumentFields):
    """A document of a request."""

    text: str


class StoredDocument(_DocumentFields):
    """A document whose text was uploaded before; `file` is the `id` in the response of /v1/read."""

    file: str


Documents = list[str | RequestDocument]


class CompressionFields(CompressionOptions):
    """Options of a compression; absent or null options have the value of the server's settings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        named = {*CompressionOptions.model_fields, *FORMER_NAMES}
        return {name: value for name, value in values.items() if value is not None or name not in named}

    @field_validator("keep", mode="before")
    @classmethod
    def _check_list(cls, keep: Any) -> Any:
        if not isinstance(keep, list):
            raise ValueError(f"keep={keep!r:.80}: must be a list of strings.")
        return keep

    def settings(self) -> dict[str, Any]:
        """The options that are set."""
        return {name: getattr(self, name) for name in CompressionOptions.model_fields if name in self.model_fields_set}


def _question(value: Any) -> Any:
    """Convert messages or content parts to the text of the question."""
    question = None if isinstance(value, str) else question_of(value)
    return value if question is None else question


Question = Annotated[str, BeforeValidator(_question)]


class CompressRequest(CompressionFields):
    """Documents and a question."""

    documents: list[str | RequestDocument | StoredDocument]
    query: Question
    top_k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Split the documents into chunks, and compress only the best chunks by BM25."""
    chunk_chars: Annotated[int, Field(strict=True, ge=1, le=10**6)] | None = None
    with_units: Flag = False
    """Return the units with their importance."""
    stream: Flag = False
    """Send progress events, then the compression."""


class CompressMessages(CompressionFields):
    """Messages of a chat, or of Anthropic's API, whose tool results are to be shortened; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)
    messages: list[dict[str, Any]]


CompressBody = Annotated[
    Annotated[CompressRequest, Tag("#documents")] | Annotated[CompressMessages, Tag("#messages")],
    Discriminator(lambda body: "#messages" if isinstance(body, Mapping) and "messages" in body else "#documents"),
]


class CompressedMessages(BaseModel):
    """The messages as the model should read them, and tokens of the texts that were looked at.

    `not_shortened` counts why texts stayed whole.
    """

    object: Literal["compressed_messages"] = "compressed_messages"
    messages: list[dict[str, Any]]
    tokens_before: int
    tokens_after: int
    tokens_saved: int
    compression_ratio: float
    not_shortened: dict[str, int]


class GuardrailRequest(BaseModel):
    """A request of LiteLLM's generic guardrail API; other fields are ignored."""

    input_type: str = "request"
    texts: list[str] | None = None
    structured_messages: list[dict[str, Any]] | None = None


class RerankText(BaseModel):
    """A document of a rerank request; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")
    text: str
    title: str | None = None


class RerankRequest(Body):
    """Documents to order by relevance, as in the APIs of Cohere, Jina and litellm.

    `max_chunks_per_doc` and `priority` are accepted and ignored. `max_tokens_per_doc` truncates each document.
    """

    query: Question | RerankText
    documents: Annotated[list[str | RerankText], Field(min_length=1)]
    model: str | None = None
    top_n: Annotated[int, Field(strict=True, ge=1)] | None = None
    return_documents: Flag | None = None
    max_tokens_per_doc: Annotated[int, Field(strict=True, ge=1)] | None = None
    max_chunks_per_doc: Annotated[int, Field(strict=True, ge=1)] | None = None
    rank_fields: list[Literal["text"]] | None = None
    priority: Annotated[int, Field(strict=True, ge=0)] | None = None
    truncation: Flag | None = None
    user: str | None = None

    @property
    def question(self) -> str:
        """Text of the query."""
        return self.query if isinstance(self.query, str) else self.query.text

    def plain_documents(self) -> list[str | RequestDocument]:
        """The documents in the form of other requests."""
        return [
            one if isinstance(one, str) else RequestDocument(text=one.text, title=one.title) for one in self.documents
        ]


class Unit(BaseModel):
    """A unit of a document: character range, importance, tokens, whether it was kept and why."""

    start: int
    end: int
    importance: float | None
    tokens: int
    kept: bool
    reason: str | None = None


class CompressedText(BaseModel):
    """The kept text of a document or of one chunk of it; spans are character ranges in the document."""

    document: int
    id: str | None
    title: str | None
    text: str
    start: int
    end: int
    spans: list[tuple[int, int]]
    tokens_before: int
    tokens_after: int
    units: list[Unit] | None = None


class CompressResponse(BaseModel):
    """Kept texts, and a chat prompt made of them."""

    object: Literal["compression"] = "compression"
    query: str
    draft: str
    draft_seconds: float
    budget_tokens: int
    tokens_before: int
    tokens_after: int
    ratio: float
    over_budget: int
    """Tokens beyond the budget; above 0 only if no unit fits and the best one is kept whole."""
    text: str
    documents: list[CompressedText]
    messages: list[dict[str, str]]


class RerankedDocument(BaseModel):
    """Index of a document in the request, its relevance in [0, 1], and the document if requested."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankResponse(BaseModel):
    """Documents by descending relevance; `meta` is as in Cohere's API, `usage` as in Jina's."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankedDocument]
    meta: dict[str, Any]
    usage: dict[str, int]


class ErrorDetail(BaseModel):
    """Error details."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error in the form of OpenAI's API."""

    error: ErrorDetail
