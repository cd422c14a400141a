"""Structured documents of all formats, without a draft: a value is kept under its own name, or not at all."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks.structure import RENDERERS, Case, cases, verdict
from spec_rag.compression.packing import ScoredDocuments, select
from spec_rag.compression.path_match import match_paths
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.structure.reader import read_structure

CASES = list(cases(3))


def tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def kept(case: Case, ratio: float, seed: int) -> str:
    """What is kept where a draft knows nothing: its scores are drawn."""
    document, structure = Document(case.text), read_structure(case.text)
    paths = match_paths(case.question, [document], [structure])
    drawn = torch.randn(len(structure.spans), generator=torch.Generator().manual_seed(seed))
    reading = ScoredDocuments(
        [document], case.question, "none", [list(structure.spans)], [], paths.added_to(drawn), torch.zeros(0), 0.0,
        structures=[structure], paths=paths,
    )  # fmt: skip
    return select(reading, CompressionConfig(ratio=ratio), tokens, int(tokens(case.text) * ratio))[0].text


def test_the_set_is_as_large_as_it_says() -> None:
    assert len({case.text for case in CASES}) >= 60
    assert len(CASES) == 4 * 3 * len(RENDERERS)
    assert all(verdict(case, case.text).right and not verdict(case, case.text).wrong for case in CASES)


@pytest.mark.parametrize(("ratio", "least"), [(0.25, 0.95), (0.125, 0.85)])
def test_the_right_value_stands_under_the_right_name_and_no_other_does(ratio: float, least: float) -> None:
    found = [verdict(case, kept(case, ratio, seed)) for seed, case in enumerate(CASES)]
    assert sum(one.right for one in found) >= least * len(found)
    assert not any(one.wrong for one in found)


@pytest.mark.parametrize("ratio", [0.02, 0.06, 0.4, 0.7])
def test_no_budget_shows_the_value_of_another_record_under_the_name(ratio: float) -> None:
    assert not any(verdict(case, kept(case, ratio, seed)).wrong for seed, case in enumerate(CASES[::3]))
