"""Short names of documents and of what was kept of them, made from their content: the same in every process."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

EXPAND = "expand_document"  # the tool that takes a handle
_DOCUMENT_LETTERS, _SPANS_LETTERS = 12, 4  # five bits each: two of a million documents share a name once in two million


def document_key(title: str | None, text: str) -> str:
    """The name of a document: 12 small letters and digits."""
    return _letters(f"{title or ''}\0{text}", _DOCUMENT_LETTERS)


def handle_of(key: str, spans: Sequence[Sequence[int]]) -> str:
    """The name of these character ranges of the document with that key, such as "q3k7m2nd5xza-h4t2"."""
    return f"{key}-{_letters(','.join(f'{start}-{end}' for start, end in spans), _SPANS_LETTERS)}"


def _letters(text: str, count: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(digest).decode()[:count].lower()
