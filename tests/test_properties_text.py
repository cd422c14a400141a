"""What holds of any text: units, spans, tokens, prompts, words, terminals, names."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import ANY_CHARACTER, TEXTS
from tiny import tiny_tokenizer
from torch import tensor

from spec_rag.compression.encoding_cache import content_address
from spec_rag.compression.passages import question_text, split_passages
from spec_rag.handles import document_key, handle_of
from spec_rag.text.chat_units import chat_units
from spec_rag.text.documents import Document
from spec_rag.text.prompts import Chat, chat_ids
from spec_rag.text.spans import original_spans
from spec_rag.text.tokenization import control_tokens, encodable, encoded_text, left_pad, text_ids
from spec_rag.text.units import kept_text, merged, unit_spans
from spec_rag.text.words import word_overlap, words
from spec_rag.utils.terminal import visible

TOKENIZER = tiny_tokenizer()
CONTROL = set(TOKENIZER.convert_tokens_to_ids(sorted(control_tokens(TOKENIZER))))
UNITS = st.sampled_from(["sentence", "token", "document"])
LANGUAGES = st.sampled_from(["en", "de", "zh", "ar", "hi", "th"])
ELLIPSES = st.sampled_from(["", " … ", "…", " [...] "])
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@given(TEXTS, UNITS, LANGUAGES)
def test_units_are_ordered_apart_and_not_blank(text: str, unit: str, language: str) -> None:
    spans = unit_spans(text, unit, language)
    ends = [0, *(end for _, end in spans)]
    assert all(end <= start < stop for end, (start, stop) in zip(ends, spans, strict=False))
    assert not spans or spans[-1][1] <= len(text)
    assert all(text[start:end].strip() for start, end in spans)
    assert spans == unit_spans(text, unit, language)


@given(TEXTS, UNITS, LANGUAGES)
def test_every_letter_is_in_a_unit(text: str, unit: str, language: str) -> None:
    inside = bytearray(len(text))
    for start, end in unit_spans(text, unit, language):
        inside[start:end] = b"\1" * (end - start)
    assert not [character for character, own in zip(text, inside, strict=True) if not own and character.strip()]


@st.composite
def some_units(draw: Any) -> tuple[str, list[tuple[int, int]], list[int]]:
    """A text, its units, and the numbers of some of them."""
    text = draw(TEXTS)
    units = unit_spans(text, draw(UNITS))
    return text, units, [i for i in range(len(units)) if draw(st.booleans())]


@given(some_units())
def test_merged_spans_are_ordered_and_hold_what_was_kept(given_units: Any) -> None:
    _, units, kept = given_units
    spans = merged([units[i] for i in kept], units, kept)
    assert all(a < b for a, b in spans)
    assert all(first[1] < second[0] for first, second in pairwise(spans))
    assert all(any(a <= units[i][0] and units[i][1] <= b for a, b in spans) for i in kept)


@given(some_units(), ELLIPSES)
def test_kept_text_is_made_of_exact_slices_in_their_order(given_units: Any, ellipsis: str) -> None:
    text, units, kept = given_units
    spans = merged([units[i] for i in kept], units, kept)
    left, position = kept_text(text, spans, ellipsis), 0
    for start, end in spans:
        position = left.index(text[start:end], position) + end - start
    assert not spans or left


@given(some_units(), ELLIPSES)
def test_spans_lead_from_a_kept_text_back_to_the_first(given_units: Any, ellipsis: str) -> None:
    text, units, kept = given_units
    spans = merged([units[i] for i in kept], units, kept)
    left = kept_text(text, spans, ellipsis)
    back = original_spans(left, spans, [(0, len(left))], ellipsis)
    assert not spans or back == spans


@given(TEXTS)
def test_encodable_text_keeps_every_place(text: str) -> None:
    plain = encodable(text)
    assert len(plain) == len(text)
    assert plain.encode("utf-8").decode("utf-8") == plain == encodable(plain)


@given(TEXTS)
def test_no_text_becomes_a_control_token(text: str) -> None:
    assert not CONTROL & set(text_ids(TOKENIZER, text))
    assert TOKENIZER.decode(text_ids(TOKENIZER, text)) == encodable(text)


@given(TEXTS)
def test_offsets_stand_in_the_text_and_never_go_back(text: str) -> None:
    encoded = encoded_text(TOKENIZER, text)
    assert encoded.ids == text_ids(TOKENIZER, text)
    places = [place for offset in encoded.offsets for place in offset]
    assert all(0 <= a <= b <= len(text) for a, b in encoded.offsets)
    assert [a for a, _ in encoded.offsets] == sorted(a for a, _ in encoded.offsets)
    assert not places or max(places) <= len(text)


@given(st.lists(st.tuples(ROLES, TEXTS), min_size=1, max_size=4))
def test_a_chat_has_the_control_tokens_of_its_turns_and_no_others(turns: list[tuple[str, str]]) -> None:
    def control(texts: list[str]) -> list[int]:
        messages = [{"role": role, "content": text} for (role, _), text in zip(turns, texts, strict=True)]
        return [token for token in chat_ids(TOKENIZER, messages) if token in CONTROL]

    assert control([text for _, text in turns]) == control(["x"] * len(turns))


@given(st.lists(st.tuples(ROLES, TEXTS), min_size=1, max_size=4))
def test_units_of_a_chat_lie_in_its_ids(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    found = chat_units(TOKENIZER, Chat(messages))
    assert found.ids.tolist() == chat_ids(TOKENIZER, messages)
    ends = [0, *(unit.end for unit in found.units)]
    assert all(end <= unit.start < unit.end for end, unit in zip(ends, found.units, strict=False))
    assert ends[-1] <= len(found.ids)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=3))
def test_passages_hold_every_unit_once_and_count_their_tokens(given_documents: list[tuple[str, str]]) -> None:
    documents = [Document(text, title=title) for title, text in given_documents]
    units = [unit_spans(document.text, "sentence") for document in documents]
    passages = split_passages(TOKENIZER, documents, units)
    for d, own in enumerate(units):
        mine = [passage for passage in passages if passage.document == d]
        assert all(sum(p.start <= start and end <= p.end for p in mine) == 1 for start, end in own)
    firsts = [passage.first_token for passage in passages]
    assert firsts == [sum(len(p.ids) for p in passages[:i]) for i in range(len(passages))]
    assert not any(CONTROL & set(passage.ids) for passage in passages)


@given(TEXTS)
def test_a_terminal_is_shown_and_not_told(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    assert not [c for c in shown if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert visible(shown) == shown


@given(TEXTS)
def test_words_are_folded_parts_of_the_text(text: str) -> None:
    found = words(text)
    assert all(word and word in text.casefold() for word in found)
    assert found == words(text) == words(text.casefold())


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_word_overlap_is_finite_and_follows_its_texts(question: str, texts: list[str]) -> None:
    scores = word_overlap(question, texts)
    assert len(scores) == len(texts)
    assert all(0 <= score < 1e6 for score in scores)
    assert word_overlap(question, texts[::-1]) == pytest.approx(scores[::-1], abs=1e-5)


@given(
    st.lists(st.text(ANY_CHARACTER, max_size=8), max_size=4), st.lists(st.text(ANY_CHARACTER, max_size=8), max_size=4)
)
def test_no_two_lists_of_parts_share_an_address(one: list[str], other: list[str]) -> None:
    assert (content_address(*one) == content_address(*other)) == (one == other)


@given(TEXTS, TEXTS, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=4))
def test_a_handle_is_short_and_of_one_document_and_its_spans(title: str, text: str, spans: list[Any]) -> None:
    key = document_key(title, text)
    handle = handle_of(key, spans)
    assert handle == handle_of(document_key(title, text), spans)
    assert handle.isascii()
    assert len(handle) == 17
    assert key != document_key(title, text + "x")


@given(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=9), min_size=1, max_size=5))
def test_left_padding_loses_nothing(rows: list[list[int]]) -> None:
    ids, mask = left_pad([tensor(row) for row in rows], 7)
    assert [own[there.bool()].tolist() for own, there in zip(ids, mask, strict=True)] == rows
    assert mask.sort(dim=1).values.equal(mask)


@given(st.lists(st.tuples(ROLES, TEXTS), max_size=6), st.integers(1, 4))
def test_the_question_of_a_chat_is_its_last_turns(turns: list[tuple[str, str]], last: int) -> None:
    spoken = [text for role, text in turns if role in ("user", "assistant") and text]
    expected = "\n".join(spoken[-last:]).strip()
    history = [{"role": role, "content": text} for role, text in turns]
    if expected:
        assert question_text(history, last) == expected
    else:
        with pytest.raises(ValueError, match="is empty"):
            question_text(history, last)
