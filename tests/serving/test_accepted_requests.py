"""Requests that OpenAI's API takes and that clients send: accepted, and each field does what it says."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
import torch
from serving.helpers import MODEL, engine, served, settings
from serving.test_openai_clients import TOOL_TEMPLATE
from tiny import tiny_pair

from spec_rag import generate
from spec_rag.generation.token_logits import AnswerPenalties

openai = pytest.importorskip("openai")

USER = {"role": "user", "content": "How much water does tank 3 hold?"}
SAID = {"role": "assistant", "content": "Hello"}
CHAT = {"model": MODEL, "messages": [USER], "max_tokens": 12}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
NEWS = {"type": "function", "function": {"name": "news", "parameters": {"type": "object"}}}


def ask(url: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **body}, timeout=60)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def text_of(url: str, **body: Any) -> str:
    return str(ask(url, **body)["choices"][0]["message"]["content"])


def written(**options: Any) -> list[int]:
    """The token ids that the model itself writes."""
    return generate(engine(endless=True).pair, [USER], max_new_tokens=12, **options).output_ids


@pytest.mark.parametrize(
    "same",
    [
        {"temperature": 0, "top_p": 0.95},
        {"temperature": 0, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "typical_p": 0.5, "seed": 3},
        {"temperature": 0.0, "top_k": 0, "min_p": 0},
        {"top_p": 1, "top_k": 0, "min_p": 0, "typical_p": 1, "repetition_penalty": 1.0},
        {"top_k": -1, "seed": -1, "min_tokens": 0},
        {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "stop": [], "stop_token_ids": []},
        {"logit_bias": {"5": 0}, "n": 1, "logprobs": False, "top_logprobs": 0},
        {"functions": None, "function_call": None, "audio": None, "prediction": None, "web_search_options": None},
        {"modalities": ["text"], "modalities_x": None, "verbosity": None, "unheard_of": None, "tool_choice": None},
        {"tools": None, "response_format": None, "parallel_tool_calls": None, "stream_options": None, "stop": None},
        {"tools": [], "functions": [], "function_call": "none"},
        {"user": "u", "metadata": {"a": 1}, "store": False, "service_tier": "auto", "prompt_cache_key": "k"},
    ],
    ids=str,
)
def test_fields_that_change_nothing_are_accepted_and_change_nothing(url: str, same: dict[str, Any]) -> None:
    assert text_of(url, **same) == text_of(url)


@pytest.mark.parametrize(
    "fields",
    [
        openai.types.chat.ChatCompletionMessage(role="assistant", content="Hello").model_dump() | {"annotations": []},
        {**SAID, "audio": None, "refusal": None, "tool_calls": None, "function_call": None, "annotations": []},
        {**SAID, "reasoning_content": "I think", "reasoning": None, "provider_specific_fields": {"x": [1]}},
        {**SAID, "tool_calls": [], "name": None, "id": "m1", "thinking_blocks": []},
        {**SAID, "content": [{"type": "text", "text": "Hello", "annotations": [], "cache_control": None}]},
        {**SAID, "content": [{"type": "output_text", "text": "Hello"}]},
    ],
    ids=str,
)
def test_an_answer_is_sent_back_as_it_came(url: str, fields: dict[str, Any]) -> None:
    assert text_of(url, messages=[USER, fields, USER]) == text_of(url, messages=[USER, SAID, USER])


@pytest.mark.parametrize("arguments", ["", "  ", None, "{}"])
def test_a_call_without_arguments_is_sent_back(arguments: str | None) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    with served(own=engine(endless=True, template=TOOL_TEMPLATE)) as url:
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert ask(url, tools=[WEATHER], messages=[USER, called, result])
        older = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": arguments}}
        assert ask(url, messages=[USER, older, {"role": "function", "name": "weather", "content": "sunny"}])


STRICT = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id is undefined or c.id | length != 9 %}"
    "{{ raise_exception('ids have length 9') }}{% endif %}{% endfor %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_call_id %}{{ m.tool_call_id }}{% endif %}<|im_end|>\n{% endfor %}{% if tools %}{{ tools }}{% endif %}"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize("name", ["call_abc123DEF456ghi789", "toolu_01", "x" * 200, "é", "abcdefghi"])
def test_ids_of_tool_calls_of_other_servers_are_taken(name: str) -> None:
    call = {"id": name, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": name, "content": "sunny"}
    with served(own=engine(endless=True, template=STRICT)) as url:
        assert ask(url, tools=[WEATHER], messages=[USER, called, result])


def test_models_are_found_by_their_names_with_slashes(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with served(settings(served_name="org/name-1:q4"), engine()) as named:
        for path in ("org/name-1:q4", "org%2Fname-1:q4", "org%2fname-1%3Aq4"):
            assert httpx.get(f"{named}/v1/models/{path}").json()["id"] == "org/name-1:q4"
        assert httpx.get(f"{named}/v1/models/org").status_code == 404


def test_several_answers_to_one_prompt(url: str) -> None:
    found = ask(url, n=3)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in found["choices"]}) == 1  # greedy
    one = ask(url)["usage"]
    assert found["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert found["usage"]["completion_tokens"] == 3 * one["completion_tokens"]
    given = {"n": 4, "seed": 5, "temperature": 1.5}
    sampled = [choice["message"]["content"] for choice in ask(url, **given)["choices"]]
    assert sampled == [choice["message"]["content"] for choice in ask(url, **given)["choices"]]
    assert len(set(sampled)) > 1


def test_several_answers_as_a_stream_say_the_same(url: str) -> None:
    given = {"n": 2, "seed": 5, "temperature": 1.5}
    whole = [choice["message"]["content"] for choice in ask(url, **given)["choices"]]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    texts, reasons = ["", ""], [None, None]
    for chunk in client.chat.completions.create(**CHAT, **given, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == whole
    assert reasons == ["length", "length"]
    pieces = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3, stream=True)
    assert {choice.index for piece in pieces for choice in piece.choices} == {0, 1}


def test_log_probabilities_are_those_of_the_model(url: str) -> None:
    found = ask(url, logprobs=True, top_logprobs=3)["choices"][0]
    content = found["logprobs"]["content"]
    decode = tiny_pair().tokenizer.decode
    assert [one["token"] for one in content] == [decode([token]) for token in written()]
    pair = engine(endless=True).pair
    prompt = pair.tokenizer.apply_chat_template(
        [USER], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        expected = pair.target(**prompt).logits[0, -1].log_softmax(-1).topk(3)
    first = content[0]
    assert [one["logprob"] for one in first["top_logprobs"]] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert first["logprob"] == first["top_logprobs"][0]["logprob"]  # greedy
    assert first["token"] == pair.tokenizer.decode([expected.indices[0].item()])
    assert all(one["bytes"] is None or bytes(one["bytes"]).decode() == one["token"] for one in content)
    assert all(one["logprob"] <= 0 and math.isfinite(one["logprob"]) for one in content)
    plain = ask(url, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [one["top_logprobs"] for one in plain] == [[]] * 12
    assert ask(url)["choices"][0]["logprobs"] is None


def test_log_probabilities_of_a_stream_and_of_a_completion(url: str) -> None:
    whole = ask(url, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    chunks = list(client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, stream=True))
    noted = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.token for one in noted] == [one["token"] for one in whole]
    found = client.completions.create(model=MODEL, prompt="Water", max_tokens=5, logprobs=2).choices[0]
    assert len(found.logprobs.tokens) == len(found.logprobs.token_logprobs) == 5
    assert all(1 <= len(top) <= 2 for top in found.logprobs.top_logprobs)  # two tokens may have the same text
    assert found.logprobs.text_offset[0] == 0


def test_log_probabilities_of_a_constrained_answer_are_numbers() -> None:
    with served(own=engine()) as url:
        given = {"logprobs": True, "top_logprobs": 20, "response_format": {"type": "json_object"}, "max_tokens": 20}
        content = ask(url, **given)["choices"][0]["logprobs"]["content"]
    assert all(math.isfinite(one["logprob"]) for entry in content for one in (entry, *entry["top_logprobs"]))


def test_penalties_lower_what_the_answer_has_already(url: str) -> None:
    ids = torch.tensor([[7, 7, 2, 2, 3], [7, 7, 1, 4, 5]])  # two tokens of prompts
    lowered = AnswerPenalties(2, 0.5, 0.25)(ids, torch.zeros(2, 8))
    assert lowered[0].tolist() == [0, 0, -1.0, -0.75, 0, 0, 0, 0]
    assert lowered[1].tolist() == [0, -0.75, 0, 0, -0.75, -0.75, 0, 0]
    assert not AnswerPenalties(5, 0.5, 0.25)(ids, torch.zeros(2, 8)).any()
    tokenizer = tiny_pair().tokenizer
    a, b = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("a", "b"))
    bias = {"logit_bias": {str(a): 100, str(b): 99}, "max_tokens": 20}
    balanced = text_of(url, **bias, frequency_penalty=2)
    assert set(balanced) == {"a", "b"}
    assert abs(balanced.count("a") - balanced.count("b")) < abs(
        text_of(url, **bias).count("a") - text_of(url, **bias).count("b")
    )


def test_a_bias_forces_or_forbids_a_token(url: str) -> None:
    tokenizer = tiny_pair().tokenizer
    token = tokenizer("water", add_special_tokens=False).input_ids[0]
    forced = {"logit_bias": {str(token): 100}, "max_tokens": 3}
    assert text_of(url, **forced) == tokenizer.decode([token] * 3)
    assert text_of(url, **forced, stop_token_ids=[token]) == tokenizer.decode([token])
    first = written()[0]
    forbidden = written(sequence_bias=[[[first], -100.0]])
    assert first not in forbidden
    assert text_of(url, logit_bias={str(first): -100}) == tokenizer.decode(forbidden, skip_special_tokens=True)


def test_an_answer_has_at_least_min_tokens() -> None:
    with served(own=engine()) as url:
        eos = {"1": 100}
        assert ask(url, logit_bias=eos)["usage"]["completion_tokens"] == 1
        assert ask(url, logit_bias=eos, min_tokens=4)["usage"]["completion_tokens"] == 5
        error = ask(url, 400, min_tokens=50)["error"]
        assert error["param"] == "min_tokens"


def test_stop_token_ids_end_an_answer_besides_its_end_tokens() -> None:
    with served(own=engine()) as url:
        found = ask(url, logit_bias={"1": 100}, stop_token_ids=[50])
    assert (found["choices"][0]["finish_reason"], found["usage"]["completion_tokens"]) == ("stop", 1)


VARIABLES = "{{ reasoning_effort | default('plain') }}{{ thinking | default('') }}" + (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def test_variables_of_the_template_reach_it() -> None:
    own = engine(endless=True, template=VARIABLES)
    with served(own=own) as url:
        plain = ask(url)["usage"]["prompt_tokens"]
        effort = ask(url, reasoning_effort="high", chat_template_kwargs={"thinking": "w" * 50})["usage"][
            "prompt_tokens"
        ]
        assert effort > plain
        assert ask(url)["usage"]["prompt_tokens"] == plain


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_ones_offered(mode: str) -> None:
    own = engine(template=TOOL_TEMPLATE)
    with served(own=own) as url:
        allowed = {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": [WEATHER | {"function": {"name": "weather"}}]},
        }
        both = {"tools": [WEATHER, NEWS], "max_tokens": 100}
        narrowed = ask(url, tool_choice=allowed, **both)
        alone = ask(url, tools=[WEATHER], tool_choice=mode, max_tokens=100)
        assert narrowed["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
        if mode == "required":
            calls = narrowed["choices"][0]["message"]["tool_calls"]
            assert [call["function"]["name"] for call in calls] == ["weather"]
        other = [{"type": "function", "function": {"name": "x"}}]
        unknown = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": other}}
        assert ask(url, 400, tool_choice=unknown, **both)["error"]["param"] == "tools"


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


@pytest.mark.parametrize("levels", [30, 60, 100, 126, 130, 500, 900, 5000])
def test_deep_nesting_is_answered_or_refused_and_never_fails(levels: int) -> None:
    deep = json.dumps(nested(30)).replace("{}", '{"properties": ' * (levels - 30) + "{}" + "}" * (levels - 30))
    chat = json.dumps(CHAT)[:-1]
    tool = '{"type": "function", "function": {"name": "f", "parameters": ' + deep + "}}"
    schema = '{"type": "json_schema", "json_schema": {"name": "f", "schema": ' + deep + "}}"
    called = {"id": "1", "type": "function", "function": {"name": "f", "arguments": deep}}
    message = [USER, {"role": "assistant", "content": None, "tool_calls": [called]}, USER]
    bodies = [
        f'{chat}, "tools": [{tool}]}}',
        f'{chat}, "tools": [{tool}], "tool_choice": "required"}}',
        f'{chat}, "response_format": {schema}}}',
        f'{chat}, "metadata": {deep}}}',
        f'{chat}, "chat_template_kwargs": {{"a": {deep}}}}}',
        f'{chat}, "documents": [{{"text": "x", "metadata": {deep}}}]}}',
        f'{chat}, "spec_rag": {{"keep": {deep}}}}}',
        f'{chat}, "messages": [{{"role": "user", "content": {deep}}}]}}',
        f'{chat}, "messages": [{{"role": "user", "content": [{{"type": "text", "text": "x", "y": {deep}}}]}}]}}',
        json.dumps({**CHAT, "messages": message, "tools": [WEATHER]}),
    ]
    with served(own=engine(endless=True, template=TOOL_TEMPLATE)) as url:
        for body in bodies:
            response = httpx.post(
                f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code in (200, 400), (response.status_code, body[:200])
            if levels > 128:
                assert response.status_code == 400


def test_an_error_names_the_field_that_was_sent(url: str) -> None:
    picture = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    error = ask(url, 400, messages=[{"role": "user", "content": picture}])["error"]
    assert error["param"] == "messages.0.content.1.type"
    assert "image_url" in error["message"]
    error = ask(url, 400, messages=[{"role": "user", "content": "word " * 5000}])["error"]
    assert "max_tokens" in error["message"]
    assert "max_new_tokens" not in error["message"]
    assert ask(url, 400, presence_penalty=3)["error"]["param"] == "presence_penalty"
    assert ask(url, 400, tool_choice={"type": "function"})["error"]["param"].startswith("tool_choice")
