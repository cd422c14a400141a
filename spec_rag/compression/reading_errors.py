"""What may go wrong in a draft that reads documents, and what a caller of `compress` can change about it.

This module does not know how documents are read.
"""

from __future__ import annotations

from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.models.error_context import error_context, ways_of_loading
from spec_rag.options.compression import CompressionConfig


def reading_error_context(
    draft: Draft, passages: int, config: CompressionConfig, index: DocumentIndex | None
) -> error_context:
    """Explains what goes wrong while the draft reads so many passages.

    Raises:
        OutOfMemoryError: memory ran out.
        NotFiniteError: the draft computed nan or inf.
    """

    def ways() -> list[str]:
        found = []
        if config.scoring == "joint":
            found.append("scoring='per_document', which reads documents piece by piece")
        elif config.cascade != "always" and passages > 1:
            found.append("cascade='always', which reads only what words and titles leave in doubt")
        if passages > 1:
            found.append(f"fewer documents at once than these, of {passages} passages")
        if index is not None and index.held_bytes:
            found.append(f"an index with memory_bytes below {index.memory_bytes}")
        return [*found, *ways_of_loading("draft", draft.model)]

    return error_context("draft", draft.name, draft.model, ways)
