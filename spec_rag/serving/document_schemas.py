"""What requests about documents and their responses look like; reranking has the common form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from spec_rag.options.compression import CompressionOptions
from spec_rag.options.presets import FORMER_NAMES
from spec_rag.text.messages import question_of

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class Body(BaseModel):
    """A body whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class _DocumentFields(Body):
    title: str | None = None
    id: str | None = None
    metadata: dict[str, Any] | None = None
    score: Number | None = None


class GivenDocument(_DocumentFields):
    """A document that comes with a request."""

    text: str


class StoredDocument(_DocumentFields):
    """A document whose text was uploaded before; `file` is the `id` in the response of /v1/read."""

    file: str


Documents = list[str | GivenDocument]


class CompressionFields(CompressionOptions):
    """The options of a compression. An option that is absent or null has the value of the server's own settings."""

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
        """The options that were given."""
        return {name: getattr(self, name) for name in CompressionOptions.model_fields if name in self.model_fields_set}


def _question(given: Any) -> Any:
    """The text of a question that is given as messages or content parts."""
    question = None if isinstance(given, str) else question_of(given)
    return given if question is None else question


Question = Annotated[str, BeforeValidator(_question)]


class CompressRequest(CompressionFields):
    """Documents, and the question that decides what is kept of them."""

    documents: list[str | GivenDocument | StoredDocument]
    query: Question
    top_k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Split the documents into chunks first, and compress only so many that share most with the question."""
    chunk_chars: Annotated[int, Field(strict=True, ge=1, le=10**6)] | None = None
    with_units: Flag = False
    """Tell each unit's importance."""
    stream: Flag = False
    """Send events: the progress of the reading, then the compression."""


class RerankText(BaseModel):
    """A text as rerank APIs have it; other fields of a document are ignored."""

    model_config = ConfigDict(extra="ignore")
    text: str
    title: str | None = None


class RerankRequest(Body):
    """Documents to be put into the order of their relevance to a question.

    The common form of Cohere's, Jina's and litellm's APIs. `max_chunks_per_doc` and `priority` are accepted and have no
    effect here: a document is read whole, or its first `max_tokens_per_doc` tokens.
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
        """The query's text."""
        return self.query if isinstance(self.query, str) else self.query.text

    def given(self) -> list[str | GivenDocument]:
        """The documents as other requests have them."""
        return [
            one if isinstance(one, str) else GivenDocument(text=one.text, title=one.title) for one in self.documents
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
    """What is left of one document, or of one chunk of it; spans are character ranges in the document."""

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
    """What was kept, and the chat from which a model can answer."""

    object: Literal["compression"] = "compression"
    query: str
    draft: str
    draft_seconds: float
    budget_tokens: int
    tokens_before: int
    tokens_after: int
    ratio: float
    over_budget: int
    """Tokens beyond the budget; above 0 only where nothing worth keeping fits and the best unit is kept whole."""
    text: str
    documents: list[CompressedText]
    messages: list[dict[str, str]]


class RerankedDocument(BaseModel):
    """A document's place among those given, and its relevance, 0 to 1; the document itself where it is asked for."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankResponse(BaseModel):
    """The documents, the most relevant first; `meta` has Cohere's figures, `usage` Jina's."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankedDocument]
    meta: dict[str, Any]
    usage: dict[str, int]


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error as OpenAI's API has it."""

    error: ErrorDetail
