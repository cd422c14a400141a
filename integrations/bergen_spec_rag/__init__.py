"""A context processor of BERGEN's shape (Rau et al. 2024, arXiv 2407.01102): shorter documents for each question.

In BERGEN's `config/context_processor/spec_rag.yaml`:

    init_args:
      _target_: bergen_spec_rag.SpecPCContextProcessor
      ratio: 0.25
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spec_rag import compress

__all__ = ["SpecPCContextProcessor"]


class SpecPCContextProcessor:
    """Compresses the documents of each question together.

    Args:
        **settings: keywords of `spec_rag.compress`: ratio, max_tokens, draft, index, embedder, preset ...
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        size = next((f"{name}{settings[name]}" for name in ("ratio", "max_tokens", "coverage") if name in settings), "")
        self.name = f"spec_rag_{size or 'ratio0.25'}"

    def process(
        self, contexts: Sequence[Sequence[str]], queries: Sequence[str]
    ) -> tuple[list[list[str]], dict[str, float]]:
        """What is kept of each question's documents, in their order, and what it cost.

        Args:
            contexts: per question its documents' texts.
            queries: the questions.

        Returns:
            As many texts per question as there were, "" for a document of which nothing was kept; and the mean over
            questions of `context_compression`, the share of characters that is gone in percent, and `draft_seconds`.
        """
        found, gone, seconds = [], [], []
        for documents, query in zip(contexts, queries, strict=True):
            kept = compress(list(documents), query, **self.settings)
            found.append([document.text for document in kept.documents])
            before, after = sum(map(len, documents)), sum(map(len, found[-1]))
            gone.append(100 * (before - after) / before if before else 0.0)
            seconds.append(kept.draft_seconds)
        count = max(len(found), 1)
        return found, {"context_compression": sum(gone) / count, "draft_seconds": sum(seconds) / count}
