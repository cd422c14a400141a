"""From what was kept back to the original: the whole document, or the kept text with its surroundings.

`Originals` remembers documents under the handles that their compressions carry; `expander` is the same as a function
for an agent, which is told what is wrong and not stopped by it. This module does not know frameworks.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spec_rag.citations import file_start
from spec_rag.errors import ConfigError, SpecRagError, UnknownHandleError
from spec_rag.handles import EXPAND as EXPAND
from spec_rag.handles import document_key, handle_of
from spec_rag.results import CompressedDocument, CompressionData, kept_share
from spec_rag.text.spans import original_spans
from spec_rag.text.units import Span, cut_at_words, kept_text, merged, touched, unit_spans
from spec_rag.utils.lru_cache import LRUCache
from spec_rag.utils.validation import check_integer

_ELLIPSIS = " … "
_BREAK = "\n"
MAX_CHARS = 20_000  # of what an agent is shown at once
_VIEWS = 1024  # of one document, for different questions and passages
_AROUND = " \t\r\n\"'`()[]{}<>.,;:"  # what a model may put around a handle

Expander = Callable[..., str]


@dataclass(frozen=True)
class Expansion:
    """What stands behind a handle.

    Attributes:
        text: the whole original, or the kept text with its surroundings and " … " where something is left out.
        spans: its character ranges in the original.
        title: the document's, or None.
        original_text: all of it.
        metadata: of the document as it was given, if it had any.
        start: where the original begins in its file, or None.
    """

    text: str
    spans: list[Span]
    title: str | None
    original_text: str = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)
    start: int | None = None

    def __str__(self) -> str:
        return self.text


@dataclass
class _Original:
    """A document, and which of its character ranges were kept, under the second half of their handles."""

    text: str
    title: str | None
    language: str
    metadata: dict[str, Any]
    start: int | None = None
    views: OrderedDict[str, list[Span]] = field(default_factory=OrderedDict)


class Originals:
    """Documents under their handles; those that were not asked for longest are forgotten first. Safe for threads.

    Copies share what is remembered. Pickled, a store arrives empty: handles are the same in every process, originals
    are not.

    Args:
        max_bytes: of the texts that are remembered.

    Raises:
        ConfigError: max_bytes is no positive integer.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        check_integer("max_bytes", max_bytes, 1)
        self._held: LRUCache[str, _Original] = LRUCache(max_bytes)

    @property
    def max_bytes(self) -> int:
        """Of the texts that are remembered. Lowering it forgets at once what is beyond the new bound."""
        return self._held.max_bytes

    @max_bytes.setter
    def max_bytes(self, given: int) -> None:
        check_integer("max_bytes", given, 1)
        self._held.max_bytes = given

    def remember(self, compression: CompressionData) -> list[str]:
        """Remember the documents of a compression.

        Returns:
            Their handles, in the compression's order; `CompressedDocument.handle` says the same.
        """
        language = str(compression.settings.get("language", "en"))
        for one in compression.documents:
            metadata = dict(getattr(getattr(one.source, "node", one.source), "metadata", None) or {})
            start = file_start(one.source, one.original_text)
            self.hold(one.original_text, one.spans, one.title, language, metadata, start)
        return [one.handle for one in compression.documents]

    def hold(
        self,
        text: str,
        spans: Sequence[Sequence[int]],
        title: str | None = None,
        language: str = "en",
        metadata: Mapping[str, Any] | None = None,
        start: int | None = None,
    ) -> str:
        """Remember one document, of which these character ranges were kept.

        Args:
            text: all of it; one of more than `max_bytes` is not remembered.
            spans: ascending.
            title: the document's, or None.
            language: in which its sentences are found, as two letters.
            metadata: what an expansion says of it besides.
            start: where the text begins in its file, or None.

        Returns:
            The handle.
        """
        key = document_key(title, text)
        with self._held.lock:
            original = self._held.get(key)
            if original is None:
                original = _Original(text, title, language, dict(metadata or {}), start)
                self._held.put(key, original, sys.getsizeof(text))
            return self._add_view(key, original, spans)

    def view(self, handle: str, spans: Sequence[Sequence[int]]) -> str | None:
        """The handle of other character ranges of a document, such as those that a second compression left of it.

        Returns:
            None where the document is not remembered.
        """
        key, _, _ = _cleaned(handle).partition("-")
        with self._held.lock:
            original = self._held.peek(key)
            return None if original is None else self._add_view(key, original, spans)

    def stats(
        self,
        document: CompressedDocument,
        draft: str,
        before: Mapping[str, Any] | None,
        ellipsis: str | None,
        metadata_tokens: int = 0,
    ) -> dict[str, Any]:
        """What became of a document, for its metadata; of one that had been compressed before, as of its first text.

        Args:
            document: what is left of it.
            draft: the draft's name.
            before: what such stats said of it when it came, or None.
            ellipsis: what stands in it where text was left out before.
            metadata_tokens: tokens that count beside its text.
        """
        stats = document.stats(draft)
        spans = None
        if before is not None and before.get("kept_spans"):
            spans = original_spans(document.original_text, before["kept_spans"], document.spans, ellipsis)
        if before is None or spans is None:
            stats["original_tokens"] += metadata_tokens
        else:
            stats["kept_spans"] = [list(span) for span in spans]
            stats["handle"] = self.view(before.get("handle", ""), spans) or stats["handle"]
            stats["original_tokens"] = before.get("original_tokens", stats["original_tokens"])
        stats["compressed_tokens"] += metadata_tokens
        stats["ratio"] = kept_share(stats["original_tokens"], stats["compressed_tokens"])
        return stats

    def expand(
        self,
        handle: str,
        context_before: int | None = None,
        context_after: int | None = None,
        lines: tuple[int, int] | None = None,
    ) -> Expansion:
        """What stands behind a handle.

        Args:
            handle: as a compression carries it.
            context_before: so many sentences before each kept piece; None for both gives the whole document.
            context_after: so many sentences after each kept piece.
            lines: first and last line that are returned, counted from 1; overrides the sentences.

        Raises:
            UnknownHandleError: nothing is remembered under it.
            ConfigError: a number is negative.
        """
        check_integer("context_before", context_before, 0, optional=True)
        check_integer("context_after", context_after, 0, optional=True)
        if lines is not None and not 1 <= lines[0] <= lines[1]:
            raise ConfigError(f"lines={lines!r}: give the first and the last line, counted from 1.")
        key, _, view = _cleaned(handle).partition("-")
        with self._held.lock:
            found = self._held.get(key)
            if found is not None:
                spans = found.views.get(view)
        if found is None:
            raise UnknownHandleError(
                f"There is no document with the handle {handle!r:.80}. A handle looks like 'q3k7m2nd5xza-h4t2', stands "
                "beside each shortened document, and must be copied exactly. The originals that were not used for the "
                "longest time are gone: call the tool that returned the text again."
            )
        text = found.text
        if lines is not None:
            wanted = [_line_range(text, *lines)]
        elif (context_before is None and context_after is None) or not spans:
            wanted = [(0, len(text))]
        else:
            wanted = _surroundings(text, spans, found.language, context_before or 0, context_after or 0)
        whole_lines = lines is not None or wanted == [(0, len(text))]
        shown = text[slice(*wanted[0])] if whole_lines else kept_text(text, wanted, _ELLIPSIS)
        return Expansion(shown, wanted, found.title, text, found.metadata, found.start)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, handle: object) -> bool:
        return isinstance(handle, str) and _cleaned(handle).partition("-")[0] in self._held

    def __copy__(self) -> Originals:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Originals:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Originals, (self.max_bytes,)

    def _add_view(self, key: str, original: _Original, spans: Sequence[Sequence[int]]) -> str:
        handle = handle_of(key, spans)
        view = handle.partition("-")[2]
        original.views[view] = [(start, end) for start, end in spans]
        original.views.move_to_end(view)  # one that is remembered again is as new as any
        while len(original.views) > _VIEWS:
            original.views.popitem(last=False)
        return handle


def expander(originals: Originals, max_chars: int | None = MAX_CHARS) -> Expander:
    """A function from a handle to text, for an agent: what is wrong is said in what it returns.

    Its name and docstring are made for a model to read.

    Args:
        originals: where documents are remembered.
        max_chars: longer texts are cut there, and the agent is told; None cuts none.

    Raises:
        ConfigError: max_chars is no positive integer.
    """
    check_integer("max_chars", max_chars, 1, optional=True)

    def expand_document(
        handle: str, context_before: int | None = None, context_after: int | None = None, lines: str | None = None
    ) -> str:
        """Get the original of a shortened text back by its handle, where what was left out is needed.

        Args:
            handle: the handle, copied exactly.
            context_before: how many sentences before each kept piece to show. Leave both out for the whole text.
            context_after: how many sentences after each kept piece to show.
            lines: show only these lines, such as "40-51".
        """
        try:
            found = originals.expand(handle, context_before, context_after, _lines_of(lines))
        except SpecRagError as error:
            return f"Error: {error}"
        text = found.text
        if max_chars is not None and len(text) > max_chars:
            start, end = cut_at_words(text, (0, len(text)), max_chars)[0]
            text = (
                f"{text[start:end]} …\n(Cut: {end - start} of {len(text)} characters, {text.count(_BREAK, 0, end) + 1} "
                f"of {text.count(_BREAK) + 1} lines. Give lines, or context_before and context_after, to see other "
                "parts.)"
            )
        return f"{found.title}\n\n{text}" if found.title else text

    return expand_document


def _lines_of(lines: str | None) -> tuple[int, int] | None:
    found = re.fullmatch(r"\s*L?(\d+)(?:\s*[-–:,]\s*L?(\d+))?\s*", lines or "")
    if lines is None or not lines.strip():
        return None
    if found is None:
        raise ConfigError(f"lines={lines!r:.80}: give the first and the last line, such as '40-51'.")
    return int(found.group(1)), int(found.group(2) or found.group(1))


def _line_range(text: str, first: int, last: int) -> Span:
    """Character range of lines counted from 1, without the last line's end."""
    ends = [match.start() for match in re.finditer(_BREAK, text)] + [len(text)]
    if first > len(ends):
        raise ConfigError(f"lines={first}-{last}: the text has {len(ends)} lines.")
    return ends[first - 2] + 1 if first > 1 else 0, ends[min(last, len(ends)) - 1]


def _cleaned(handle: str) -> str:
    return handle.strip(_AROUND).lower()


def _surroundings(text: str, spans: Sequence[Span], language: str, before: int, after: int) -> list[Span]:
    """The kept ranges, made wider by whole sentences."""
    units = unit_spans(text, "sentence", language)
    shown: set[int] = set()
    for i, is_kept in enumerate(touched(units, spans)):
        if is_kept:
            shown.update(range(max(i - before, 0), min(i + after + 1, len(units))))
    kept = sorted(shown)
    return merged([units[i] for i in kept], units, kept)
