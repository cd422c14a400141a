"""SpecPC on chats: whole sentences, lines and rows; and what stays whatever it scores."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_pair, tiny_tokenizer

from spec_rag import ModelPair, SpecPCConfig, generate, generate_batch, score_prompt, stream
from spec_rag.errors import ConfigError
from spec_rag.generation.unit_selection import select_units
from spec_rag.text.chat_units import chat_units
from spec_rag.text.prompts import Chat, chat_ids

SENTENCES = [f"Station {i} reported {i * 37 % 91} degrees and calm seas." for i in range(12)]
CODE = "def weigh(load):\n    return load.kilos\n"
MESSAGES = [
    {"role": "system", "content": "You are a harbour master. Be brief. Never guess."},
    {"role": "user", "content": " ".join(SENTENCES)},
    {"role": "assistant", "content": "I have read the reports. They are all calm."},
    {"role": "user", "content": f"Here is code.\n\n```python\n{CODE}```\n\nWhich station is warm? Tell me its number."},
]
CONFIG: dict[str, Any] = {"window_size": 16, "starting_layer_index": 1, "kernel_size": 4}


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


def kept_text(prompt: Any, capacity: int, importance: torch.Tensor | None = None, **settings: Any) -> str:
    """What select_units leaves of a chat, as text; random importance where none is given."""
    tokenizer = tiny_tokenizer()
    laid_out = chat_units(tokenizer, Chat(prompt))
    if importance is None:
        importance = torch.rand(len(laid_out.ids), generator=torch.Generator().manual_seed(0))
    config = SpecPCConfig(max_capacity_prompt=capacity, **CONFIG, **settings)
    selected = select_units(importance, laid_out, config)
    assert len(selected) <= capacity
    return str(tokenizer.decode(laid_out.ids[selected]))


def test_a_turn_that_repeats_an_earlier_one_has_units_of_its_own() -> None:
    tokenizer = tiny_tokenizer()
    turns = [("user", "Which station is warm?"), ("assistant", "Station 3."), ("user", "Which station is warm?")]
    laid_out = chat_units(tokenizer, Chat([{"role": role, "content": content} for role, content in turns]))
    assert [unit.text for unit in laid_out.units] == [content for _, content in turns]
    assert all(a.end <= b.start for a, b in zip(laid_out.units, laid_out.units[1:], strict=False))
    assert [unit.in_last_turn for unit in laid_out.units] == [False, False, True]


def test_the_layout_has_the_prompts_own_ids_and_each_unit_its_text() -> None:
    tokenizer = tiny_tokenizer()
    laid_out = chat_units(tokenizer, Chat(MESSAGES, assistant_prefix="Station "))
    assert laid_out.ids.tolist() == chat_ids(tokenizer, MESSAGES, assistant_prefix="Station ")
    texts = [tokenizer.decode(laid_out.ids[unit.start : unit.end]) for unit in laid_out.units]
    assert [text.strip() for text in texts] == [unit.text.strip() for unit in laid_out.units]
    assert [unit.text for unit in laid_out.units[:12]] == SENTENCES
    assert not any("harbour master" in text for text in texts)
    assert [unit.text for unit in laid_out.units if unit.is_fence] == ["```python", "```"]
    assert [unit.text for unit in laid_out.units if unit.in_last_paragraph] == [
        "Which station is warm?",
        "Tell me its number.",
    ]


@pytest.mark.parametrize("capacity", [480, 560, 650])
def test_whole_sentences_go_and_what_is_protected_stays(capacity: int) -> None:
    text = kept_text(MESSAGES, capacity)
    assert "You are a harbour master. Be brief. Never guess." in text
    assert MESSAGES[-1]["content"] in text
    assert re.findall(r"Station \d+ [^.]*\.", text) == [s for s in SENTENCES if s in text]
    assert 0 < sum(sentence in text for sentence in SENTENCES) < 12


def test_the_best_sentences_stay() -> None:
    laid_out = chat_units(tiny_tokenizer(), Chat(MESSAGES))
    importance = torch.zeros(len(laid_out.ids))
    for i in (3, 7):
        importance[laid_out.units[i].start + 5] = 1.0
    text = kept_text(MESSAGES, 480, importance)
    assert all(SENTENCES[i] in text for i in (3, 7))


def test_the_last_message_gives_way_before_code_and_code_before_the_question() -> None:
    long = [{"role": "user", "content": f"{' '.join(SENTENCES)}\n\n```\n{CODE * 5}```\n\nWhich is warm?"}]
    some = kept_text(long, 500)
    assert CODE * 5 in some
    assert "Which is warm?" in some
    assert not all(sentence in some for sentence in SENTENCES)
    few = kept_text(long, 140)
    assert CODE * 5 not in few
    assert few.count("```") == 2
    assert "Which is warm?" in few


def test_patterns_keep_what_they_find() -> None:
    text = kept_text(MESSAGES, 560, keep=(r"Station 11 ", r"^I have read"))
    assert SENTENCES[11] in text
    assert "I have read the reports." in text


def test_what_does_not_fit_is_an_error_that_says_how_many_tokens() -> None:
    with pytest.raises(ConfigError, match=r"max_capacity_prompt=60: .* takes \d+ tokens"):
        kept_text(MESSAGES, 60)


def test_messages_are_cut_by_sentences_and_ids_by_tokens(pair: ModelPair) -> None:
    config = SpecPCConfig(max_capacity_prompt=560, **CONFIG)
    answer = generate(pair, MESSAGES, config, max_new_tokens=4)
    assert answer.target_prompt_tokens <= 560 < answer.prompt_tokens
    ids = chat_ids(pair.require_tokenizer(), MESSAGES)
    kept = pair.require_tokenizer().decode([ids[i] for i in answer.selected_positions or ()])
    assert re.findall(r"Station \d+ [^.]*\.", kept) == [s for s in SENTENCES if s in kept]
    assert score_prompt(pair, MESSAGES, config).selected.tolist() == answer.selected_positions
    with stream(pair, MESSAGES, config, max_new_tokens=4) as pieces:
        assert "".join(pieces) == answer.text
    tokens = SpecPCConfig(max_capacity_prompt=560, unit="token", **CONFIG)
    assert generate(pair, ids, config, max_new_tokens=4).target_prompt_tokens == 560
    assert generate(pair, MESSAGES, tokens, max_new_tokens=4).target_prompt_tokens == 560


def test_rows_of_a_batch_are_cut_as_alone(pair: ModelPair) -> None:
    config = SpecPCConfig(max_capacity_prompt=500, **CONFIG)
    prompts = [MESSAGES, MESSAGES[:2], random_ids(600), random_ids(40)]
    batch = generate_batch(pair, prompts, config, max_new_tokens=4)
    for prompt, row in zip(prompts, batch, strict=True):
        assert row.selected_positions == generate(pair, prompt, config, max_new_tokens=4).selected_positions


def test_settings_are_checked(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="unit='words'"):
        SpecPCConfig(unit="words")
    with pytest.raises(ConfigError, match="is not a regular expression"):
        SpecPCConfig(keep=("[a",))
    with pytest.raises(ConfigError, match="keep=3"):
        SpecPCConfig(keep=3)
    assert SpecPCConfig(keep="a").keep == ("a",)
    with pytest.raises(ConfigError, match="give messages"):
        generate(pair, random_ids(100), SpecPCConfig(unit="sentence"))
