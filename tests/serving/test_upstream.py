"""In front of another server: texts are shortened once and for all, and the upstream's troubles reach the client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving.fake_upstream import PIECES, Fake
from serving.helpers import FACTS, engine, served, settings
from serving.ten_turns import check_ten_turns, hold_ten_turns

from spec_rag.serving.settings import ServerSettings

openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "How much does tank 3 hold?"}]


@pytest.fixture
def fake() -> Fake:
    return Fake()


def fronting(upstream: str, **given: Any) -> ServerSettings:
    return settings(target=None, upstream=upstream, **given)


@pytest.fixture
def front(fake: Fake) -> Iterator[str]:
    with fake.running() as upstream, served(fronting(upstream, timeout_seconds=60.0), engine()) as url:
        yield url


@pytest.fixture
def impatient_front(fake: Fake) -> Iterator[str]:
    with fake.running() as upstream, served(fronting(upstream, timeout_seconds=2.0), engine()) as url:
        yield url


def client_of(url: str, key: str = "secret") -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_ten_turns_with_results_and_documents_keep_what_was_forwarded_byte_for_byte(fake: Fake, front: str) -> None:
    spent = hold_ten_turns(client_of(front), "big")
    check_ten_turns(fake.bodies, spent)


def test_another_clients_same_question_never_brings_the_documents_of_the_first(fake: Fake, front: str) -> None:
    for key in ("first", "second", "second"):
        client = client_of(front, key)
        word = f"{key}-water"
        documents = [text.replace("water", word) for _, text in FACTS]
        first = client.chat.completions.create(model="big", messages=ASK, extra_body={"documents": documents})
        turns = [*ASK, {"role": "assistant", "content": first.choices[0].message.content}, *ASK]
        client.chat.completions.create(model="big", messages=turns, extra_body={"documents": documents})
    for body, other in zip(fake.bodies, ["second"] * 2 + ["first"] * 4, strict=True):
        assert f"{other}-water".encode() not in body
    assert fake.bodies[2] == fake.bodies[4]


def test_streams_pass_through_as_they_come(fake: Fake, front: str) -> None:
    fake.mood = "stepwise"
    text = ""
    for chunk in (
        client_of(front).with_options(timeout=60).chat.completions.create(model="big", messages=ASK, stream=True)
    ):
        text += chunk.choices[0].delta.content
        fake.steps.release()  # the next piece is not even written before
    assert text == "".join(PIECES)


def test_what_is_not_a_chat_is_handed_on_as_it_is(front: str) -> None:
    assert [model.id for model in client_of(front).models.list()] == ["big"]
    assert httpx.get(f"{front}/v1/nothing").json() == {"detail": "Not Found"}
    assert httpx.get(f"{front}/health").json()["status"] == "ok"
    body = {"documents": [text for _, text in FACTS], "query": "Tank 3?", "ratio": 0.3}
    assert httpx.post(f"{front}/v1/compress", json=body).json()["ratio"] <= 0.3


def test_keys_headers_and_fields_of_the_client_reach_the_upstream(fake: Fake, front: str) -> None:
    raw = client_of(front).chat.completions.with_raw_response.create(
        model="big", messages=ASK, extra_body={"own_field": [1]}, extra_headers={"X-Trace": "t"}
    )
    assert json.loads(fake.bodies[0]) == {"messages": ASK, "model": "big", "own_field": [1]}
    assert (fake.headers[0]["authorization"], fake.headers[0]["x-trace"]) == ("Bearer secret", "t")
    assert raw.headers["x-own"] == "1"
    assert "x-spec-rag-tokens-before" not in raw.headers


def test_a_server_with_keys_of_its_own_does_not_hand_them_on(fake: Fake) -> None:
    with fake.running() as upstream:
        for given, sent in ((None, None), ("theirs", "Bearer theirs")):
            own = fronting(upstream, api_keys=("ours",), upstream_key=given)
            with served(own, engine()) as url:
                client_of(url, "ours").chat.completions.create(model="big", messages=ASK)
                with pytest.raises(openai.AuthenticationError):
                    client_of(url, "theirs").chat.completions.create(model="big", messages=ASK)
            assert fake.headers.pop().get("authorization") == sent
            assert not fake.headers


@pytest.mark.parametrize(
    ("mood", "error", "says"),
    [
        ("badly", "InternalServerError", "boom"),
        ("busy", "RateLimitError", "later"),
    ],
)
def test_failures_of_the_upstream_reach_the_client(fake: Fake, front: str, mood: str, error: str, says: str) -> None:
    fake.mood = mood
    with pytest.raises(getattr(openai, error), match=says) as caught:
        client_of(front).chat.completions.create(model="big", messages=ASK)
    if mood == "busy":
        assert caught.value.response.headers["retry-after"] == "7"


def test_an_upstream_that_says_nothing_is_told(fake: Fake, impatient_front: str) -> None:
    fake.mood = "never"
    with pytest.raises(openai.InternalServerError, match="upstream_timeout") as caught:
        client_of(impatient_front).chat.completions.create(model="big", messages=ASK)
    assert caught.value.status_code == 504


def test_an_upstream_that_is_not_there_is_told() -> None:
    with served(fronting("http://127.0.0.1:9/v1"), engine()) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json={"model": "big", "messages": ASK})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize("mood", ["cut", "silent"])
def test_a_stream_that_breaks_off_breaks_off_for_the_client(fake: Fake, mood: str, request: Any) -> None:
    front = request.getfixturevalue("impatient_front" if mood == "silent" else "front")
    fake.mood = mood
    got: list[str] = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{front}/v1/chat/completions", json={"messages": ASK, "stream": True}) as response,
    ):
        got.extend(response.iter_lines())
    assert not any("[DONE]" in line for line in got)
    assert "spec_rag_upstream_errors_total" in httpx.get(f"{front}/metrics").text


def test_a_client_that_leaves_ends_the_stream_of_the_upstream(fake: Fake, front: str) -> None:
    fake.mood = "stepwise"
    with httpx.stream("POST", f"{front}/v1/chat/completions", json={"messages": ASK, "stream": True}) as response:
        lines = response.iter_lines()  # held: whoever lets go of it hangs up
        assert next(lines)
        assert fake.open_streams == 1
    ends = time.monotonic() + 20
    while fake.open_streams and time.monotonic() < ends:
        time.sleep(0.02)
    assert fake.open_streams == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 5000,
        b'{"messages": 1}',
        b'{"messages": ["x"]}',
        b'{"messages": [], "documents": 1}',
        b'{"messages": [], "documents": [{"x": 1}]}',
        b'{"messages": [], "documents": ["text"]}',
        b'{"messages": [], "spec_rag": 1}',
        b'{"messages": [], "spec_rag": {"ratio": 2}}',
    ],
)
def test_what_cannot_be_shortened_is_refused_here(fake: Fake, front: str, body: bytes) -> None:
    response = httpx.post(f"{front}/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert fake.bodies == []
