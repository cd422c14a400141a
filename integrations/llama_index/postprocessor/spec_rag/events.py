"""What SpecPCCompressor tells LlamaIndex's instrumentation."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent


class CompressionEvent(BaseEvent):
    """Retrieved nodes were compressed.

    Attributes:
        query: the question.
        nodes_before, nodes_after: how many nodes came in and went on.
        tokens_before, tokens_after: of their text, in the budget's tokens.
        budget_tokens: the most that was allowed.
        draft: name of the draft.
        draft_seconds: wall time of the draft; 0.0 when everything fitted and it was not asked.
        seconds: wall time of it all.
    """

    query: str
    nodes_before: int
    nodes_after: int
    tokens_before: int
    tokens_after: int
    budget_tokens: int
    draft: str
    draft_seconds: float
    seconds: float

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex names the event."""
        return "CompressionEvent"
