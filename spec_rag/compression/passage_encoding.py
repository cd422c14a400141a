"""Passages read by the draft, or found in an index; and an index filled before anybody asks.

What is already there is skipped, so an interrupted run goes on where it stopped. This module does not know questions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoder import PassageEncoder, encoder_for
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passages import EncodedPassage, Passage, split_passages
from spec_rag.compression.reading_errors import reading_error_context
from spec_rag.errors import IndexNotWrittenError
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document, as_documents
from spec_rag.text.units import unit_spans
from spec_rag.utils import cancellation

_PASSAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Indexed:
    """What one run has read: passages in all, those that were new, the tokens of all, and their bytes on disk."""

    passages: int
    new_passages: int
    tokens: int
    stored_bytes: int


def index_documents(
    documents: Any,
    draft: Any,
    index: DocumentIndex,
    config: CompressionConfig | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    cancelled: threading.Event | None = None,
) -> Indexed:
    """Read documents into an index, so that later questions about them need not.

    Args:
        documents: as for `compress`.
        draft: as for `compress`; later questions must use the same one.
        index: where the passages go.
        config: settings of the later questions; unit, language and calibration decide what is stored.
        tell: called with the number of passages done and in all.
        cancelled: an event that ends the run when it is set; what was read until then is stored.

    Raises:
        IndexNotWrittenError: a passage cannot be stored, as on a full disk; those before it are.
        CancelledError: `cancelled` was set.
        OutOfMemoryError, NotFiniteError: the draft ran out of memory, or computed nan or inf; the next run
            goes on from there.
    """
    config = config or CompressionConfig()
    given = as_documents(documents)
    draft = Draft.of(draft, config=config)
    reader = encoder_for(draft, config)
    passages, keys = _addresses(given, draft, reader, index, config)
    missing = [i for i, key in enumerate(keys) if key not in index]
    done = len(passages) - len(missing)
    tell(done, len(passages))
    for start in range(0, len(missing), _PASSAGES_AT_ONCE):
        part = missing[start : start + _PASSAGES_AT_ONCE]
        with draft.lock.hold(cancelled) as mine:
            if not mine:
                cancellation.check(cancelled)
            with reading_error_context(draft, len(part), config, index):
                read_passages(reader, [passages[i] for i in part], given, index, cancelled)
        if index.folder is not None and not all(index.stored_bytes(keys[i]) for i in part):
            stored = sum(index.stored_bytes(key) > 0 for key in keys)
            raise IndexNotWrittenError(
                f"folder={str(index.folder)!r}: {stored} of {len(keys)} passages are stored, and the next cannot be "
                f"written ({index.write_error}). Make room or give another folder; a new run goes on from there."
            ) from index.write_error
        done += len(part)
        tell(done, len(passages))
    return Indexed(
        len(passages),
        len(missing),
        sum(len(p.ids) for p in passages),
        sum(index.stored_bytes(key) for key in keys),
    )


def indexed_passages(
    documents: Any, draft: Any, index: DocumentIndex, config: CompressionConfig | None = None
) -> tuple[int, int]:
    """Passages of the documents that are on the disk already, and all of them; nothing is read or stored.

    Args:
        documents, draft, index, config: as for `index_documents`.
    """
    config = config or CompressionConfig()
    given = as_documents(documents)
    draft = Draft.of(draft, config=config)
    _, keys = _addresses(given, draft, encoder_for(draft, config), index, config)
    return sum(index.stored_bytes(key) > 0 for key in keys), len(keys)


def _addresses(
    documents: Sequence[Document], draft: Draft, reader: PassageEncoder, index: DocumentIndex, config: CompressionConfig
) -> tuple[list[Passage], list[str]]:
    """The passages of the documents, and the address of each in the index."""
    units = [unit_spans(document.text, config.unit, config.language) for document in documents]
    passages = split_passages(draft.tokenizer, documents, units)
    return passages, [passage_key(reader, index, documents[p.document], p) for p in passages]


def read_passages(
    reader: PassageEncoder,
    passages: Sequence[Passage],
    documents: Sequence[Document],
    index: DocumentIndex | None,
    cancelled: threading.Event | None = None,
) -> list[EncodedPassage]:
    """Passages as a question sees them: taken from the index, or encoded and then stored there.

    Raises:
        CancelledError: `cancelled` was set.
    """
    if index is None:
        return reader.encode([p.ids for p in passages], cancelled)
    first, last = reader.layers
    _, heads, _, dim = reader.prefix.keys.shape
    keys = [passage_key(reader, index, documents[p.document], p) for p in passages]
    found = [
        index.get(key, (last - first, heads, len(passage.ids), dim), first)
        for key, passage in zip(keys, passages, strict=True)
    ]
    missing = [i for i, encoded in enumerate(found) if encoded is None]
    for i, encoded in zip(missing, reader.encode([passages[i].ids for i in missing], cancelled), strict=True):
        found[i] = index.put(keys[i], encoded)  # as the index returns it to later questions
    return [encoded for encoded in found if encoded is not None]


def passage_key(reader: PassageEncoder, index: DocumentIndex, document: Document, passage: Passage) -> str:
    """The address of an encoded passage: everything that its keys and values depend on."""
    first, last = reader.layers
    return index.key(
        document.text[passage.start : passage.end],
        document.title or "",
        reader.fingerprint,
        str(reader.draft.model.dtype),
        f"{first}-{last}",
        repr(reader.frame.head),
    )
