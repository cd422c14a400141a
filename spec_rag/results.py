"""Results of compression and generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from spec_rag.handles import document_key, handle_of

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length", "cancelled", "repetition"]
Reason = Literal["score", "keep", "first", "last", "floor", "context", "cut", "structure", "whole"]


@dataclass(frozen=True)
class Timings:
    """Wall time of one answer in seconds; the same for all rows of a batch."""

    draft_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Sum of the three."""
        return self.draft_seconds + self.prefill_seconds + self.decode_seconds


@dataclass(frozen=True)
class PromptScore:
    """Importance of one prompt's tokens according to the draft (SpecPC).

    Attributes:
        importance: [tokens], in the draft's dtype.
        selected: int64 [kept tokens], ascending prompt positions that the target would read.
        lookahead_ids: int64 [look-ahead], the tokens that the draft wrote.
    """

    importance: Tensor
    selected: Tensor
    lookahead_ids: Tensor


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of one token of an answer.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability.
        text: the decoded token; "" without a tokenizer.
        top: the most probable tokens at its position, by descending probability.
    """

    token_id: int
    logprob: float
    text: str = ""
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """One generated answer and its cost.

    Attributes:
        text: the answer without stop strings and special tokens; "" without a tokenizer.
        output_ids: the generated ids, including an end token.
        prompt_tokens: tokens of the original prompt.
        target_prompt_tokens: tokens of it that the target read (fewer with SpecPC).
        completion_tokens: generated tokens.
        finish_reason: "stop" (end token or stop string), "length", "cancelled", or "repetition" where `spec-rag ask`
            stopped a repetition.
        kv_bytes_dense: bytes of keys and values of the target's prompt without pruning; 0 if unknown, as for a model
            behind a server.
        kv_bytes_kept: bytes of keys and values after the prefill; the same if nothing was pruned.
        selected_positions: prompt positions that the target read, or None if it read all.
        layer_positions: per layer int64 [KV heads, kept] positions in the target's prompt, -1 for heads that keep fewer
            than others; empty if nothing was pruned.
        lookahead_ids: the look-ahead that scored the cache; empty without one.
        proposed_tokens: tokens of the look-ahead that the target verified.
        accepted_tokens: proposed tokens that the target accepted; each saved one of its passes.
        timings: wall time by stage.
        logprobs: the log-probability of each of `output_ids`, or None if not requested.
    """

    text: str
    output_ids: list[int]
    prompt_tokens: int
    target_prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason = "stop"
    kv_bytes_dense: int = 0
    kv_bytes_kept: int = 0
    selected_positions: list[int] | None = None
    layer_positions: tuple[Tensor, ...] = field(default=(), repr=False)
    lookahead_ids: list[int] = field(default_factory=list)
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    timings: Timings = Timings()
    logprobs: list[TokenLogprob] | None = field(default=None, repr=False)

    @property
    def usage(self) -> dict[str, int]:
        """prompt_tokens (of the original prompt), completion_tokens and total_tokens, as in OpenAI's API."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    @property
    def stats(self) -> dict[str, Any]:
        """Costs of the answer: tokens that were read, proposed and accepted, bytes of keys and values, seconds."""
        return {
            "target_prompt_tokens": self.target_prompt_tokens,
            "lookahead_tokens": len(self.lookahead_ids),
            "proposed_tokens": self.proposed_tokens,
            "accepted_tokens": self.accepted_tokens,
            "kv_bytes_dense": self.kv_bytes_dense,
            "kv_bytes_kept": self.kv_bytes_kept,
            **asdict(self.timings),
        }

    @property
    def kept_positions(self) -> list[list[list[int]]]:
        """Kept positions per layer and KV head, ascending, the observation window included."""
        return [[[p for p in head if p >= 0] for head in layer.tolist()] for layer in self.layer_positions]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class KeptUnit:
    """A unit of a document, with its score.

    Attributes:
        start, end: character range in the document's text.
        importance: score in standard deviations, comparable within one compression; about 0 for an average unit.
        tokens: its length in the budget's tokens.
        kept: whether it was kept.
        reason: why it was kept: "score", "keep" (a pattern), "first", "last", "floor" (minimum of its document),
            "context" (of a kept neighbour), "structure" (a kept unit needs it, such as a heading or a table header),
            "cut" (the best words of a unit that did not fit), "whole" (all units fitted); None if it was dropped.
    """

    start: int
    end: int
    importance: float
    tokens: int
    kept: bool
    reason: Reason | None = None


@dataclass(frozen=True)
class CompressedDocument:
    """The compressed form of one document.

    Attributes:
        text: the kept text.
        spans: kept half-open character ranges in the original text, ascending and separate.
        source: the original document, unchanged.
        title: the document's title, or None.
        original_text: its text before compression.
        tokens_before, tokens_after: in the budget's tokens.
        units: every unit with its importance, in reading order.
    """

    text: str
    spans: list[tuple[int, int]]
    source: Any
    title: str | None
    original_text: str
    tokens_before: int
    tokens_after: int
    units: list[KeptUnit] = field(default_factory=list, repr=False)

    @property
    def ratio(self) -> float:
        """Share of the tokens that was kept, 0 to 1; 1.0 without tokens."""
        return kept_share(self.tokens_before, self.tokens_after)

    @cached_property
    def handle(self) -> str:
        """A short name of the document and its kept spans, the same in every process; see `Originals`."""
        return handle_of(document_key(self.title, self.original_text), self.spans)

    def stats(self, draft: str) -> dict[str, Any]:
        """Metadata of the compression: tokens, ratio, the draft's name, kept spans, the handle."""
        return {
            "original_tokens": self.tokens_before,
            "compressed_tokens": self.tokens_after,
            "ratio": self.ratio,
            "draft_model": draft,
            "kept_spans": [list(span) for span in self.spans],
            "handle": self.handle,
        }


@dataclass(frozen=True)
class PassageStatistics:
    """How a passage (the part of a document that the draft encodes at once) was scored.

    Attributes:
        document: index of its document among those given.
        start, end: its characters in the document's text.
        tokens: the draft's.
        read: whether the draft read it; otherwise scores, embeddings or words had put it far behind.
    """

    document: int
    start: int
    end: int
    tokens: int
    read: bool


@dataclass(frozen=True)
class CompressionData:
    """The compressed documents of one question, as data; `spec_rag.Compression` adds reports.

    Attributes:
        documents: one per input document, also if nothing was kept; in input order, or with order="relevance" by their
            best kept unit, and those without one last.
        query: the question.
        budget_tokens: maximum number of tokens.
        draft: name of the draft.
        draft_seconds: wall time of the draft without waiting for it; 0.0 if everything fitted or was encoded before.
        settings: options of scoring and selection.
        passages: how passages were scored; empty if everything fitted.
        answerable: probability that a unit answers the question, 0 to 1; None if everything fitted or the draft's
            scores are not calibrated.
        over_budget: tokens by which the kept text exceeds the budget, or a document its own. Above 0 only if no unit
            of at least average importance fits and the best one is kept whole.
    """

    documents: list[CompressedDocument]
    query: str
    budget_tokens: int
    draft: str
    draft_seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    passages: Sequence[PassageStatistics] = field(default=(), repr=False)
    over_budget: int = 0
    answerable: float | None = None

    @property
    def text(self) -> str:
        """The kept texts of the documents that have any, separated by blank lines."""
        return "\n\n".join(document.text for document in self.documents if document.text)

    @property
    def tokens_before(self) -> int:
        """Tokens of all documents, in the budget's tokens."""
        return sum(document.tokens_before for document in self.documents)

    @property
    def tokens_after(self) -> int:
        """Tokens of the kept text, in the budget's tokens."""
        return sum(document.tokens_after for document in self.documents)

    @property
    def ratio(self) -> float:
        """Share of the tokens that was kept, 0 to 1; 1.0 without tokens."""
        return kept_share(self.tokens_before, self.tokens_after)


def kept_share(before: int, after: int) -> float:
    """Share of the tokens that was kept, 0 to 1; 1.0 without tokens."""
    return after / before if before else 1.0
