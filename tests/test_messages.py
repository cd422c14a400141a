"""The text of a question in whatever form applications hold it."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_pair

from spec_rag import compress
from spec_rag.compression.passages import question_text
from spec_rag.errors import ConfigError
from spec_rag.text.documents import without_vectors
from spec_rag.text.messages import content_text

ASKED = "Who is the keeper?"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "query",
    [
        [{"role": "user", "content": [{"type": "text", "text": ASKED}]}],
        [{"role": "user", "content": [{"type": "input_text", "text": ASKED}]}],
        [{"role": "user", "content": [IMAGE, {"type": "text", "text": ASKED}]}],
        [{"role": "user", "content": {"type": "text", "text": ASKED}}],
        [{"role": "user", "content": [ASKED]}],
        [{"type": "human", "content": ASKED}],
        {"role": "user", "content": [{"type": "text", "text": ASKED}]},
        [{"type": "text", "text": ASKED}, IMAGE],
        {"type": "text", "text": ASKED},
        [("human", ASKED)],
        [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, ("user", ASKED)],
        [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": ASKED}],
    ],
)
def test_a_question_is_the_text_of_its_parts(query: Any) -> None:
    assert question_text(query) == ASKED


def test_the_parts_of_a_question_are_lines_and_turns_follow_each_other() -> None:
    parts = ["Who is", {"type": "text", "text": "the keeper?"}]
    assert question_text(parts) == "Who is\nthe keeper?"
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "Ana."}]}]
    assert question_text([*chat, {"role": "user", "content": "Where?"}]) == "Who is\nthe keeper?\nAna.\nWhere?"


def test_compress_reads_the_question_of_content_parts() -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": ASKED}]}]
    documents = ["The gate is red. The keeper is Ana Beck. It opens at nine."]
    given = {"draft": tiny_pair(), "calibration": None, "ratio": 0.5}
    result = compress(documents, chat, **given)
    assert result.query == ASKED
    assert result.text == compress(documents, ASKED, **given).text


@pytest.mark.parametrize(
    "query", [[{"role": "user", "content": [IMAGE]}], [IMAGE], [{"role": "user", "content": None}]]
)
def test_a_question_of_an_image_alone_is_empty(query: Any) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        question_text(query)


@pytest.mark.parametrize("query", [[3], [{"role": "user", "content": 3}], [{"role": "user", "content": [3]}], {"a": 1}])
def test_what_is_no_question_is_refused(query: Any) -> None:
    with pytest.raises(ConfigError, match=r"query=|content"):
        question_text(query)


def test_content_nested_too_deeply_is_refused() -> None:
    content: Any = "text"
    for _ in range(3000):
        content = [content]
    with pytest.raises(ConfigError, match="64 levels"):
        content_text([{"type": "text", "text": "a", "more": content}], "user")
    with pytest.raises(ConfigError, match="64 levels"):
        question_text([{"role": "user", "content": content}])


def test_vectors_are_told_by_name_and_kind() -> None:
    kept = {"embedding_model": "mini", "vectors": 3, "pages": [1, 2], "source": "a.pdf", "nested": {"title": "A"}}
    vectors = {"embedding": [0.1, 0.2], "vector": [[1, 2], [3, 4]], "my_Embedding": b"abc"}
    given = {**kept, **vectors, "nested": {"title": "A", "embedded_doc": [0.5]}}
    assert without_vectors(given) == kept
    assert given["nested"]["embedded_doc"] == [0.5]
