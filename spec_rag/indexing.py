"""Reading documents into an index before anybody asks.

What is already there is skipped, so an interrupted run goes on where it stopped. This module does not know questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spec_rag.config import CompressionConfig
from spec_rag.document_index import DocumentIndex
from spec_rag.documents import as_documents
from spec_rag.errors import IndexNotWrittenError
from spec_rag.evidence import encode_passages, passage_key, reader_for, split_passages
from spec_rag.models import LoadedModel
from spec_rag.units import unit_spans

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
    loaded: LoadedModel,
    index: DocumentIndex,
    config: CompressionConfig | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Indexed:
    """Read documents into an index, so that later questions about them need not.

    Args:
        documents: as for `compress`.
        loaded: the draft; later questions must use the same one.
        index: where the passages go.
        config: settings of the later questions; unit and likelihood decide what is stored.
        tell: called with the number of passages done and in all.

    Raises:
        IndexNotWrittenError: a passage cannot be stored, as on a full disk; those before it are.
    """
    config = config or CompressionConfig()
    given = as_documents(documents)
    assert loaded.tokenizer is not None
    units = [unit_spans(document.text, config.unit, config.language) for document in given]
    passages = split_passages(loaded.tokenizer, given, units)
    reader = reader_for(loaded, config)
    keys = [passage_key(loaded, reader, index, given[p.document], p) for p in passages]
    missing = [i for i, key in enumerate(keys) if key not in index]
    done = len(passages) - len(missing)
    tell(done, len(passages))
    for start in range(0, len(missing), _PASSAGES_AT_ONCE):
        part = missing[start : start + _PASSAGES_AT_ONCE]
        with loaded.lock.hold():
            encode_passages(loaded, reader, [passages[i] for i in part], given, index)
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
        sum(len(p.tokens.ids) for p in passages),
        sum(index.stored_bytes(key) for key in keys),
    )
