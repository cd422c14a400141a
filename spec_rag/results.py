"""What the two jobs give back: numbers with their units in the names, and text.

This module does not know how results are shown; `report` does.
"""

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
    """Seconds of wall time of one answer. In a batch all rows share them."""

    draft_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """All of them together."""
        return self.draft_seconds + self.prefill_seconds + self.decode_seconds


@dataclass(frozen=True)
class PromptScore:
    """What the draft thinks of one prompt (SpecPC).

    Attributes:
        importance: [tokens], in the draft's dtype.
        selected: int64 [kept tokens], ascending prompt positions that the target would read.
        lookahead_ids: int64 [look-ahead], what the draft wrote.
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
        text: the token alone, decoded; "" without a tokenizer.
        top: the most probable tokens at its place, the most probable first.
    """

    token_id: int
    logprob: float
    text: str = ""
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """One generated answer and what it cost.

    Attributes:
        text: the answer, without stop strings and special tokens; "" when there is no tokenizer.
        output_ids: the generated ids, end token included where one was generated.
        prompt_tokens: tokens of the prompt as given.
        target_prompt_tokens: tokens of it that the target read (fewer with SpecPC).
        completion_tokens: generated tokens.
        finish_reason: "stop" (end token or stop string), "length", "cancelled", or "repetition" where `spec-rag ask`
            ended an answer that repeated itself.
        kv_bytes_dense: bytes of keys and values that the target's prompt holds unpruned; 0 where they are not known,
            as of a model behind a server.
        kv_bytes_kept: bytes of keys and values that it did hold after the prefill; the same where nothing was pruned.
        selected_positions: prompt positions that the target read, or None if it read all.
        layer_positions: per layer int64 [KV heads, kept] positions in the target's prompt, -1 where a head keeps
            fewer than another; empty if nothing was pruned.
        lookahead_ids: the look-ahead that scored the cache; empty if there was none.
        proposed_tokens: tokens of the look-ahead that were checked as guesses of the answer.
        accepted_tokens: those of them that the target wrote as well; each saved a pass of the target.
        timings: where the seconds went.
        logprobs: the log-probability of each of `output_ids`, or None where none was asked for.
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
        """prompt_tokens, completion_tokens and total_tokens, as APIs count them: the prompt as it was given."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    @property
    def figures(self) -> dict[str, Any]:
        """What the answer cost beside its tokens: what was pruned, bytes of keys and values, seconds."""
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
    """A unit of a document with its score.

    Attributes:
        start, end: character range in the document's text.
        importance: score of the unit, comparable within one compression: about 0 for an average unit, and in about its
            standard deviations.
        tokens: its length in the budget's tokens.
        kept: whether it survived.
        reason: why: its "score", or what holds it: "keep" (a pattern), "first", "last", "floor" (of its document),
            "context" (of a kept neighbour), "structure" (a kept unit needs it, such as a heading or a table header),
            "cut" (the best words of a unit that did not fit), "whole" (everything fitted); None where it was dropped.
    """

    start: int
    end: int
    importance: float
    tokens: int
    kept: bool
    reason: Reason | None = None


@dataclass(frozen=True)
class CompressedDocument:
    """What is left of one document.

    Attributes:
        text: the kept text.
        spans: kept character ranges in the original text, ascending, not touching each other.
        source: the document as it was given, unchanged.
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
        """Share of the tokens that was kept, 0 to 1; 1.0 for no tokens at all."""
        return kept_share(self.tokens_before, self.tokens_after)

    @cached_property
    def handle(self) -> str:
        """A short name of the document and of what was kept of it, the same in every process; see `Originals`."""
        return handle_of(document_key(self.title, self.original_text), self.spans)

    def figures(self, draft: str) -> dict[str, Any]:
        """What became of the document, for its metadata: tokens, ratio, the draft's name, kept spans, its handle."""
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
    """What was looked at of a passage, the piece of a document that the draft reads at once.

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
    """The documents of one question after compression, as data; `spec_rag.Compression` adds how they are shown.

    Attributes:
        documents: one per input document, also where nothing was kept; in the input's order, or with
            order="relevance" the one with the best kept unit first, and those of which nothing was kept last.
        query: the question.
        budget_tokens: the most that was allowed.
        draft: name of the draft.
        draft_seconds: wall time of the draft, without the wait for it; 0.0 when everything fitted, or was read before.
        settings: how it was scored and selected.
        passages: what the draft looked at; empty when everything fitted.
        answerable: how likely it is that any unit answers the question, 0 to 1; None where everything fitted or the
            draft's scores are not calibrated.
        over_budget: tokens by which the kept text exceeds the budget, or a document its own. Above 0 only where no
            unit of at least average importance fits and the best one is kept whole.
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
        """Of all documents, in the budget's tokens."""
        return sum(document.tokens_before for document in self.documents)

    @property
    def tokens_after(self) -> int:
        """Of what was kept, in the budget's tokens."""
        return sum(document.tokens_after for document in self.documents)

    @property
    def ratio(self) -> float:
        """Share of the tokens that was kept, 0 to 1; 1.0 for no tokens at all."""
        return kept_share(self.tokens_before, self.tokens_after)


def kept_share(before: int, after: int) -> float:
    """Share of the tokens that was kept, 0 to 1; 1.0 for no tokens at all."""
    return after / before if before else 1.0
