"""One streamer per row of a batch: transformers gives a streamer the tokens of all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


class RowStreamer(Protocol):
    """A streamer for one prompt."""

    @property
    def begun(self) -> bool:
        """Whether it has passed anything on."""
        ...

    def start(self) -> None:
        """Drop everything that was not passed on: the answer is written from its first token."""

    def put(self, value: Tensor) -> None:
        """Take the prompt first, int64 [tokens], then each token, int64 [1]."""

    def end(self) -> None:
        """Pass on the rest: the last token has been put."""


class RowsStreamer(BaseStreamer):  # type: ignore[misc]
    """Distributes the tokens of a batch; a row ends at its end token, before the batch does.

    Args:
        streamers: one per row, or None.
        ends: the end tokens.
    """

    def __init__(self, streamers: Sequence[RowStreamer | None], ends: Sequence[int]) -> None:
        self._open = {row: streamer for row, streamer in enumerate(streamers) if streamer is not None}
        for streamer in self._open.values():
            streamer.start()
        self._ends = set(ends)
        self._prompt_is_put = False

    def put(self, value: Tensor) -> None:
        """Take int64 [rows, tokens] of the prompts first, then int64 [rows] after each step."""
        for row, streamer in list(self._open.items()):
            streamer.put(value[row].reshape(-1))
            if self._prompt_is_put and int(value[row]) in self._ends:
                self._open.pop(row).end()
        self._prompt_is_put = True

    def end(self) -> None:
        """End the rows that have no end token."""
        while self._open:
            self._open.popitem()[1].end()
