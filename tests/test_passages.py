"""How documents and a question are laid out for the draft, and which token stands for which characters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer

from spec_rag.compression.passages import (
    INSTRUCTION,
    PASSAGE_CHARS,
    Passage,
    align_units,
    frame,
    passage_header,
    question_text,
    question_tokens,
    split_passages,
)
from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document
from spec_rag.text.tokenization import template_ids, text_ids
from spec_rag.text.units import unit_spans

TOKENIZER = tiny_tokenizer()
# a header of two tokens, then "The cook is Ilse" in tokens of several characters, one of which is a space, and a break
PASSAGE = Passage(0, 100, 116, [0] * 8, [(0, 0), (0, 0), (0, 3), (3, 4), (4, 8), (8, 11), (11, 16), (0, 0)], 50)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (100, 103, (52, 53)),
        (103, 104, (53, 54)),
        (104, 108, (54, 55)),  # not the space before it
        (104, 109, (54, 56)),  # one character of the next
        (102, 104, (52, 54)),  # the last of one token
        (111, 116, (56, 57)),
        (100, 116, (52, 57)),
        (116, 120, (0, 0)),
        (90, 100, (0, 0)),
    ],
)
def test_a_span_has_the_tokens_that_share_a_character_with_it(start: int, end: int, expected: tuple[int, int]) -> None:
    assert PASSAGE.token_range(start, end) == expected


def test_the_tokens_of_a_unit_are_those_of_its_text() -> None:
    documents = [Document("One is red. Zwei ist grün.", title="Huts"), Document("Drei. Vier ist 🙂.")]
    units = [unit_spans(document.text, "sentence") for document in documents]
    passages = split_passages(TOKENIZER, documents, units)
    ids = [token for passage in passages for token in passage.ids]
    aligned = align_units(units, passages)
    texts = [documents[d].text[a:b] for d, spans in enumerate(units) for a, b in spans]
    for text, (first, last) in zip(texts, aligned["ranges"].tolist(), strict=True):
        assert TOKENIZER.decode(ids[first:last]) == text
    assert aligned["documents"].tolist() == aligned["passages"].tolist() == [0, 0, 1, 1]
    assert aligned["passage_ranges"].tolist() == [[0, len(passages[0].ids)], [len(passages[0].ids), len(ids)]]


def test_a_passage_is_read_with_its_title_and_without_a_number() -> None:
    (titled, plain) = split_passages(TOKENIZER, [Document("Red.", title="Huts"), Document("Red.")], [[(0, 4)]] * 2)
    assert TOKENIZER.decode(titled.ids) == "Document (Title: Huts) Red.\n"
    assert TOKENIZER.decode(plain.ids) == passage_header(None) + "Red.\n"
    assert titled.ids[: len(passage_header("Huts"))] == text_ids(TOKENIZER, passage_header("Huts"))


def test_a_long_document_is_read_in_passages_of_whole_units() -> None:
    text = " ".join(f"Hut number {i} is painted in the colour of the sea." for i in range(120))
    units = [unit_spans(text, "sentence")]
    passages = split_passages(TOKENIZER, [Document(text)], units)
    assert len(passages) > 1
    assert all(p.end - p.start <= PASSAGE_CHARS for p in passages)
    assert {p.start for p in passages} <= {start for start, _ in units[0]}
    assert [p.first_token for p in passages[1:]] == torch.tensor([len(p.ids) for p in passages[:-1]]).cumsum(0).tolist()
    aligned = align_units(units, passages)
    for (start, end), owner in zip(units[0], aligned["passages"].tolist(), strict=True):
        assert passages[owner].start <= start < end <= passages[owner].end


def test_a_unit_that_is_longer_than_a_passage_is_one_by_itself() -> None:
    text = "a" * (PASSAGE_CHARS + 50)
    (passage,) = split_passages(TOKENIZER, [Document(text)], [[(0, len(text))]])
    assert len(passage.ids) > PASSAGE_CHARS


def test_a_document_without_units_is_not_read() -> None:
    passages = split_passages(TOKENIZER, [Document(""), Document("Red.")], [[], [(0, 4)]])
    assert [p.document for p in passages] == [1]
    assert align_units([[], [(0, 4)]], passages)["passages"].tolist() == [0]
    nothing = align_units([[]], [])
    assert {name: tuple(tensor.shape) for name, tensor in nothing.items()} == {
        "ranges": (0, 2),
        "passages": (0,),
        "documents": (0,),
        "passage_ranges": (0, 2),
    }


def test_a_question_stands_in_its_frame_and_control_tokens_in_it_are_text() -> None:
    layout = frame(TOKENIZER)
    asked = question_tokens(TOKENIZER, layout, "Who is <|im_end|>?")
    assert TOKENIZER.decode(asked.ids[asked.start : asked.end]) == "Who is <|im_end|>?"
    assert TOKENIZER.eos_token_id not in asked.ids[asked.start : asked.end]
    assert asked.ids == [*layout.before_question, *asked.ids[asked.start : asked.end], *layout.after_question]


def test_the_frame_is_the_drafts_own_user_turn_with_the_instruction() -> None:
    layout = frame(TOKENIZER)
    assert layout.head == template_ids(TOKENIZER, f"<|im_start|>user\n{INSTRUCTION}")
    assert layout.after_question == template_ids(TOKENIZER, "\nAnswer:<|im_end|>\n<|im_start|>assistant\n")
    other = tiny_tokenizer()
    other.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [/]{% endfor %}"
    assert frame(other).head == template_ids(other, f"[user] {INSTRUCTION}")
    assert frame(other).after_question == template_ids(other, "\nAnswer: [/]")
    other.chat_template = None
    assert frame(other).head == template_ids(other, INSTRUCTION)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (" Who? ", "Who?"),
        ([{"role": "user", "content": "Who?"}], "Who?"),
        (
            [{"role": "user", "content": text} for text in ("one", "two", "three", "four")],
            "two\nthree\nfour",
        ),
        ([{"role": "system", "content": "Be brief."}, {"role": "ai", "content": "Yes?"}], "Yes?"),
    ],
)
def test_a_query_is_a_question_or_the_last_turns_of_a_chat(query: Any, expected: str) -> None:
    assert question_text(query) == expected


@pytest.mark.parametrize("query", [5, None, ["Who?"], {"role": "user"}, b"Who?"])
def test_what_is_no_query_is_refused_with_what_to_give(query: Any) -> None:
    with pytest.raises(ConfigError, match=r"query=.*give the question as a string"):
        question_text(query)


@pytest.mark.parametrize("query", ["", "  ", [], [{"role": "system", "content": "Be brief."}]])
def test_a_query_without_a_question_is_refused(query: Any) -> None:
    with pytest.raises(ConfigError, match=r"query=.*is empty"):
        question_text(query)


def test_a_passage_holds_two_thousand_characters_and_no_more() -> None:
    for length, count in ((1000, 1), (1001, 2)):
        text = f"{'a' * 998}.\n{'b' * (length - 1)}."
        units = [(0, 999), (1000, 1000 + length)]
        assert len(text) == 1000 + length
        assert len(split_passages(tiny_tokenizer(), [Document(text)], [units])) == count
