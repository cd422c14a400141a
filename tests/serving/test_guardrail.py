"""Tool results shortened for other gateways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving.helpers import Light, served, settings
from serving.test_gateway_shapes import Faulty, exchange, result_of

from spec_rag.options.compression import CompressionConfig


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(settings(compression=CompressionConfig(ratio=0.3)), Light()) as base:
        yield base


@pytest.mark.parametrize("shape", ["chat", "messages"])
def test_messages_in_messages_out(shape: str, url: str) -> None:
    messages = exchange(shape, 0, result_of(0))
    found = httpx.post(f"{url}/v1/compress", json={"messages": messages, "model": "big", "ratio": 0.3}).json()
    assert found["messages"][:2] == messages[:2]
    assert len(str(found["messages"][2])) < len(str(messages[2]))
    assert found["tokens_saved"] == found["tokens_before"] - found["tokens_after"] > 0
    assert found["compression_ratio"] < 0.5
    again = httpx.post(f"{url}/v1/compress", json={"messages": messages, "ratio": 0.3}).json()
    assert again == found
    short = httpx.post(f"{url}/v1/compress", json={"messages": exchange(shape, 0, "short")}).json()
    assert (short["messages"], short["not_shortened"]) == (exchange(shape, 0, "short"), {"short": 1})


def test_wrong_messages_and_options_are_refused_by_name(url: str) -> None:
    wrong: list[tuple[Any, str]] = [({"messages": "x"}, "messages"), ({"messages": [], "ratio": 7}, "ratio")]
    for body, name in [*wrong, ({"query": "x"}, "documents")]:
        answer = httpx.post(f"{url}/v1/compress", json=body)
        assert (answer.status_code, name in answer.json()["error"]["message"]) == (400, True), answer.text


def guarded(url: str, **more: Any) -> dict[str, Any]:
    messages = exchange("chat", 0, result_of(0))
    texts = ["How much does tank 0 hold?", result_of(0)]
    body = {"input_type": "request", "texts": texts, "structured_messages": messages, "request_data": {}, **more}
    found: dict[str, Any] = httpx.post(f"{url}/beta/litellm_basic_guardrail_api", json=body).json()
    return found


def test_litellms_guardrail_gets_shortened_texts_and_messages(url: str) -> None:
    found = guarded(url, model="big", litellm_call_id=None)
    assert found["action"] == "GUARDRAIL_INTERVENED"
    assert found["texts"][0] == "How much does tank 0 hold?"
    assert found["texts"][1] == found["structured_messages"][2]["content"]
    assert len(found["texts"][1]) < len(result_of(0))
    for more in (
        {"input_type": "response"},
        {"structured_messages": None},
        {"structured_messages": exchange("chat", 0, "x")},
    ):
        assert guarded(url, **more) == {"action": "NONE"}


def test_a_fault_leaves_the_texts_as_they_are() -> None:
    with served(settings(), Faulty(MemoryError("full"))) as base:
        assert guarded(base) == {"action": "NONE"}
