"""Passages read by the draft, or found in an index; and an index filled before anybody asks.

What is already there is skipped, so an interrupted run goes on where it stopped. This module does not know questions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spec_rag import cancellation
from spec_rag.compression.draft import Draft
from spec_rag.compression.draft_reader import DocumentReader, reader_for
from spec_rag.compression.index import DocumentIndex
from spec_rag.compression.passages import EncodedPassage, Passage, split_passages
from spec_rag.config import CompressionConfig
from spec_rag.errors import IndexNotWrittenError
from spec_rag.text.documents import Document, as_documents
from spec_rag.text.units import unit_spans

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
        config: settings of the later questions; unit, likelihood and calibration decide what is stored.
        tell: called with the number of passages done and in all.
        cancelled: an event that ends the run when it is set; what was read until then is stored.

    Raises:
        IndexNotWrittenError: a passage cannot be stored, as on a full disk; those before it are.
        CancelledError: `cancelled` was set.
    """
    config = config or CompressionConfig()
    given = as_documents(documents)
    draft = Draft.of(draft, config=config)
    units = [unit_spans(document.text, config.unit, config.language) for document in given]
    passages = split_passages(draft.tokenizer, given, units)
    reader = reader_for(draft, config)
    keys = [passage_key(reader, index, given[p.document], p) for p in passages]
    missing = [i for i, key in enumerate(keys) if key not in index]
    done = len(passages) - len(missing)
    tell(done, len(passages))
    for start in range(0, len(missing), _PASSAGES_AT_ONCE):
        part = missing[start : start + _PASSAGES_AT_ONCE]
        with draft.lock.hold(cancelled) as mine:
            if not mine:
                cancellation.check(cancelled)
            encode_passages(reader, [passages[i] for i in part], given, index, cancelled)
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


def encode_passages(
    reader: DocumentReader,
    passages: Sequence[Passage],
    documents: Sequence[Document],
    index: DocumentIndex | None,
    cancelled: threading.Event | None = None,
) -> list[EncodedPassage]:
    """Read the passages that the index does not know, and let it know them.

    Raises:
        CancelledError: `cancelled` was set.
    """
    if index is None:
        return reader.encode([p.ids for p in passages], cancelled)
    keys = [passage_key(reader, index, documents[p.document], p) for p in passages]
    layers, heads, _, dim = reader.prefix.keys.shape
    found = [index.get(key, (layers, heads, len(p.ids), dim)) for key, p in zip(keys, passages, strict=True)]
    missing = [i for i, passage in enumerate(found) if passage is None]
    for i, encoded in zip(missing, reader.encode([passages[i].ids for i in missing], cancelled), strict=True):
        # as the index gives it back, so that this question sees what later ones will
        found[i] = index.put(keys[i], encoded)
    return [passage for passage in found if passage is not None]


def passage_key(reader: DocumentReader, index: DocumentIndex, document: Document, passage: Passage) -> str:
    """The address of an encoded passage: everything that its keys and values depend on."""
    return index.key(
        document.text[passage.start : passage.end],
        document.title or "",
        reader.fingerprint,
        str(reader.draft.model.dtype),
        str(reader.depth),
        repr(reader.frame.head),
    )
