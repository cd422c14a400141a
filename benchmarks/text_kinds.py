"""Questions over texts of several kinds: English, German, Chinese, code and tables.

The texts come from `text_kinds.toml` and are made up. Ten documents of one form answer eight questions of each kind, so
that only the right one's own words tell it from the others. This module knows no models.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document

_ASKED = 8


def questions_by_kind() -> dict[str, list[AnsweredQuestion]]:
    """Eight questions of each kind, each over the same ten documents without titles."""
    kinds = tomllib.loads(files("benchmarks").joinpath("text_kinds.toml").read_text(encoding="utf-8"))
    return {kind: _questions(given) for kind, given in kinds.items()}


def _questions(given: dict[str, Any]) -> list[AnsweredQuestion]:
    rows = [
        {"name": name, "place": place, "thing": thing, "number": 3 + 2 * i}
        for i, (name, place, thing) in enumerate(zip(given["names"], given["places"], given["things"], strict=True))
    ]
    documents = [Document(given["text"].format(**row)) for row in rows]
    return [
        AnsweredQuestion(given["question"].format(**row), [given["answer"].format(**row)], documents, given["language"])
        for row in rows[:_ASKED]
    ]
