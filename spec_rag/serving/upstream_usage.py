"""Token counts of an upstream's answers, read from the bytes that pass through."""

from __future__ import annotations

import json
from typing import Any

_MOST_BYTES = 1 << 20  # of a line, or of an answer in one piece, that is looked into


class UsageReader:
    """Reads the usage of one answer.

    Attributes:
        prompt_tokens, completion_tokens: as the upstream's usage counts them. For a stream without usage, the pieces of
            text stand for completion tokens, and prompt tokens are 0.

    Args:
        is_events: whether the answer is a stream of events.
    """

    def __init__(self, is_events: bool) -> None:
        self._is_events = is_events
        self._held = b""
        self._pieces = 0
        self._usage: dict[str, Any] = {}
        self._too_long = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return _count(self._usage.get("prompt_tokens"))

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer."""
        return _count(self._usage.get("completion_tokens")) if self._usage else self._pieces

    def feed(self, piece: bytes) -> None:
        """Take in bytes of the body."""
        self._held += b"" if self._too_long else piece
        if self._is_events:
            *lines, self._held = self._held.split(b"\n")
            for line in lines:
                self._read_event(line)
        if len(self._held) > _MOST_BYTES:
            self._held, self._too_long = b"", True

    def end(self) -> None:
        """Take in that the body is complete."""
        if self._is_events:
            self._read_event(self._held)
        else:
            self._note(self._held)

    def _read_event(self, line: bytes) -> None:
        kind, _, data = line.partition(b":")
        if kind == b"data" and data.strip() != b"[DONE]":
            self._note(data)

    def _note(self, data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        if isinstance(found.get("usage"), dict):
            self._usage = found["usage"]
        choices = found.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            self._pieces += self._is_events and _has_text(choice)


def _has_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return isinstance(text, str) and bool(text)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
