"""Every decoder-only family of the installed transformers is tried, tiny and random."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

from benchmarks.architectures import Finding, as_markdown, families, try_family

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
EXPECTED = (
    "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2",
    "smollm3", "gpt_oss", "gpt_neox", "cohere2", "glm4", "mixtral", "starcoder2", "stablelm", "exaone4", "ministral",
)  # fmt: skip


@pytest.mark.parametrize("family", EXPECTED)
def test_a_well_known_family_works(family: str) -> None:
    if family not in families():
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    finding = try_family(family)
    assert finding.works, finding.reason


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bert", "reads ahead"),
        ("bloom", "The draft ran without showing any layer"),
        ("mpt", "The draft ran without showing any layer"),
        ("jetmoe", "pruning needs one shape"),
        ("mimo_v2_flash", "pruning needs one shape"),
        ("deepseek_v2", "pruning needs one shape"),
        ("deepseek_v3", "pruning needs one shape"),
        ("jamba", "has layers of type"),
        ("mamba", "has layers of type"),
    ],
)
def test_what_cannot_be_scored_faithfully_is_refused_with_the_reason(family: str, reason: str) -> None:
    finding = try_family(family)
    assert not finding.works
    assert finding.reason
    assert reason in finding.reason


@pytest.mark.parametrize(("family", "compresses"), [("llama", True), ("gemma2", False), ("gpt2", False)])
def test_a_family_that_compress_refuses_is_listed_with_the_reason(family: str, compresses: bool) -> None:
    finding = try_family(family)
    assert finding.works
    assert (finding.compress_error == "") is compresses
    if not compresses:
        assert f"| `{family}` | {finding.compress_error} |" in as_markdown([finding])


def test_every_family_is_tried_and_the_page_says_what_came_of_it() -> None:
    findings = [try_family(family) for family in families()]
    works = [finding.family for finding in findings if finding.works]
    assert len(works) >= 15
    assert not [finding for finding in findings if finding.built and finding.error]
    page = PAGE.read_text(encoding="utf-8")
    version = re.search(r"transformers ([\d.]+):", page)
    assert version is not None
    if version[1] == transformers.__version__:
        assert re.findall(r"`([^`]+)`", page.split("Works:")[1].split("\n")[0]) == works


def test_the_page_says_how_many_work() -> None:
    findings = [Finding("a", True), Finding("b", False, "no | keys"), Finding("c", False, "no config", built=False)]
    page = as_markdown(findings)
    assert "1 work, 1 are refused, and 1 could not be built that way or do not run by themselves" in page
    refused, unbuilt = page.split("| not tried |")
    assert "| `b` | no / keys |" in refused
    assert "| `c` | no config |" in unbuilt
