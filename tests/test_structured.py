"""Answers that are JSON of a given schema."""

from __future__ import annotations

from typing import Any

import pytest

from spec_rag.generation.structured_output import read_json, schema_instruction


def test_the_instruction_quotes_the_schema_as_it_is() -> None:
    told = schema_instruction({"title": "Straße", "type": "object"})
    assert told.endswith('{"title": "Straße", "type": "object"}')
    assert "one JSON object" in told


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('  {"a": 1} and that is it.', {"a": 1}),
        ('Here you are: {"a": {"b": [1, 2]}}', {"a": {"b": [1, 2]}}),
        ('Sure!\n```json\n{"a": 1}\n```\nMore.', {"a": 1}),
        ("```\n[1, 2]\n```", [1, 2]),
        ('A fence that is not closed:\n```json\n{"a": 1}', {"a": 1}),
        ("The list: [1, 2]", [1, 2]),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ("3", 3),
    ],
)
def test_json_is_found_in_what_models_write_around_it(answer: str, expected: Any) -> None:
    assert read_json(answer) == expected


@pytest.mark.parametrize("answer", ["", "No JSON here.", '{"a": ', "[" * 100_000])
def test_what_is_no_json_is_quoted(answer: str) -> None:
    with pytest.raises(ValueError, match="The answer is no JSON"):
        read_json(answer)
