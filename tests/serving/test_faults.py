"""A model that fails costs one request: the client is told so as OpenAI's API does, the log says what to change."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import torch
from serving.helpers import FACTS, MODEL, engine, served, until

from spec_rag.answering.conversation import WriteOnceCache
from spec_rag.serving.engine import LocalEngine

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
SHORTEN = {"documents": [text for _, text in FACTS], "query": "How much does tank 3 hold?"}


@contextmanager
def failing(model: Any, fail: Callable[[Any], Any], at_call: int = 1) -> Iterator[None]:
    """What the model's first layer gives is what `fail` makes of it, from that call on."""
    calls = 0

    def run(_module: object, _args: object, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return fail(output) if calls >= at_call else output

    hook = model.get_decoder().layers[0].register_forward_hook(run)
    try:
        yield
    finally:
        hook.remove()
    assert calls >= at_call


def full(_: Any) -> None:
    torch.empty(2**52)


def spoilt(output: Any) -> Any:
    return (output[0] * float("nan"), *output[1:]) if isinstance(output, tuple) else output * float("nan")


@pytest.fixture(scope="module")
def own() -> LocalEngine:
    own = engine(endless=True)
    own._readings = WriteOnceCache(0, 0, lambda reading: 0)  # every request reads anew
    return own


@pytest.fixture(scope="module")
def base(own: LocalEngine) -> Iterator[str]:
    with served(own=own) as url:
        yield f"{url}/v1"


@pytest.mark.parametrize(("fail", "status", "code"), [(full, 503, "out_of_memory"), (spoilt, 500, "not_finite")])
@pytest.mark.parametrize(
    ("route", "body", "role"), [("chat/completions", CHAT, "target"), ("compress", SHORTEN, "draft")]
)
def test_the_request_fails_and_the_next_is_served(
    base: str,
    own: LocalEngine,
    caplog: pytest.LogCaptureFixture,
    route: str,
    body: dict[str, Any],
    role: str,
    fail: Callable[[Any], Any],
    status: int,
    code: str,
) -> None:
    def ask() -> httpx.Response:
        return httpx.post(f"{base}/{route}", json=body, timeout=60)

    def said(response: httpx.Response) -> object:
        found = response.json()
        return found["choices"] if "choices" in found else found["documents"]

    expected = said(ask())
    caplog.clear()
    with failing(getattr(own.pair, role), fail), caplog.at_level(logging.ERROR, logger="spec_rag.serving"):
        failed = ask()
        assert until(lambda: bool(caplog.records))  # the line follows the response
    assert failed.status_code == status
    assert failed.json()["error"]["code"] == code
    assert failed.json()["error"]["type"] == "server_error"
    assert ("retry-after" in failed.headers) == (status == 503)
    (line,) = [json.loads(record.message) for record in caplog.records]
    assert f"The {role} 'tiny-{role}'" in line["error"]
    assert f"{role}_options=" in line["error"]
    assert said(ask()) == expected


def test_in_the_middle_of_a_stream_the_error_is_an_event(
    base: str, own: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def ask() -> list[dict[str, Any] | str]:
        body = {**CHAT, "stream": True, "max_tokens": 200}
        lines = httpx.post(f"{base}/chat/completions", json=body, timeout=60).text.split("\n\n")
        found = [line.removeprefix("data: ") for line in lines if line]
        return [line if line == "[DONE]" else json.loads(line) for line in found]

    def pieces(events: list[dict[str, Any] | str]) -> list[Any]:
        return [event["choices"][0]["delta"] for event in events if isinstance(event, dict) and "choices" in event]

    expected = ask()
    with failing(own.pair.target, full, 190), caplog.at_level(logging.ERROR, logger="spec_rag.serving"):
        broken = ask()
        assert until(lambda: bool(caplog.records))
    assert isinstance(broken[-1], dict)
    assert broken[-1]["error"]["code"] == "out_of_memory"
    shown = pieces(broken)
    assert 1 < len(shown) < len(pieces(expected))
    assert shown == pieces(expected)[: len(shown)]
    assert any("The target 'tiny-target' ran out of memory" in record.message for record in caplog.records)
    assert ask()[-1] == expected[-1] == "[DONE]"
