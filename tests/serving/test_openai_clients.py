"""The clients that people use work against the server: openai, LangChain's ChatOpenAI, LlamaIndex's OpenAILike."""

from __future__ import annotations

import json

import httpx
import pytest
from serving.helpers import FACTS, MODEL, engine, served
from tiny import tiny_pair

from spec_rag import generate

openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "How much water does tank 3 hold?"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TOOL_TEMPLATE = (
    "{% if tools %}tools: {{ tools | tojson }} <tool_call>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def alone(prompt: object, **options: object) -> str:
    pair = tiny_pair()
    pair.target.generation_config.eos_token_id = None
    pair.target.lm_head.weight.data[1] = 0
    return generate(pair, prompt, **{"max_new_tokens": 8, **options}).text


def test_a_chat_is_what_the_model_itself_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK)
    assert answer.choices[0].message.content == alone(ASK)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 8)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_says_the_same_and_its_usage_where_asked(client: openai.OpenAI) -> None:
    given = {"model": MODEL, "messages": ASK, "stream": True}
    chunks = list(client.chat.completions.create(**given, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == alone(ASK)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 8)
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**given))


def test_stop_strings_end_the_answer_before_them(client: openai.OpenAI) -> None:
    whole = alone(ASK, max_new_tokens=30)
    stop = whole[6:8]
    cut = whole[: whole.index(stop)]
    given = {"model": MODEL, "messages": ASK, "max_completion_tokens": 30, "stop": [stop]}
    answer = client.chat.completions.create(**given)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (cut, "stop")
    chunks = client.chat.completions.create(**given, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut


def test_a_seed_repeats_and_a_temperature_varies(client: openai.OpenAI) -> None:
    def ask(**given: object) -> str:
        answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=1.5, **given)
        return str(answer.choices[0].message.content)

    assert ask(seed=3) == ask(seed=3)
    assert len({ask() for _ in range(4)}) > 1


def test_completions_of_texts_and_of_token_ids(client: openai.OpenAI) -> None:
    pair = tiny_pair()
    answers = client.completions.create(model=MODEL, prompt=["Water", "Soup"], max_tokens=6)
    assert [choice.text for choice in answers.choices] == [alone(p, max_new_tokens=6) for p in ("Water", "Soup")]
    ids = pair.tokenizer("Water", add_special_tokens=True).input_ids
    by_ids = client.completions.create(model=MODEL, prompt=ids, max_tokens=6)
    assert by_ids.choices[0].text == answers.choices[0].text
    pieces = client.completions.create(model=MODEL, prompt="Water", max_tokens=6, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == answers.choices[0].text


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_documents_of_a_request_are_shortened_and_read(client: openai.OpenAI) -> None:
    documents = [{"title": title, "text": text} for title, text in FACTS]
    given = {"model": MODEL, "messages": ASK}
    bare = client.chat.completions.create(**given)
    raw = client.chat.completions.with_raw_response.create(**given, extra_body={"documents": documents})
    before, after = (int(raw.headers[f"x-spec-rag-tokens-{when}"]) for when in ("before", "after"))
    added = raw.parse().usage.prompt_tokens - bare.usage.prompt_tokens
    assert 0 < after <= before / 4
    assert after <= added <= after + 40  # titles and blank lines
    wide = {"documents": documents, "spec_rag": {"ratio": 1.0}}
    whole = client.chat.completions.create(**given, extra_body=wide)
    assert whole.usage.prompt_tokens - bare.usage.prompt_tokens >= before


def test_a_marked_message_is_shortened_for_the_question_and_an_unmarked_one_is_not(client: openai.OpenAI) -> None:
    text = FACTS[0][1]
    marked = [{"role": "user", "content": text, "compress": True}, *ASK]
    blocks = [{"type": "text", "text": text, "compress": True}, {"type": "text", "text": ASK[0]["content"]}]
    parts = [{"role": "user", "content": blocks}]
    unmarked = [{"role": "user", "content": text}, *ASK]
    used = [
        client.chat.completions.create(model=MODEL, messages=messages).usage.prompt_tokens
        for messages in (marked, parts, unmarked)
    ]
    assert used[0] < used[2] - len(text) / 2
    assert abs(used[1] - used[0]) < 5


def test_tools_are_called_and_their_results_are_shortened() -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bergen"}'}}
    chat = [*ASK, {"role": "assistant", "tool_calls": [call]}]
    long = {"role": "tool", "tool_call_id": "c1", "content": FACTS[0][1]}
    own = engine(template=TOOL_TEMPLATE)
    with served(own=own) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        given = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "max_tokens": 40}
        free = client.chat.completions.create(**given)
        forced = client.chat.completions.create(**given, tool_choice="required")
        chunks = list(client.chat.completions.create(**given, tool_choice="required", stream=True))
        short = client.chat.completions.create(model=MODEL, messages=[*chat, long])
        kept = client.chat.completions.create(model=MODEL, messages=[*chat, {**long, "compress": False}])
    assert free.choices[0].message.tool_calls is None
    (call,) = forced.choices[0].message.tool_calls
    assert (call.function.name, forced.choices[0].finish_reason) == ("weather", "tool_calls")
    (streamed,) = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments)
    assert kept.usage.prompt_tokens - short.usage.prompt_tokens > len(FACTS[0][1]) / 2


def test_a_call_that_a_model_writes_reaches_the_client_whole_also_in_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from spec_rag.results import Answer
    from spec_rag.serving.engine import GenerationRequest, LocalEngine

    written = ["It is <tool", '_call>\n{"name": "weather", ', '"arguments": {"city": "Bergen"}}\n</tool_call>']
    whole = Answer("".join(written), [1], 5, 5, 3)

    async def answer(self: LocalEngine, ask: GenerationRequest) -> Answer:
        return whole

    async def stream(self: LocalEngine, ask: GenerationRequest):  # type: ignore[no-untyped-def]
        for piece in (*written, whole):
            yield piece

    monkeypatch.setattr(LocalEngine, "answer", answer)
    monkeypatch.setattr(LocalEngine, "stream", stream)
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        given = {"model": MODEL, "messages": ASK, "tools": [WEATHER]}
        choice = client.chat.completions.create(**given).choices[0]
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True)]
    assert (choice.message.content, choice.finish_reason) == ("It is", "tool_calls")
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Bergen"}
    assert "".join(c.delta.content or "" for c in chunks) == "It is"
    (streamed,) = [call for c in chunks for call in c.delta.tool_calls or ()]
    assert (streamed.index, streamed.function.name) == (0, "weather")
    assert json.loads(streamed.function.arguments) == {"city": "Bergen"}
    assert chunks[-1].finish_reason == "tool_calls"


def test_langchain_chat_openai(url: str) -> None:
    chat = pytest.importorskip("langchain_openai").ChatOpenAI(
        base_url=f"{url}/v1", api_key="none", model=MODEL, max_tokens=8, max_retries=0, stream_usage=True
    )
    answer = chat.invoke(ASK)
    assert answer.content == alone(ASK)
    assert answer.usage_metadata["output_tokens"] == 8
    chunks = list(chat.stream(ASK))
    assert "".join(chunk.text for chunk in chunks) == answer.content
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) == 8
    assert chat.batch([ASK, "Soup?"])[0].content == answer.content


async def test_llama_index_openai_like(url: str) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like").OpenAILike(
        api_base=f"{url}/v1", api_key="none", model=MODEL, is_chat_model=True, max_tokens=8, max_retries=0
    )
    from llama_index.core.llms import ChatMessage

    message = [ChatMessage(role="user", content=ASK[0]["content"])]
    assert like.chat(message).message.content == alone(ASK)
    assert list(like.stream_chat(message))[-1].message.content == alone(ASK)
    assert (await like.achat(message)).message.content == alone(ASK)
    plain = like.model_copy(update={"is_chat_model": False})
    assert plain.complete("Water").text == alone("Water")
    assert list(plain.stream_complete("Water"))[-1].text == alone("Water")


def test_json_mode_and_schemas_hold_the_answer_to_their_form() -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    litres = {"type": "integer", "minimum": 1, "maximum": 999}
    schema = {"type": "object", "properties": {"litres": litres}, "required": ["litres"]}
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        given = {"model": MODEL, "messages": ASK, "max_tokens": 40}
        some = client.chat.completions.create(**given, response_format={"type": "json_object"})
        assert isinstance(json.loads(some.choices[0].message.content), dict)
        wanted = {"type": "json_schema", "json_schema": {"name": "tank", "schema": schema, "strict": True}}
        full = client.chat.completions.create(**given, response_format=wanted)
        assert 1 <= json.loads(full.choices[0].message.content)["litres"] <= 999
        chunks = client.chat.completions.create(**given, response_format=wanted, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == full.choices[0].message.content


def test_rerank_puts_all_documents_into_an_order(url: str) -> None:
    body = {"query": "How much water?", "documents": [*(text for _, text in FACTS), "Ships sail."]}
    found = httpx.post(f"{url}/v1/rerank", json={**body, "return_documents": True}).json()
    scores = [one["relevance_score"] for one in found["results"]]
    assert sorted(one["index"] for one in found["results"]) == [0, 1, 2]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert all(one["document"]["text"] == body["documents"][one["index"]] for one in found["results"])
    blank = httpx.post(f"{url}/v1/rerank", json={**body, "documents": ["", " "]}).json()
    assert [one["relevance_score"] for one in blank["results"]] == [0.0, 0.0]
    some = httpx.post(f"{url}/v1/rerank", json={**body, "documents": ["", "Ships sail."]}).json()
    assert [one["index"] for one in some["results"]] == [1, 0]
    best = httpx.post(f"{url}/v1/rerank", json={**body, "top_n": 1}).json()
    assert [one["index"] for one in best["results"]] == [found["results"][0]["index"]]
