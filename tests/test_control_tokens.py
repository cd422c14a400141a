"""What a document, a question, a name or a tool's result spells out stays text, at every entrance of the core.

Each entrance is gone through twice, with harmless text and with text that spells out every control token; what the
models' embeddings looked up may hold the template's control tokens alone, so the same ones both times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import control_ids, control_seen, llama_style_tokenizer, pair_with, spelled
from transformers import PreTrainedTokenizerBase

from spec_rag import ContextCache, ModelPair, SpecKVConfig, SpecPCConfig, compress, generate, score_prompt
from spec_rag.generation.streaming import stream
from spec_rag.text.documents import Document
from spec_rag.text.prompts import Chat, chat_ids, prompt_ids
from spec_rag.text.tokenization import control_tokens, template_ids, text_ids

FILLER = "The old harbour is of granite. Ships came there. "
CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "%s"}'}}
TOOL = {"type": "function", "function": {"name": "search", "description": "%s", "parameters": {}}}
SPECPC = SpecPCConfig(max_capacity_prompt=60, window_size=8, starting_layer_index=0, unit="token")
SPECKV = SpecKVConfig(max_capacity_prompt=40, lookahead_tokens=4)


@pytest.fixture(scope="module", params=["smollm2", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "llama":
        return llama_style_tokenizer()
    return request.getfixturevalue("smollm2").require_tokenizer()


@pytest.fixture(scope="module")
def pair(tokenizer: PreTrainedTokenizerBase) -> ModelPair:
    return pair_with(tokenizer)


def messages(text: str) -> list[dict[str, Any]]:
    call = {**CALL, "function": {"name": "search", "arguments": {"q": text}}}
    return [
        {"role": "system", "content": f"Be brief. {text}"},
        {"role": "user", "content": [{"type": "text", "text": FILLER + text}], "name": text},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "name": text, "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": f"{text} What is it?"},
    ]


def tool(text: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "search", "description": text, "parameters": {"title": text}}}


def documents(text: str) -> list[Any]:
    return [FILLER + text, Document(FILLER, title=text), (text, FILLER)]


ENTRANCES: dict[str, Callable[[ModelPair, str], object]] = {
    "generate text": lambda pair, text: generate(pair, text, max_new_tokens=2),
    "generate chat": lambda pair, text: generate(pair, messages(text), max_new_tokens=2),
    "generate with SpecPC": lambda pair, text: generate(pair, messages(text), SPECPC, max_new_tokens=2),
    "generate with SpecKV": lambda pair, text: generate(pair, messages(text), None, SPECKV, 2),
    "tools and a beginning": lambda pair, text: generate(
        pair, Chat(messages(text), [tool(text)], assistant_prefix=text), max_new_tokens=2
    ),
    "stream": lambda pair, text: list(stream(pair, messages(text), max_new_tokens=2)),
    "score a prompt": lambda pair, text: score_prompt(pair, messages(text), SPECPC),
    "a context": lambda pair, text: ContextCache.read(pair, FILLER + text, keep=1.0),
    "compress": lambda pair, text: compress(documents(text), text, draft=pair, ratio=0.5, calibration=None),
    "compress jointly": lambda pair, text: compress(
        documents(text), text, draft=pair, ratio=0.5, scoring="joint", calibration=None
    ),
    "compress for a chat": lambda pair, text: compress(
        documents(text), [{"role": "user", "content": text}], draft=pair, ratio=0.5, calibration=None
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_control_tokens_that_are_spelled_out_never_reach_a_model(pair: ModelPair, entrance: str) -> None:
    harmless, hostile = control_seen(pair, lambda text: ENTRANCES[entrance](pair, text))
    assert set(hostile) <= set(harmless)  # which may be padded where the other is not
    if entrance.startswith("generate") and "Spec" not in entrance:
        assert hostile == harmless


def test_a_question_on_a_context_stays_text(pair: ModelPair) -> None:
    context = ContextCache.read(pair, FILLER, keep=1.0)
    harmless, hostile = control_seen(pair, lambda text: generate(pair, text, context=context, max_new_tokens=2))
    assert harmless == hostile


@pytest.mark.parametrize("place", range(6))
def test_each_string_of_a_chat_stays_text_and_the_templates_tokens_stay_alive(
    tokenizer: PreTrainedTokenizerBase, place: int
) -> None:
    harmless = messages("Fine.")
    hostile = [*harmless[:place], messages(spelled(tokenizer))[place], *harmless[place + 1 :]]
    control = control_ids(tokenizer)
    kept = [[token for token in chat_ids(tokenizer, chat) if token in control] for chat in (harmless, hostile)]
    assert kept[0] == kept[1]
    assert kept[0]


def test_text_that_only_becomes_a_control_token_by_normalization_stays_text() -> None:
    tokenizer = llama_style_tokenizer()
    token = tokenizer.convert_tokens_to_ids("<end▁of▁turn>")
    plain = [{"role": "user", "content": "Now <end of turn> then."}]
    assert token in tokenizer("Now <end of turn> then.")["input_ids"], "the tokenizer itself is taken in"
    assert token not in chat_ids(tokenizer, plain)
    assert token not in prompt_ids(tokenizer, "Now <end of turn> then.").tolist()
    assert token not in text_ids(tokenizer, "<end of turn>")
    assert template_ids(tokenizer, "Now <end▁of▁turn>").count(token) == 1


def test_control_tokens_of_a_slow_tokenizer_are_its_special_and_its_added_ones() -> None:
    class Slow:
        all_special_tokens = ("</s>",)

        def get_added_vocab(self) -> dict[str, int]:
            return {"</s>": 2, "<|user|>": 5, "  ": 6}

    assert control_tokens(Slow()) == {"</s>", "<|user|>"}
