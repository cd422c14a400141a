"""Instrumentation event of SpecKVLLM."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent


class KVDropEvent(BaseEvent):
    """An answer was generated from a shortened prompt, a pruned cache, or both.

    Attributes:
        draft, target: names of the models.
        prompt_tokens: tokens of the prompt before compression.
        target_prompt_tokens: tokens that the target read.
        kv_bytes_dense, kv_bytes_kept: bytes of the prompt's keys and values before and after pruning.
        draft_seconds: wall time of the draft.
    """

    draft: str
    target: str
    prompt_tokens: int
    target_prompt_tokens: int
    kv_bytes_dense: int
    kv_bytes_kept: int
    draft_seconds: float

    @classmethod
    def class_name(cls) -> str:
        """Name of the event."""
        return "KVDropEvent"
