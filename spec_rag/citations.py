"""Where the kept text of documents stands: quotations with character ranges, in the file where that is known.

This module knows texts, spans and the attributes of documents; it does not know models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from spec_rag.errors import UnknownHandleError
from spec_rag.results import CompressedDocument
from spec_rag.text.spans import ELLIPSES, Span, mapped_spans, original_spans
from spec_rag.text.units import kept_text, unit_structure

_NUMBERED = re.compile(r"\ASource \d+:\n")  # what CitationQueryEngine puts before a chunk


class Store(Protocol):
    """What finds originals by their handles, such as `Originals`."""

    def expand(self, handle: str) -> Any:
        """The original: its `original_text`, `title` and `start`; UnknownHandleError where it is not remembered."""


@dataclass(frozen=True)
class Citation:
    """A kept piece of a document's text.

    Attributes:
        text: the piece, exactly `file[start:end]` or `document[start:end]`.
        start, end: its characters, half-open: in the file where the document's place in it is known, else in the
            document's text before compression.
        in_file: whether they are of the file.
        document: index of the document among those given.
        title: the document's, or None.
        source: what its metadata says of its file: `source`, `file_path` or `file_name`; None where it says nothing.
        id: the document's or node's, or None.
    """

    text: str
    start: int
    end: int
    in_file: bool
    document: int
    title: str | None
    source: str | None
    id: str | None


def citations_of(documents: Sequence[CompressedDocument]) -> list[Citation]:
    """The kept pieces of compressed documents, in the documents' order.

    A document's place in its file is LangChain's `metadata["start_index"]`, LlamaIndex's `start_char_idx`, or the
    `start` of a chunk. Of a document that was compressed before, pieces are those of its first text.
    """
    found: list[Citation] = []
    for i, one in enumerate(documents):
        text = one.original_text
        before = _stats(_metadata(one.source)) or {}
        mapped = mapped_spans(text, before["kept_spans"], one.spans) if before else None
        offset = _first_start(one.source, before) if mapped else file_start(one.source, text)
        for at, (start, end) in mapped or [(span[0], span) for span in one.spans]:
            found.append(_citation(text[at : at + end - start], start, offset, i, one.title, one.source))
    return found


def citations_in(pieces: Iterable[Any], originals: Store) -> list[Citation]:
    """The kept pieces in shortened documents or nodes, or in chunks of these, such as CitationQueryEngine's.

    Args:
        pieces: LangChain Documents or LlamaIndex nodes with the stats of a compression in their metadata.
        originals: the store of the compressor that shortened them.

    Returns:
        In the pieces' order; `document` is the piece's index. A piece that was not shortened, is no longer remembered,
        or says something else than its original has none.
    """
    found: list[Citation] = []
    for i, piece in enumerate(pieces):
        stats = _stats(_metadata(piece))
        try:
            original = originals.expand(str(stats["handle"])) if stats else None
        except (UnknownHandleError, KeyError):
            continue
        if stats is None or original is None:
            continue
        spans = [(int(start), int(end)) for start, end in stats["kept_spans"]]
        for start, end in _spans_in(_text(piece), original.original_text, spans):
            text = original.original_text[start:end]
            found.append(_citation(text, start, original.start, i, original.title, piece))
    return found


def file_start(source: Any, text: str) -> int | None:
    """Where a document's text begins in its file, or None where that is not known.

    Args:
        source: the document as it was given.
        text: its text; offsets of another text are not believed.
    """
    index = _metadata(source).get("start_index")
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return index
    node = getattr(source, "node", source)
    for first, last in (("start_char_idx", "end_char_idx"), ("start", "end")):
        start, end = getattr(node, first, None), getattr(node, last, None)
        if isinstance(start, int) and isinstance(end, int) and end - start == len(text):
            return start
    return None


def _first_start(source: Any, before: Mapping[str, Any]) -> int | None:
    """Where the first text of a document begins that was compressed before: its node has the place of what was kept."""
    node = getattr(source, "node", source)
    start = getattr(node, "start_char_idx", None)
    return start - int(before["kept_spans"][0][0]) if isinstance(start, int) else file_start(source, "")


def _spans_in(text: str, original: str, spans: Sequence[Span]) -> list[Span]:
    """Which ranges of the original a chunk of its kept text shows; none where the chunk is not part of it."""
    chunk = _NUMBERED.sub("", text).strip()
    for ellipsis in ELLIPSES if chunk else ():
        kept = kept_text(original, spans, ellipsis, unit_structure(original, "sentence") if ellipsis is None else None)
        at = kept.find(chunk)
        if at >= 0:
            return original_spans(kept, spans, [(at, at + len(chunk))], ellipsis) or []
    return []


def _citation(text: str, start: int, offset: int | None, index: int, title: str | None, source: Any) -> Citation:
    metadata = _metadata(source)
    place = next((metadata[name] for name in ("source", "file_path", "file_name") if metadata.get(name)), None)
    node = getattr(source, "node", source)
    identity = getattr(node, "node_id", None) or getattr(node, "id", None)
    begin = start + (offset or 0)
    return Citation(
        text=text,
        start=begin,
        end=begin + len(text),
        in_file=offset is not None,
        document=index,
        title=title,
        source=None if place is None else str(place),
        id=None if identity is None else str(identity),
    )


def _metadata(source: Any) -> Mapping[str, Any]:
    found = getattr(getattr(source, "node", source), "metadata", None)
    return found if isinstance(found, Mapping) else {}


def _text(piece: Any) -> str:
    node = getattr(piece, "node", piece)
    return str(node.get_content() if hasattr(node, "get_content") else getattr(node, "page_content", ""))


def _stats(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a compression wrote into the metadata, nested or flat; None where it kept nothing or there was none."""
    nested = metadata.get("spec_pc")
    if isinstance(nested, Mapping) and nested.get("kept_spans"):
        return dict(nested)
    flat = metadata.get("spec_pc_kept_spans")
    if not isinstance(flat, str) or not flat:
        return None
    spans = [[int(place) for place in span.split("-")] for span in flat.split(",")]
    return {"kept_spans": spans, "handle": metadata.get("spec_pc_handle")}
