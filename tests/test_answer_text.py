"""Streamed text, joined, is the answer's text for every kind of tokenizer, and no stop string leaks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer
from tiny_tokenizers import CONTROL, KINDS

from spec_rag.generation.streaming import _PieceStreamer
from spec_rag.text.answer_text import AnswerText, GrowingText, answer_text

PROMPT = torch.tensor([1, 2, 3])


def streamed(tokenizer: Any, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    pieces: list[str] = []
    streamer = _PieceStreamer(lambda: AnswerText(tokenizer, stop), pieces.append)
    streamer.put(PROMPT)
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    return pieces


def first_stop(tokenizer: Any, ids: list[int], stop: tuple[str, ...]) -> tuple[int | None, str]:
    """After how many tokens a stop string is complete, and the text before it: by decoding everything each time."""
    for n in range(1, len(ids) + 1):
        shown, raw = answer_text(tokenizer, ids[:n]), tokenizer.decode(ids[:n])
        plain = [s for s in stop if not any(name in s for name in CONTROL)]
        cuts = [shown.find(s) for s in plain if s in shown]
        if cuts:
            return n, shown[: min(cuts)]
        if any(s in raw for s in stop if s not in plain):
            return n, "?"
    return None, answer_text(tokenizer, ids)


def drawn(tokenizer: Any, length: int, seed: int) -> list[int]:
    """Random tokens; bytes of characters, spaces and control tokens come in runs, as they do in real text."""
    draw = random.Random(seed)
    known = len(tokenizer)
    favourites = [draw.randrange(known) for _ in range(6)] + [tokenizer.convert_tokens_to_ids("<|im_start|>")]
    return [draw.choice(favourites) if draw.random() < 0.6 else draw.randrange(known) for _ in range(length)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_joined_is_the_decoded_answer(kind: str) -> None:
    tokenizer = KINDS[kind]()
    for seed in range(60):
        ids = drawn(tokenizer, 40 if seed else 400, seed)
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(streamed(tokenizer, ids)) == expected == answer_text(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_is_settled_is_never_taken_back(kind: str) -> None:
    tokenizer = KINDS[kind]()
    for seed in range(40):
        text = GrowingText(tokenizer)
        before = ""
        for token in drawn(tokenizer, 60, seed):
            text.add([token])
            assert text.text.startswith(before)
            before = text.text[: text.settled]


@pytest.mark.parametrize("kind", KINDS)
def test_no_stop_string_leaks_into_a_stream(kind: str) -> None:
    tokenizer, draw = KINDS[kind](), random.Random(5)
    stopped = 0
    for seed in range(80):
        ids = drawn(tokenizer, 40, seed)
        whole = answer_text(tokenizer, ids)
        places = [draw.randrange(max(len(whole), 1)) for _ in range(2)]
        stop = tuple({whole[at : at + draw.randint(1, 6)] or "x" for at in places} | {"\n\n", " \n"})
        tokens, expected = first_stop(tokenizer, ids, stop)
        text = AnswerText(tokenizer, stop)
        for token in ids:
            text.add(token)
        stopped += text.stopped
        assert (text.tokens if text.stopped else None, text.text) == (tokens, expected)
        assert "".join(streamed(tokenizer, ids, stop)) == expected
        assert not any(s in expected for s in stop)
    assert stopped > 40


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece", "gemma", "metaspace"])
def test_a_stop_string_may_spell_a_special_token(kind: str) -> None:
    tokenizer = KINDS[kind]()
    for seed in range(60):
        ids = drawn(tokenizer, 40, seed)
        for stop in ("<|im_start|>", "key<|im_start|>", "<|im_start|>key", " <|im_start|>"):
            tokens, _ = first_stop(tokenizer, ids, (stop,))
            text = AnswerText(tokenizer, (stop,))
            for token in ids:
                text.add(token)
            assert (text.tokens if text.stopped else None) == tokens
            assert "".join(streamed(tokenizer, ids, (stop,))) == text.text
            assert "<|im_start|>" not in text.text
            before = answer_text(tokenizer, ids if tokens is None else ids[:tokens])
            assert before.startswith(text.text)
            if stop.startswith("key") and tokens is not None:
                assert before.removesuffix("key") == text.text


def test_a_stop_string_may_begin_inside_the_first_token() -> None:
    tokenizer = KINDS["word piece"]()
    text = AnswerText(tokenizer, ("ey <|im_start|>",))
    for token in tokenizer.convert_tokens_to_ids(["key", "<|im_start|>"]):
        text.add(token)
    assert (text.text, text.stopped, text.tokens) == ("k", True, 2)


def test_text_is_handed_on_as_soon_as_it_is_final() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("ab € c", add_special_tokens=False)["input_ids"]
    assert streamed(tokenizer, ids) == ["a", "b", " ", "€", " ", "c"]
    assert streamed(tokenizer, ids, ("b c",)) == ["a", "b €", " ", "c"]


def test_a_long_answer_is_decoded_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = KINDS["sentencepiece"]()
    words = tokenizer.convert_tokens_to_ids(["▁the", "key", "▁run", "\n", "▁▁"])
    ids = [words[i % 5] for i in range(2000)]
    expected = tokenizer.decode(ids)
    decode, longest = tokenizer.decode, 0

    def counted(given: list[int], **options: Any) -> str:
        nonlocal longest
        longest = max(longest, len(given))
        return str(decode(given, **options))

    monkeypatch.setattr(tokenizer, "decode", counted)
    assert "".join(streamed(tokenizer, ids)) == expected
    assert longest < 100
