"""Texts of files that clients uploaded once, so that later requests name them instead of sending them again."""

from __future__ import annotations

from collections.abc import Sequence

from spec_rag.answering.conversation import WriteOnceCache, text_bytes
from spec_rag.compression.encoding_cache import content_address
from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.document_schemas import RequestDocument, StoredDocument

_MAX_FILES = 4096


class StoredFiles:
    """LRU cache of file texts. A text is visible to the client that uploaded it alone.

    Args:
        max_bytes: bound on all texts together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._texts: WriteOnceCache[str] = WriteOnceCache(_MAX_FILES, max_bytes, text_bytes)

    def put(self, client: str, text: str) -> str:
        """Store a text; return the name under which `get` finds it. The same text has the same name."""
        name = f"file-{content_address(client, text)[:32]}"
        self._texts.replace((client, name), text)
        return name

    def get(self, client: str, name: str) -> str:
        """The text of that name.

        Raises:
            ApiError: 404, if it was evicted, was stored by another process, or never existed.
        """
        text = self._texts.get((client, name))
        if text is None:
            message = f"documents: file {name!r:.80} is not stored here (any more): upload it again, or send its text."
            raise ApiError(404, message, param="documents", code="file_not_found")
        return text

    def resolve(
        self, client: str, documents: Sequence[str | RequestDocument | StoredDocument]
    ) -> list[str | RequestDocument]:
        """The documents of a request, with texts in place of the names of files.

        Raises:
            ApiError: see `get`.
        """
        return [
            RequestDocument(text=self.get(client, document.file), **document.model_dump(exclude={"file"}))
            if isinstance(document, StoredDocument)
            else document
            for document in documents
        ]
