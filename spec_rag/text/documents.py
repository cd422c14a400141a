"""Documents, converted from strings, (title, text) pairs, LangChain Documents and LlamaIndex nodes.

Types are recognised by their attributes, so neither framework is imported. The title of the last two is
`metadata["title"]`, else the name of the file or page in `file_name`, `source` or `file_path`. Inputs are not mutated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from spec_rag.errors import ConfigError

_TITLE_CHARS = 200  # of a file name that serves as a title
_VECTOR_NAME = re.compile("embed|vector", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One document.

    Args:
        text: the text; may be empty.
        title: title that the draft reads before the text, or None.
        id: identity, passed through.
        metadata: passed through.
        score: relevance by the retriever (higher is better), or None. A value that is not a number becomes NaN;
            `compress` ignores scores that are not finite.
        source: the object it was converted from; the Document itself if it was given as one.
    """

    text: str
    title: str | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None
    source: Any = field(default=None, repr=False, compare=False)


def with_title(title: str | None, text: str, between: str = ". ") -> str:
    """The text, preceded by its title if it has one."""
    return f"{title}{between}{text}" if title else text


def as_document(given: Any) -> Document:
    """Convert any supported kind of document.

    Raises:
        ConfigError: the type is not supported.
    """
    if isinstance(given, Document):
        return _with_float_score(given) if given.source is not None else _with_source(given)
    if isinstance(given, str):
        return Document(given, source=given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str):
        return Document(given[1], title=None if given[0] is None else str(given[0]), source=given)
    if hasattr(given, "page_content"):  # LangChain Document
        metadata = dict(getattr(given, "metadata", None) or {})
        return Document(
            given.page_content,
            title=_title(metadata),
            id=getattr(given, "id", None),
            metadata=metadata,
            score=_score(metadata.get("relevance_score")),
            source=given,
        )
    node = getattr(given, "node", given)  # LlamaIndex NodeWithScore or node
    if hasattr(node, "get_content") and hasattr(node, "metadata"):
        return Document(
            node.get_content(),
            title=_title(node.metadata),
            id=getattr(node, "node_id", None),
            metadata=dict(node.metadata),
            score=_score(getattr(given, "score", None)),
            source=given,
        )
    raise ConfigError(
        f"{given!r:.80} is a {type(given).__name__}: give strings, (title, text) pairs, spec_rag.Document, LangChain "
        "Documents or LlamaIndex nodes."
    )


def as_documents(given: Any) -> list[Document]:
    """Convert a list of documents.

    Raises:
        ConfigError: the argument is not a list, or an item is not a document; the message has its index. A single
            string is refused: it would be iterated by characters.
    """
    if _is_document(given):
        raise ConfigError(f"documents is a single {type(given).__name__}: put it into a list, documents=[...].")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"documents={given!r:.80} of type {type(given).__name__}: give a list of documents.")
    found = []
    for i, one in enumerate(given):
        try:
            found.append(as_document(one))
        except ConfigError as error:
            raise ConfigError(f"documents[{i}]: {error}") from None
    return found


def given_score(document: Document) -> Any:
    """The original score of the document's source, before conversion to float."""
    source = document.source
    if hasattr(source, "page_content"):
        return (getattr(source, "metadata", None) or {}).get("relevance_score", document.score)
    return getattr(source, "score", document.score)


def as_number(value: Any) -> float:
    """Convert a number of any type (int, Decimal, numpy or torch scalar, string) to float.

    Returns:
        NaN for a bool, None or a string that is not a number; infinity for a number too large for a float.
    """
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    if value is None or is_bool:
        return math.nan
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return math.nan


def _is_document(given: Any) -> bool:
    return isinstance(given, str | Document) or any(
        hasattr(given, name) for name in ("page_content", "get_content", "node")
    )


def _with_source(document: Document) -> Document:
    score = _score(document.score)
    return Document(document.text, document.title, document.id, document.metadata, score, source=document)


def _with_float_score(document: Document) -> Document:
    score = document.score
    return document if score is None or type(score) is float else replace(document, score=_score(score))


def _title(metadata: Mapping[str, Any]) -> str | None:
    """The first of title, file_name, source and file_path that is given; of a path or URL its last part."""
    title = metadata.get("title") or metadata.get("Title")
    if isinstance(title, str) and title.strip():
        return title.strip()
    for name in ("file_name", "source", "file_path"):
        place = metadata.get(name)
        if isinstance(place, str | PurePath) and (last := _last_part(str(place))):
            return last
    return None


def _last_part(place: str) -> str:
    """A file's name, or the last part of a URL's path; "" where it says nothing."""
    path = place.strip().partition("?")[0].partition("#")[0].replace("\\", "/").rstrip("/")
    last = path.rpartition("/")[2][:_TITLE_CHARS]
    return last if any(letter.isalpha() for letter in last) else ""


def _score(value: Any) -> float | None:
    return None if value is None else as_number(value)


def without_vectors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy metadata without embeddings, also in nested dicts: they describe the whole text, not a shortened copy."""
    return {
        name: without_vectors(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not is_vector(name, value)
    }


def is_vector(name: str, value: Any) -> bool:
    """Whether the value is an embedding, by its name and type: a list or array of numbers, or raw bytes."""
    if not isinstance(name, str) or not _VECTOR_NAME.search(name):
        return False
    if isinstance(value, bytes | bytearray | memoryview):
        return True
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return True
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        return False
    rows = [row for row in value if isinstance(row, Sequence) and not isinstance(row, str)] or [value]
    return all(isinstance(number, int | float) for row in rows for number in row)
