"""What a request spells out stays text in the server, seen on token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hostile import control_seen, llama_style_tokenizer, pair_with
from serving.helpers import MODEL, served, settings

from spec_rag import ModelPair
from spec_rag.serving.engine import LocalEngine


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_with(llama_style_tokenizer())


@pytest.fixture(scope="module")
def url(pair: ModelPair) -> Iterator[str]:
    with served(settings(), LocalEngine(pair, timeout_seconds=60.0)) as address:
        yield address


def chat(text: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "ok"}'}}
    return {
        "model": MODEL,
        "max_tokens": 2,
        "messages": [
            {"role": "system", "content": text},
            {"role": "user", "content": text, "name": "user"},
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}]},
        ],
        "tools": [{"type": "function", "function": {"name": "search", "description": text, "parameters": {}}}],
    }


def documents(text: str) -> list[dict[str, Any]]:
    return [{"text": f"Ships came there. {text}", "title": text}, {"text": text}]


ROUTES: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "chat": lambda text: ("chat/completions", chat(text)),
    "chat as a stream": lambda text: ("chat/completions", {**chat(text), "stream": True}),
    "completion": lambda text: ("completions", {"model": MODEL, "prompt": text, "max_tokens": 2}),
    "compress": lambda text: ("compress", {"documents": documents(text), "query": text, "ratio": 0.5}),
    "rerank": lambda text: ("rerank", {"documents": documents(f"{text} {text}"), "query": text}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_control_tokens_that_are_spelled_out_never_reach_a_model(url: str, pair: ModelPair, route: str) -> None:
    def ask(text: str) -> None:
        path, body = ROUTES[route](text)
        response = httpx.post(f"{url}/v1/{path}", json=body, timeout=60)
        assert response.status_code == 200, response.text

    harmless, hostile = control_seen(pair, ask)
    assert set(hostile) <= set(harmless)
