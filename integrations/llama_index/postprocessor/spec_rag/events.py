"""Instrumentation event of SpecPCCompressor."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent


class CompressionEvent(BaseEvent):
    """Retrieved nodes were compressed.

    Attributes:
        query: the question.
        nodes_before, nodes_after: number of nodes.
        tokens_before, tokens_after: tokens of their text.
        budget_tokens: maximum tokens.
        draft: name of the draft.
        draft_seconds: wall time of the draft; 0.0 if it did not run.
        seconds: total wall time.
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
        """Name of the event."""
        return "CompressionEvent"
