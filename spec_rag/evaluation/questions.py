"""Questions over several documents, with known answers: multi-document and multi-hop QA, key-value retrieval.

Reads JSON lines: `question`, `answers`, and `ctxs` or `documents`, which are texts or objects with `text` and perhaps
`title`; or `ordered_kv_records`, `key`, `value`, of which one document with a pair a line is made. `support` (texts, or
[document, start, end]) and `family` are optional. This module does not know how documents are read.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec_rag.errors import UnreadableFileError
from spec_rag.text.documents import Document


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question, its documents, the strings that count as its answer, and the documents' language (ISO 639-1).

    Attributes:
        needed: (document index, start, end) of what supports the answer; by default where an answer string stands.
        family: name of the kind of question.
    """

    question: str
    answers: Sequence[str]
    documents: Sequence[Document]
    language: str = "en"
    needed: Sequence[tuple[int, int, int]] = ()
    family: str = "own"


def read_questions(path: Path, limit: int | None = None) -> list[AnsweredQuestion]:
    """The questions of a .jsonl or .jsonl.gz file, at most `limit`.

    Raises:
        UnreadableFileError: a line is not of a known form; the message names it.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    found = []
    for number, line in enumerate(text.splitlines()[:limit], start=1):
        try:
            found.append(_question(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"{path}, line {number}: {error!r}. A line is a JSON object with question, answers and ctxs or "
                "documents (texts, or title and text), or with ordered_kv_records, key and value."
            ) from error
    return found


def _question(row: dict[str, Any]) -> AnsweredQuestion:
    if "ordered_kv_records" in row:
        lines = ",\n".join(f'"{key}": "{value}"' for key, value in row["ordered_kv_records"])
        return AnsweredQuestion(f'What is the value of the key "{row["key"]}"?', [row["value"]], [Document(lines)])
    given = row["documents"] if "documents" in row else row["ctxs"]
    documents = [Document(c) if isinstance(c, str) else Document(c["text"], title=c.get("title")) for c in given]
    answers = row["answers"]
    if isinstance(answers, str):
        raise ValueError("answers is a list of strings")
    language = row.get("language", row.get("lang", "en"))
    needed = _support(row["support"], documents) if row.get("support") else _places(answers, documents, given)
    return AnsweredQuestion(row["question"], answers, documents, language, needed, str(row.get("family", "own")))


def _support(support: Sequence[Any], documents: Sequence[Document]) -> list[tuple[int, int, int]]:
    found = [place for entry in support for place in ([entry] if not isinstance(entry, str) else _of(entry, documents))]
    for d, start, end in found:
        if not 0 <= start < end <= len(documents[d].text):
            raise ValueError(f"support={[d, start, end]} is outside of document {d}")
    return [(int(d), int(start), int(end)) for d, start, end in found]


def _places(answers: Sequence[str], documents: Sequence[Document], given: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Where answer strings stand, in the documents that are marked as gold if any is."""
    gold = [d for d, row in enumerate(given) if isinstance(row, dict) and (row.get("is_gold") or row.get("isgold"))]
    found = {place for answer in answers for place in _of(str(answer), documents)}
    return sorted(place for place in found if not gold or place[0] in gold)


def _of(text: str, documents: Sequence[Document]) -> list[tuple[int, int, int]]:
    pattern = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return [(d, *m.span()) for d, document in enumerate(documents) for m in pattern.finditer(document.text) if text]
