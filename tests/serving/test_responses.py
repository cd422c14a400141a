"""/v1/responses of the server itself: text, functions, streams, and what is stored."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from serving.helpers import MODEL, engine, served, settings

openai = pytest.importorskip("openai")


def client_of(url: str, key: str = "k") -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client_gets_the_text_that_a_chat_gives(stream: bool, url: str) -> None:
    client = client_of(url)
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello."}], max_tokens=9)
    if stream:
        events = list(client.responses.create(model=MODEL, input="Hello.", max_output_tokens=9, stream=True))
        kinds = [event.type for event in events]
        found = events[-1].response
        assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert kinds.count("response.output_text.done") == 1
    else:
        found = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=9)
    assert found.output_text == chat.choices[0].message.content
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert found.usage.output_tokens == chat.usage.completion_tokens
    assert client.responses.retrieve(found.id).output_text == found.output_text


def test_a_response_is_continued_by_its_id_as_a_chat_by_its_messages(url: str) -> None:
    client = client_of(url)
    first = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=5, instructions="Be brief.")
    second = client.responses.create(
        model=MODEL, input="And now?", max_output_tokens=5, previous_response_id=first.id, instructions="Be brief."
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And now?"},
    ]
    chat = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
    assert second.output_text == chat.choices[0].message.content


def test_stored_responses_belong_to_one_client_and_can_be_deleted(url: str) -> None:
    client = client_of(url)
    found = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=2)
    with pytest.raises(openai.NotFoundError):
        client_of(url, "other").responses.retrieve(found.id)
    client.responses.delete(found.id)
    with pytest.raises(openai.NotFoundError, match="send its items"):
        client.responses.create(model=MODEL, input="x", previous_response_id=found.id)
    unstored = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_what_is_stored_is_bounded() -> None:
    with served(settings(conversation_bytes=20_000), engine()) as url:
        client = client_of(url)
        kept = [client.responses.create(model=MODEL, input="Hello. " * 50, max_output_tokens=2).id for _ in range(6)]
        statuses = [
            httpx.get(f"{url}/v1/responses/{one}", headers={"authorization": "Bearer k"}).status_code for one in kept
        ]
    assert statuses[0] == 404
    assert statuses[-1] == 200


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"max_output_tokens": 10**9}, "max_output_tokens"),
        ({"background": True}, "background"),
        ({"nonsense": 1}, "nonsense"),
        ({"temperature": 9}, "temperature"),
        ({"input": []}, "input"),
    ],
)
def test_what_is_not_served_is_refused_by_name(body: dict[str, Any], name: str, url: str) -> None:
    answer = httpx.post(f"{url}/v1/responses", json={"model": MODEL, "input": "Hi", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name), answer.text
