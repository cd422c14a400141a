"""Questions over several documents with known answers, from JSON lines.

A line has `question`, `answers`, and `ctxs` or `documents`: strings, or objects with `text` and an optional `title`. Or
it has `ordered_kv_records`, `key` and `value`, which become one document with a pair per line.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec_rag.errors import UnreadableFileError
from spec_rag.text.documents import Document


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question, its accepted answers, its documents, and their language (ISO 639-1)."""

    question: str
    answers: Sequence[str]
    documents: Sequence[Document]
    language: str = "en"


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
    return AnsweredQuestion(row["question"], answers, documents, row.get("language", "en"))
