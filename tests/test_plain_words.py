"""Docstrings, messages, help and pages use the field's standard terms and none of these private words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = re.compile(
    r"\b(nobody|anew|whoever|foretell\w*|foretold|glimpse\w*|told|untold|beside|believed|forgotten|"
    r"(?-i:is none|are none)|of so many|lets nobody|second choice|this module does not know)\b",
    re.IGNORECASE,
)
PLACES = [
    *(f"spec_rag/{room}" for room in ("answering", "cli", "evaluation", "serving", "utils")),
    *("integrations", "kernels/spec_rag_kernels", "docs", "README.md", "CONTRIBUTING.md"),
]
ALLOWED = {"if there is none", "there is none", "0 is none"}  # of a value that is absent
OTHERS = {"docs/licences.md"}  # generated from the metadata of packages


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.md" if place == "docs" else "*.py"))


@pytest.mark.parametrize("place", PLACES)
def test_plain_words(place: str) -> None:
    found = []
    for path in sources(place):
        if (name := path.relative_to(ROOT).as_posix()) in OTHERS:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for phrase in ALLOWED:
                line = line.replace(phrase, "")
            found += [f"{name}:{number}: {match.group()}" for match in WORDS.finditer(line)]
    assert found == []
