"""Shortened tool results keep their format, say what is missing, and lead back to the original."""

from __future__ import annotations

import ast
import json
import re
import zlib
from functools import cache
from typing import Any

import pytest
from readings import reading_of, words
from tiny import tiny_pair
from tool_results import test_kinds as samples

from spec_rag import Originals
from spec_rag.compression.compress import keep
from spec_rag.compression.originals import expander
from spec_rag.compression.packing import ScoredDocuments
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.text.units import unit_spans
from spec_rag.tool_results.line_pieces import folded_paths, unfolded_paths
from spec_rag.tool_results.pieces import Piece, Structure
from spec_rag.tool_results.shorten import (
    ShortenedResult,
    call_question,
    plan_result,
    shorten_tool_result,
)

MARK = re.compile(r"\[… [\d,]+ \w+(?: \w+)? omitted(?: \((?:lines )?[\d-]+\))?: [\w ]+; handle ([a-z2-7]{12})\]")
BIG_JSON = json.dumps(
    {
        "pages": [{"id": i, "body": "Tank one is red. It is old.\nIt holds “water”. " * 30} for i in range(9)],
        "next": None,
    }
)


@cache
def reading(text: str) -> ScoredDocuments:
    units = unit_spans(text, "sentence")
    return reading_of([text], [zlib.crc32(text[a:b].encode("utf-8", "replace")) / 2**31 - 1 for a, b in units])


def shortened(
    text: str, originals: Originals | None = None, ratio: float = 0.3, tool: str | None = None, **options: Any
) -> ShortenedResult:
    plan = plan_result(text, ToolResultOptions(**{"min_chars": 1, **options}), tool)
    if plan.result is not None:
        return plan.result
    compression = keep(reading(text), CompressionConfig(ratio=ratio), words)
    return plan.shortened(compression, Originals() if originals is None else originals)


def test_a_draft_decides_what_stays() -> None:
    text = " ".join(f"Tank {i} holds {i * 7} litres of water." for i in range(40))
    originals = Originals()
    result = shorten_tool_result(text, "How much?", tool="read", draft=tiny_pair(), ratio=0.3, originals=originals)
    assert result.reason is None
    assert 0 < result.tokens_after < 0.5 * result.tokens_before
    assert originals.expand(str(result.handle)).text == text


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.7])
@pytest.mark.parametrize(
    "text",
    [
        samples.PYTHON,
        samples.numbered(samples.PYTHON * 2),
        samples.GO * 3,
        samples.JAVA * 3,
        samples.DIFF * 4,
        samples.LOG,
        samples.CSV,
        samples.TABLE,
        samples.JSON,
        BIG_JSON,
        samples.JSON_LINES,
        samples.MARKDOWN * 6,
        samples.HTML * 6,
        samples.PROSE * 8,
        samples.LOG.replace("\n", "\r\n"),
        samples.PROSE * 8 + "\ud800 \x00",
    ],
    ids=lambda text: text[:12].strip(),
)
def test_marks_account_for_everything_that_is_missing(text: str, ratio: float) -> None:
    originals = Originals()
    result = shortened(text, originals, ratio)
    assert len(result.text) <= len(text)
    if result.handle is None:
        assert result.text == text
        return
    assert originals.expand(result.handle).text == text
    assert set(MARK.findall(result.text)) <= {result.handle}
    # what stays, with what is omitted between, is the original
    rest, place = [], 0
    for one in result.omissions:
        rest.append(text[place : one.start])
        place = one.end
        assert originals.expand(result.handle, lines=(one.first_line, one.last_line)).text.strip("\r\n")
    rest.append(text[place:])
    marks = len(re.findall(r"\[… ", result.text))
    assert marks == len(result.omissions)
    position = 0
    for piece in rest:
        assert piece.strip(" ") in result.text[position:]
        position = result.text.index(piece.strip(" "), position) + len(piece.strip(" "))


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.4, 0.8])
@pytest.mark.parametrize(
    "text", [samples.JSON, BIG_JSON, json.dumps(json.loads(BIG_JSON), indent=1), '[["a", 1e999], []]' * 1]
)
def test_json_stays_valid_and_its_objects_keep_their_keys(text: str, ratio: float) -> None:
    result = shortened(text, ratio=ratio)
    found, before = json.loads(result.text), json.loads(text)
    if isinstance(before, dict):
        assert list(found) == list(before)
    for items in (found["items"] if "items" in found else found["pages"]) if isinstance(found, dict) else []:
        assert isinstance(items, str) or list(items) in (["id", "name", "price"], ["id", "body"])


def test_a_shortened_array_says_how_many_items_are_missing() -> None:
    result = shortened(samples.JSON)
    items = json.loads(result.text)["items"]
    marks = [int(re.findall(r"(\d+) items? omitted", one)[0]) for one in items if isinstance(one, str)]
    assert sum(marks) + sum(isinstance(one, dict) for one in items) == 30
    assert marks


def test_every_line_of_json_lines_stays_json() -> None:
    result = shortened(samples.JSON_LINES)
    lines = [json.loads(line) for line in result.text.splitlines()]
    assert any(isinstance(line, str) for line in lines)
    assert lines[0] == {"id": 0, "text": "Tank 0 is red."}


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.6])
def test_python_compiles_and_keeps_imports_and_signatures(ratio: float) -> None:
    result = shortened(samples.PYTHON, ratio=ratio)
    tree = ast.parse(result.text)
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert names == {"first", "Tank", "fill", "level"}
    assert "import os\nfrom typing import Any" in result.text
    assert "@property\n    def level(self) -> float:" in result.text


def test_other_code_keeps_its_signatures_and_whole_blocks() -> None:
    result = shortened(samples.GO * 3)
    assert result.text.count("func fill(tank *Tank, litres int) error {") == 3
    assert result.text.count('import "fmt"') == 3


def test_a_table_keeps_its_header_and_whole_rows() -> None:
    for text in (samples.CSV, samples.TABLE):
        result = shortened(text)
        assert result.text.startswith(text[: text.index("tank 0") - 2])
        assert {line for line in result.text.split("\n") if "[…" not in line} <= set(text.split("\n"))


def test_a_log_keeps_errors_and_ends_and_folds_repeated_lines_with_a_count() -> None:
    result = shortened(samples.LOG, ratio=0.1)
    lines = samples.LOG.split("\n")
    assert all(line in result.text for line in (lines[0], lines[-1], lines[30]))
    assert "is repeated 39 times (33-71)]" in result.text
    assert result.text.count("heartbeat") == 1


def test_a_diff_keeps_the_headers_of_its_files_and_hunks() -> None:
    text = samples.DIFF.replace(" def fill():", "\n".join(f" line {i}" for i in range(60)))
    result = shortened(text)
    heads = [line for line in text.split("\n") if line.startswith(("diff", "index", "@@", "--- a/", "+++"))]
    assert all(head in result.text for head in heads)
    assert len(result.text) < len(text)


@pytest.mark.parametrize("text", [samples.GREP, samples.PATHS, samples.LS, samples.TREE])
def test_listings_and_matches_lose_no_entry(text: str) -> None:
    result = shortened(text, ratio=0.01)
    assert result.omissions == []
    assert result.text in (text, folded_paths(text))
    assert folded_paths(text) == text or unfolded_paths(folded_paths(text)) == text
    shorter = text in (samples.GREP, samples.PATHS)
    assert (len(result.text) < len(text)) == shorter


@pytest.mark.parametrize(
    "text", ["a/b:1:x\na/b:2:y", "\ta/b\n\ta/c", "a/b\na/c\n\ta/d\na/b", "", "x\n\n", "a/b/\na/b/\na/b/"]
)
def test_folding_paths_gives_every_entry_back(text: str) -> None:
    long = "\n".join([text] * 9 + [f"one/two/three/{i}" for i in range(30)])
    folded = folded_paths(long)
    assert folded == long or unfolded_paths(folded) == long


@pytest.mark.parametrize(
    ("options", "tool", "reason"),
    [
        ({"mode": "off"}, "search", "mode off"),
        ({"only_tools": ["read_*"]}, "search", "tool not allowed"),
        ({"only_tools": ["read_*"]}, None, "tool not allowed"),
        ({"except_tools": ["sea*"]}, "search", "tool not allowed"),
        ({"min_chars": 10_000}, "search", "short"),
        ({}, "expand_document", "fetched back"),
    ],
)
def test_a_result_that_may_not_be_shortened_stays_whole_and_says_why(
    options: Any, tool: str | None, reason: str
) -> None:
    result = shortened(samples.PROSE * 9, tool=tool, **options)
    assert (result.text, result.reason) == (samples.PROSE * 9, reason)


def test_allowed_tools_are_shortened() -> None:
    result = shortened(samples.PROSE * 9, tool="read_file", only_tools=["read_*"])
    assert result.reason is None


def test_lossless_folds_and_removes_white_space_and_nothing_else() -> None:
    lossless: dict[str, Any] = {"mode": "lossless"}
    assert json.loads(shortened(samples.JSON, **lossless).text) == json.loads(samples.JSON)
    assert len(shortened(samples.JSON, **lossless).text) < len(samples.JSON)
    log = shortened(samples.LOG, **lossless)
    assert (
        log.text.replace(
            log.text[log.text.index("[…") : log.text.index("]\n") + 2], f"{samples.LOG.splitlines()[40]}\n" * 39
        )
        == samples.LOG
    )
    assert shortened(samples.PROSE * 9, **lossless).text == samples.PROSE * 9


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "fast"}, {"on_error": "skip"}, {"only_tools": "a"}, {"min_chars": -1}, {"deadline_seconds": 0}],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ToolResultOptions(**wrong)


def test_the_question_of_a_result_is_the_turn_and_the_call() -> None:
    assert call_question("Fix the bug.", "grep_files", '{"pattern": "def fill", "deep": true}') == (
        "Fix the bug.\ngrep files pattern: def fill, deep: true"
    )
    assert call_question("", "search", {"q": "x"}) == "search q: x"
    assert call_question("Why?", None, "not json") == "Why?\nnot json"
    assert call_question("Why?", None) == "Why?"


def test_expanding_lines_gives_exactly_these_lines_and_says_what_is_wrong() -> None:
    originals = Originals()
    handle = originals.hold(samples.GO, [])
    expand = expander(originals)
    assert expand(handle.partition("-")[0]) == samples.GO
    assert expand(handle, lines="3-5") == "\n".join(samples.GO.split("\n")[2:5])
    assert expand(handle, lines="1") == "package main"
    assert "has 18 lines" in expand(handle, lines="90-99")
    assert "40-51" in expand(handle, lines="all")
    assert "gone" in expand("aaaaaaaaaaaa")


def test_lines_that_are_omitted_at_the_beginning_have_one_mark() -> None:
    lines = Structure("a\nb\nc\n", "log", [Piece(0, 2), Piece(2, 4), Piece(4, 6)])
    assert lines.rendered([False, False, True], None)[0] == "[… 2 lines omitted (1-2): log]\nc\n"
