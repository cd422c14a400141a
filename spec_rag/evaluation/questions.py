"""Questions over several documents with known answers, from JSON lines.

A line has `question`, `answers`, and `ctxs` or `documents`: strings, or objects with `text` and an optional `title`. Or
it has `ordered_kv_records`, `key` and `value`, which become one document with a pair per line. `support`
(strings, or [document, start, end]) and `family` are optional.
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

Place = tuple[int, int, int]  # document index, start, end


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question, its accepted answers, its documents, and their language (ISO 639-1).

    Attributes:
        needed: (document index, start, end) of what supports the answer; by default where an answer string stands.
        family: name of the kind of question.
    """

    question: str
    answers: Sequence[str]
    documents: Sequence[Document]
    language: str = "en"
    needed: Sequence[Place] = ()
    family: str = "own"


def read_questions(path: Path, limit: int | None = None) -> list[AnsweredQuestion]:
    """The questions of a .jsonl or .jsonl.gz file, at most `limit`.

    Raises:
        UnreadableFileError: a line has another form; the message names it.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    questions = []
    for number, line in enumerate(text.splitlines()[:limit], start=1):
        try:
            questions.append(_question(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"{path}, line {number}: {error!r}. A line is a JSON object with question, answers and ctxs or "
                "documents (texts, or title and text), or with ordered_kv_records, key and value."
            ) from error
    return questions


def _question(row: dict[str, Any]) -> AnsweredQuestion:
    if "ordered_kv_records" in row:
        lines = ",\n".join(f'"{key}": "{value}"' for key, value in row["ordered_kv_records"])
        return AnsweredQuestion(f'What is the value of the key "{row["key"]}"?', [row["value"]], [Document(lines)])
    entries = row["documents"] if "documents" in row else row["ctxs"]
    documents = [Document(c) if isinstance(c, str) else Document(c["text"], title=c.get("title")) for c in entries]
    answers = row["answers"]
    if isinstance(answers, str):
        raise ValueError("answers is a list of strings")
    language = row.get("language", row.get("lang", "en"))
    needed = _support(row["support"], documents) if row.get("support") else _places(answers, documents, entries)
    return AnsweredQuestion(row["question"], answers, documents, language, needed, str(row.get("family", "own")))


def _support(support: Sequence[Any], documents: Sequence[Document]) -> list[Place]:
    found = [place for entry in support for place in ([entry] if not isinstance(entry, str) else _of(entry, documents))]
    for d, start, end in found:
        if not 0 <= start < end <= len(documents[d].text):
            raise ValueError(f"support={[d, start, end]} is outside of document {d}")
    return [(int(d), int(start), int(end)) for d, start, end in found]


def _places(
    answers: Sequence[str], documents: Sequence[Document], entries: Sequence[Any]
) -> list[tuple[int, int, int]]:
    """Where answer strings stand, in the documents that are marked as gold if any is."""
    gold = [d for d, row in enumerate(entries) if isinstance(row, dict) and (row.get("is_gold") or row.get("isgold"))]
    found = {place for answer in answers for place in _of(str(answer), documents)}
    return sorted(place for place in found if not gold or place[0] in gold)


def _of(text: str, documents: Sequence[Document]) -> list[Place]:
    pattern = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return [(d, *m.span()) for d, document in enumerate(documents) for m in pattern.finditer(document.text) if text]
