"""Cases as peers in environments of their own read them, and what their results are worth.

Same content, prompts and budgets as the package's methods get. This module does not know how a peer is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.cases import LongCase, best_f1, exact_match
from benchmarks.grid import Tasks
from benchmarks.records import Scored
from spec_rag.text.documents import Document

Count = Callable[[str], int]
_CASE = [field.name for field in fields(LongCase)]


def case_lines(tasks: Sequence[Tasks], budgets: Sequence[str], count: Count) -> list[str]:
    """A line of JSON per case: the case itself, its prompt, and the budgets to try."""
    found = []
    for own in tasks:
        for cases in own.cases.values():
            for number, case in enumerate(cases):
                plain = {**asdict(case), "documents": [{"title": d.title, "text": d.text} for d in case.documents]}
                chat = case.chat()
                row = {
                    **plain,
                    "case": case.address,
                    "number": number,
                    "seed": own.seed,
                    "task_tokens": own.tokens,
                    "messages": list(chat.messages),
                    "beginning": chat.assistant_prefix,
                    "document_tokens": sum(count(document.text) for document in case.documents),
                    "budgets": list(budgets),
                }
                found.append(json.dumps(row))
    return found


def case_of(row: Mapping[str, Any]) -> LongCase:
    """The case of a line."""
    own: dict[str, Any] = {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _CASE}
    return LongCase(**{**own, "documents": tuple(Document(d["text"], title=d["title"]) for d in row["documents"])})


def judged(cases: Path, results: Path, draft: str) -> list[Scored]:
    """The results of a peer as lines of the grid; results on other cases are left out.

    Args:
        cases: written by `case_lines`.
        results: lines with `case`, `method`, `version`, `budget`, `seconds`, and `kept` or `answer`.
        draft: name of the model that the peer read or answered with.
    """
    rows = {row["case"]: row for row in map(json.loads, cases.read_text(encoding="utf-8").splitlines())}
    found = []
    for result in map(json.loads, results.read_text(encoding="utf-8").splitlines()):
        row = rows.get(result["case"])
        if row is None:
            continue
        case, answer = case_of(row), result.get("answer")
        text = result["kept"] if answer is None else answer.strip()
        found.append(
            Scored(
                draft=draft,
                target=None if answer is None else draft,
                embedder=None,
                code=result["version"],
                case=case.address,
                method=result["method"],
                budget=result["budget"],
                task=case.task,
                tokens=row["task_tokens"],
                seed=row["seed"],
                number=row["number"],
                score=case.score(text),
                seconds=result["seconds"],
                answer=None if answer is None else text,
                f1=None if answer is None else best_f1(text, case.answers),
                exact_match=None if answer is None else exact_match(text, case.answers),
                kv_bytes=result.get("kv_bytes"),
            )
        )
    return found
