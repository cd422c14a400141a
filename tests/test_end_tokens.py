"""An answer ends with the turn, whichever of checkpoint, tokenizer and template names the end token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import CHAT_TEMPLATE, generate_together, random_ids, tiny_model, tiny_pair, tiny_tokenizer
from transformers import LogitsProcessor, LogitsProcessorList

from spec_rag import ModelPair, SpecKVConfig, generate, generate_batch, stream
from spec_rag.generation.draft_pass import read_rows
from spec_rag.generation.end_tokens import answer_ends, end_token_ids
from spec_rag.generation.request import GenerationRequest
from spec_rag.text.chat_format import turn_end_ids

CHAT = [{"role": "user", "content": "Who?"}]
START, END, PAD = 0, 1, 2  # of the tiny tokenizer
GEMMA = (
    "{% for m in messages %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
HARMONY = (  # a message inside the assistant's turn ends in another token than the turn
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['role'] == 'assistant' and loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>"
    "{% endif %}"
    "{% endfor %}"
)
UNCLOSED = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def tokenizer_with(template: str | None, *tokens: str, special: bool = True, eos: str | None = "<|im_end|>") -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    return tokenizer


class Writes(LogitsProcessor):  # type: ignore[misc]
    """Makes a model write these tokens."""

    def __init__(self, ids: list[int], start: int) -> None:
        self.ids, self.start = ids, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[min(input_ids.shape[1] - self.start, len(self.ids) - 1)]] = 0.0
        return forced


def writing(tokenizer: Any, ids: list[int], monkeypatch: pytest.MonkeyPatch, **generation: Any) -> ModelPair:
    """A pair whose models write these tokens, and nothing else."""
    pair = tiny_pair()
    pair.tokenizer = tokenizer
    for model in (pair.draft, pair.target):
        for name, value in {"eos_token_id": None, **generation}.items():
            setattr(model.generation_config, name, value)
        original = model.generate

        def scripted(*, input_ids: torch.Tensor, original: Callable[..., Any] = original, **options: Any) -> Any:
            own = [Writes(ids, input_ids.shape[1])]
            return original(input_ids=input_ids, **{**options, "logits_processor": LogitsProcessorList(own)})

        monkeypatch.setattr(model, "generate", scripted)
    return pair


def text(tokenizer: Any, said: str) -> list[int]:
    ids: list[int] = tokenizer(said, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize(
    ("template", "tokens", "end"),
    [
        (CHAT_TEMPLATE, (), "<|im_end|>"),
        (GEMMA, ("<end_of_turn>",), "<end_of_turn>"),
        (HARMONY, ("<|return|>", "<|end|>"), "<|return|>"),
        (UNCLOSED, ("<|user|>", "<|assistant|>"), "<|user|>"),
        (PLAIN, (), None),
        (None, (), None),
        ("{{ raise_exception('no') }}", (), None),
    ],
)
def test_the_template_says_how_the_assistants_turn_is_closed(
    template: str | None, tokens: tuple[str, ...], end: str | None
) -> None:
    for special in (True, False):
        tokenizer = tokenizer_with(template, *tokens, special=special)
        assert turn_end_ids(tokenizer) == ([] if end is None else [tokenizer.convert_tokens_to_ids(end)])


def test_a_changed_template_is_read_again() -> None:
    tokenizer = tokenizer_with(GEMMA, "<end_of_turn>")
    assert turn_end_ids(tokenizer) != [END]
    tokenizer.chat_template = CHAT_TEMPLATE
    assert turn_end_ids(tokenizer) == [END]


def test_the_ends_are_those_of_checkpoint_tokenizer_and_template() -> None:
    model = tiny_model()
    tokenizer = tokenizer_with(GEMMA, "<end_of_turn>")
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model.generation_config.eos_token_id = [7, 1]
    assert end_token_ids(model, tokenizer) == [7, END, turn]
    model.generation_config.eos_token_id = None
    assert end_token_ids(model, tokenizer) == [END, turn]
    model.generation_config.eos_token_id = 5000
    assert end_token_ids(model, tokenizer_with(PLAIN, eos=None)) == [], "the model has no such token"
    assert end_token_ids(model, None) == []


Way = Callable[[ModelPair, Any], tuple[str, str]]


def streamed(pair: ModelPair, prompt: Any, **options: Any) -> tuple[str, str]:
    pieces = stream(pair, prompt, max_new_tokens=30, **options)
    said = "".join(pieces)
    assert pieces.answer is not None
    assert said == pieces.answer.text
    return said, pieces.answer.finish_reason


WAYS: dict[str, Way] = {
    "generate": lambda pair, prompt: said(generate(pair, prompt, max_new_tokens=30)),
    "batch": lambda pair, prompt: said(generate_batch(pair, [prompt, prompt], max_new_tokens=30)[1]),
    "queue": lambda pair, prompt: said(generate_together(pair, prompt, max_new_tokens=30)),
    "stream": streamed,
    "stream with a seed": lambda pair, prompt: streamed(pair, prompt, seed=1),
    "beams": lambda pair, prompt: said(generate(pair, prompt, max_new_tokens=30, num_beams=2)),
}


def said(answer: Any) -> tuple[str, str]:
    return answer.text, answer.finish_reason


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("by", ["tokenizer", "template", "checkpoint"])
def test_no_answer_runs_on_into_the_next_turn(
    way: str, special: bool, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_with(GEMMA if by == "template" else PLAIN, "<end_of_turn>", special=special, eos=None)
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    if by == "tokenizer":
        tokenizer.eos_token = "<end_of_turn>"
    script = [*text(tokenizer, "The baker."), turn, *text(tokenizer, "\nuser\nAnd now?")]
    pair = writing(tokenizer, script, monkeypatch, eos_token_id=[turn] if by == "checkpoint" else END)
    for prompt in (CHAT, "Once upon a time"):
        assert WAYS[way](pair, prompt) == ("The baker.", "stop")


def test_the_callers_end_tokens_win(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    dot = tokenizer.convert_tokens_to_ids(".")
    script = [*text(tokenizer, "The"), END, *text(tokenizer, " baker. No")]
    pair = writing(tokenizer, script, monkeypatch, eos_token_id=END)
    for given in (dot, [dot], (dot,)):
        assert said(generate(pair, CHAT, max_new_tokens=30, eos_token_id=given)) == ("The baker.", "stop")
        assert streamed(pair, CHAT, eos_token_id=given) == ("The baker.", "stop")
    for none in (-1, []):
        answer = generate(pair, CHAT, max_new_tokens=20, eos_token_id=none)
        assert (len(answer.output_ids), answer.finish_reason) == (20, "length")
    assert answer_ends(pair) == [END]


def test_a_look_ahead_ends_where_the_answer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_with(GEMMA, "<end_of_turn>", eos=None)
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    script = [*text(tokenizer, "Yes"), turn, *text(tokenizer, "\nuser")]
    for lookahead in ("draft", "target"):
        with monkeypatch.context() as patched:
            pair = writing(tokenizer, script, patched)
            speckv = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead=lookahead, lookahead_tokens=8)
            answer = generate(pair, random_ids(100), speckv=speckv, max_new_tokens=20)
            assert answer.lookahead_ids == script[:4]
            assert (answer.text, answer.output_ids) == ("Yes", script[:4])
    pair = writing(tokenizer, script, monkeypatch)
    assert read_rows(GenerationRequest(pair), [random_ids(30)], 8).lookahead_mask.sum() == 4


def test_rows_of_one_queue_end_each_at_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_with(GEMMA, "<end_of_turn>", special=False, eos=None)
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    pair = writing(tokenizer, [*text(tokenizer, "Yes"), turn, *text(tokenizer, " no")], monkeypatch)
    found: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda: found.append(streamed(pair, CHAT))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [("Yes", "stop")] * 3


def test_a_stop_string_that_begins_in_the_prompt_does_not_end_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    pair = writing(tokenizer, [*text(tokenizer, "\nQ: why?"), END], monkeypatch)
    answer = generate(pair, "Question\n", max_new_tokens=30, stop=["\n\n"])
    assert said(answer) == ("\nQ: why?", "stop")
    assert streamed(pair, "Question\n", stop=["\n\n"]) == said(answer)
    chat = [*CHAT, {"role": "assistant", "content": "The END"}]
    assert said(generate(pair, chat, max_new_tokens=4, stop=["assistant\n\n"])) == ("\nQ: ", "length")


@pytest.mark.parametrize(
    ("written", "stop", "expected"),
    [
        (["a\n", START, "user\nb"], "<|im_start|>", "a\n"),
        (["a\n", START, "user\nb"], "\n<|im_start|>user", "a"),
        (["a\n\n b"], "\n\n", "a"),
        (["a \n  key: 1"], "\n  key", "a "),
        (["ababac"], ["abac", "bad"], "ab"),
        (["abc"], ["bcd", "c"], "ab"),
        (["abc"], ["bc", "abc"], ""),
        (["ab€ c"], "€ c", "ab"),
    ],
)
def test_each_stop_string_ends_the_answer_and_gives_the_reason(
    written: list[Any], stop: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    script = [i for part in written for i in ([part] if isinstance(part, int) else text(tokenizer, part))]
    pair = writing(tokenizer, [*script, *text(tokenizer, " and so on and so on")], monkeypatch)
    speckv = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=8)
    prompt = [5] * 60
    for options in ({}, {"num_beams": 2}, {"speckv": speckv}, {"seed": 1}):
        answer = generate(pair, prompt, max_new_tokens=30, stop=stop, **options)  # type: ignore[arg-type]
        assert said(answer) == (expected, "stop"), options
        assert answer.output_ids == script[: len(answer.output_ids)], "nothing is counted that fills the batch"
        if "num_beams" not in options:
            assert streamed(pair, prompt, stop=stop, **options) == (expected, "stop")
    for answer in generate_batch(pair, [prompt, prompt], max_new_tokens=30, stop=stop):
        assert said(answer) == (expected, "stop")
