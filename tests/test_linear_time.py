"""Time of everything that reads texts grows with their length alone, whatever they say."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tiny import tiny_pair

from spec_rag.answering.chunking import split_chunks
from spec_rag.generation.structured_output import read_json
from spec_rag.generation.tool_calls import ToolCallStreamParser, ToolChoice, read_tool_calls
from spec_rag.loaders.html import page_text
from spec_rag.text.chat_units import chat_units
from spec_rag.text.documents import Document
from spec_rag.text.marks import marked, pieces
from spec_rag.text.patterns import PATTERNS, named_spans
from spec_rag.text.prompts import Chat
from spec_rag.text.spans import original_spans
from spec_rag.text.units import cut_at_words, kept_text, sentence_spans, word_spans
from spec_rag.utils.terminal import visible

TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]
TOKENIZER = tiny_pair().require_tokenizer()
LENGTH = 5_000  # characters of the shorter text
GROWTH = 4  # the longer one is as many times as long
ALLOWED = 9.0  # times its time; 16 where time grows with the square
SLACK = 0.02  # seconds


def repeated(piece: str) -> Callable[[int], str]:
    return lambda length: (piece * (length // len(piece) + 1))[:length]


def with_run(before: str, piece: str, after: str) -> Callable[[int], str]:
    return lambda length: before + repeated(piece)(length) + after


PIECES = [
    *(
        "a",
        " ",
        "\n",
        "\t",
        "{",
        "[",
        "}",
        '"',
        "'",
        "`",
        "“",
        "‘",
        "«",
        ".",
        ",",
        ";",
        ":",
        "-",
        "1",
        "漢",
        "\xa0",
        "\\",
    ),
    *(
        "a ",
        "a.",
        "a. ",
        "a,",
        "a,b",
        "a;",
        "; ",
        '"a ',
        "‘a’b ",
        "“a ",
        "1.",
        "1,",
        "1 ",
        "[1] ",
        "a_",
        "a@",
        "/a",
        " /a",
    ),
    *(
        "aB",
        "a1",
        "abc0",
        "www.",
        "http://",
        "v1.",
        "§ ",
        "1年",
        "in 19",
        "\n ",
        "\n\n",
        " \n",
        "\r\n",
        "a\n",
        "\n\ta",
        "a:b\n",
    ),
    *(
        "<",
        "<p>",
        "<!--",
        "&",
        "&amp;",
        "<a b='",
        "```\n",
        "```json",
        "~~~\n",
        "```\na\n```\n",
        "# a\n",
        "- a\n",
        "|a|b|\n",
        "    \xa0",
    ),
    *(
        "<tool_call>",
        "<tool_call>{",
        '<tool_call>["',
        "<tool_call>[1,",
        "</tool_call>",
        '<tool_call>{"name": "x"}',
        "<tool_cal",
    ),
    *('{"name": "search", "arguments": {}} ', '{"a": ', '["a", ', "<|im_end|>", "<|im_end|> a "),
]
RUNS = [
    *(
        ("return", " ", "."),
        ("return", " ", ""),
        ("return ", "a ", "!"),
        (";", " ", "x"),
        ("def f(", " ", "x"),
        ("import a", " ", "!"),
    ),
    *((" ", " ", "\xa0a"), ("a\n", " ", "\xa0a"), ("```json", " ", "x"), ("```", "\n", "x"), ("<tool_call>", " ", "x")),
    *(
        ("<tool_call>{}", " ", "x"),
        ('{"name": "search", "arguments": {}}', " ", "x"),
        ('"', "a ", ""),
        ("a:", " ", ""),
        ("<", " ", "p"),
    ),
]
TEXTS = {repr(piece): repeated(piece) for piece in PIECES} | {repr(run): with_run(*run) for run in RUNS}


def read_answer(text: str) -> None:
    with contextlib.suppress(ValueError):
        read_json(text)


def stream_answer(text: str) -> None:
    held = ToolCallStreamParser(ToolChoice(TOOLS))
    for letter in text:
        held.feed(letter)
    held.rest()


def read_page(text: str) -> None:
    page_text(text, max_depth=10**9, check=lambda: None)


def lay_out(text: str) -> None:
    chat_units(TOKENIZER, Chat([{"role": "user", "content": text}]))


def shorten(text: str) -> None:
    spans = sentence_spans(text)[::2]
    kept = kept_text(text, spans, " … ")
    original_spans(kept, spans, word_spans(kept), " … ")


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    "sentence_spans": sentence_spans,
    "sentence_spans, German": lambda text: sentence_spans(text, "de"),
    "word_spans": word_spans,
    "cut_at_words": lambda text: cut_at_words(text, (0, len(text)), 100),
    **{name: (lambda text, name=name: named_spans(text, name)) for name in PATTERNS},
    "kept_text and original_spans": shorten,
    "read_tool_calls": lambda text: read_tool_calls(text, TOOLS),
    "tool call arguments": lambda text: read_tool_calls(
        "<tool_call>" + json.dumps({"name": "search", "arguments": text}), TOOLS
    ),
    "a stream with tools": stream_answer,
    "read_json": read_answer,
    "chat_units": lay_out,
    "marks": lambda text: pieces(TOKENIZER, marked(TOKENIZER, text)),
    "split_chunks": lambda text: split_chunks(Document(text)),
    "page_text": read_page,
    "visible": visible,
}


def seconds(function: Callable[[str], Any], text: str, bound: float | None = None) -> float:
    """The best of up to five runs; the first that is within the bound ends them."""
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        function(text)
        best = min(best, time.thread_time() - started)
        if bound is None or best <= bound:
            break
    return best


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_grows_with_the_length_of_the_text(name: str) -> None:
    function = FUNCTIONS[name]
    function(repeated("a")(LENGTH))  # what is imported and compiled once
    slow = {}
    for what, made in TEXTS.items():
        short = seconds(function, made(LENGTH))
        long = seconds(function, made(LENGTH * GROWTH), bound := ALLOWED * short + SLACK)
        if long > bound and long > ALLOWED * seconds(function, made(LENGTH), 0.0) + SLACK:
            slow[what] = (short, long)
    assert not slow
