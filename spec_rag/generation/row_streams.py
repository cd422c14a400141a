"""The tokens of a batch handed to one streamer per row as they are generated.

transformers tells a streamer of a whole batch at once; this module takes it apart. It does not know text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


class RowStreamer(Protocol):
    """A streamer of transformers for a single prompt, which says whether it has handed anything on."""

    @property
    def begun(self) -> bool:
        """Whether it has handed anything on."""
        ...

    def start(self) -> None:
        """Forget what was put and not handed on: the answer is written from its first token."""

    def put(self, value: Tensor) -> None:
        """Take the prompt first, int64 [tokens], then one token after the other, int64 [1]."""

    def end(self) -> None:
        """The last token has been put."""


class CountingStreamer:
    """Hands tokens on to another streamer, and counts those of the answer.

    Args:
        streamer: what they are handed on to.
        told: called with each change of the number of tokens.
    """

    def __init__(self, streamer: RowStreamer, told: Callable[[int], None]) -> None:
        self._streamer = streamer
        self._told = told
        self._counted = 0
        self._prompt_is_put = False

    @property
    def begun(self) -> bool:
        """Whether the streamer has handed anything on."""
        return self._streamer.begun

    def start(self) -> None:
        """Count from 0 again: the answer is written from its first token."""
        self._told(-self._counted)
        self._counted, self._prompt_is_put = 0, False
        self._streamer.start()

    def put(self, value: Tensor) -> None:
        """Take the prompt first, int64 [tokens], then one token after the other, int64 [1]."""
        if self._prompt_is_put:
            self._counted += value.numel()
            self._told(value.numel())
        self._prompt_is_put = True
        self._streamer.put(value)

    def end(self) -> None:
        """The last token has been put."""
        self._streamer.end()


class RowsStreamer(BaseStreamer):  # type: ignore[misc]
    """One streamer per row of a batch; a row ends with its end token, before the batch does.

    Args:
        streamers: one per row, None for a row that nobody follows.
        ends: the end tokens.
    """

    def __init__(self, streamers: Sequence[RowStreamer | None], ends: Sequence[int]) -> None:
        for streamer in streamers:
            if streamer is not None:
                streamer.start()
        self._open = dict(enumerate(streamers))
        self._ends = set(ends)
        self._prompt_is_put = False

    def put(self, value: Tensor) -> None:
        """int64 [rows, tokens] of the prompts first, then int64 [rows] after each step."""
        for row, streamer in list(self._open.items()):
            if streamer is None:
                continue
            streamer.put(value[row].reshape(-1))
            if self._prompt_is_put and int(value[row]) in self._ends:
                streamer.end()
                self._open[row] = None
        self._prompt_is_put = True

    def end(self) -> None:
        """End the rows that have not ended by themselves."""
        for row, streamer in self._open.items():
            if streamer is not None:
                streamer.end()
            self._open[row] = None
