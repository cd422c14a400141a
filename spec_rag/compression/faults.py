"""What may go wrong in a draft that reads documents, and what a caller of `compress` can change about it.

This module does not know how documents are read.
"""

from __future__ import annotations

from spec_rag.compression.draft import Draft
from spec_rag.compression.index import DocumentIndex
from spec_rag.config import CompressionConfig
from spec_rag.models.faults import explained, ways_of_loading


def explained_reading(draft: Draft, passages: int, config: CompressionConfig, index: DocumentIndex | None) -> explained:
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

    return explained("draft", draft.name, draft.model, ways)
