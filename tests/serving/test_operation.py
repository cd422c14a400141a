"""What operators see: readiness, HEAD, the page of the API, CORS, metrics and help."""

from __future__ import annotations

import re
import threading
import time

import httpx
import pytest
from serving.fake_upstream import Fake
from serving.helpers import FACTS, MODEL, Endless, engine, served, settings, until
from serving.recording_upstream import Recorder
from typer.testing import CliRunner

from spec_rag.cli.app import app as command_line
from spec_rag.errors import ConfigError
from spec_rag.serving.app import create_app
from spec_rag.serving.upstream_usage import UsageReader

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "How much water?"}]}
SHORTEN = {"documents": [text for _, text in FACTS], "query": "How much does tank 3 hold?"}


def number(url: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def test_readiness_is_apart_from_health() -> None:
    fake = Fake()
    with fake.running() as upstream:
        front = settings(target=None, upstream=upstream)
        with served(front, engine()) as url:
            assert httpx.get(f"{url}/ready").json() == {"status": "ready", "checks": {"models": "ok", "upstream": "ok"}}
    with served(settings(target=None, upstream="http://127.0.0.1:9/v1"), engine()) as url:
        response = httpx.get(f"{url}/ready")
        assert response.status_code == 503
        assert "cannot be reached" in response.json()["checks"]["upstream"]
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/app/", "/v1/models", f"/v1/models/{MODEL}", "/docs"]
)
def test_head_answers_as_get_does_without_a_body(url: str, path: str) -> None:
    head, get = httpx.head(f"{url}{path}"), httpx.get(f"{url}{path}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert httpx.head(f"{url}/nothing").status_code == 404
    assert httpx.head(f"{url}/v1/chat/completions").status_code == 405


def test_the_page_of_the_api_needs_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(f"{url}/docs")
    assert page.status_code == 200
    assert not re.search(r"https?://|<script|@import|url\(", page.text)
    for word in ("POST /v1/chat/completions", "max_completion_tokens", "POST /v2/rerank", "GET /ready"):
        assert word in page.text
    rerank = page.text.partition("POST /v1/rerank<")[2].partition("</details>")[0]
    assert re.search(r"<code>query</code><td><code>[^<]*</code><td>required", rerank)
    assert re.search(r"<code>top_n</code><td><code>[^<]*</code><td><", rerank), "it may be left out"


def test_browsers_of_allowed_origins_may_use_the_api_and_no_others() -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with served(settings(cors_origins=("https://a.example",), api_keys=("k",))) as url:
        own = {"Origin": "https://a.example"}
        asked = httpx.options(f"{url}/v1/chat/completions", headers={**own, **preflight})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://a.example"
        refused = httpx.get(f"{url}/v1/models", headers=own)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
        other = httpx.get(f"{url}/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    with served() as url:
        assert "access-control-allow-origin" not in httpx.get(f"{url}/health", headers=own).headers
    for wrong in ("a.example", "https://a.example/x", "https://"):
        with pytest.raises(ConfigError, match="cors_origins"):
            settings(cors_origins=(wrong,))


def test_hosts_are_checked_where_they_are_given() -> None:
    with served(settings(allowed_hosts=("api.example",))) as url:
        assert httpx.get(f"{url}/health").status_code == 400
        assert httpx.get(f"{url}/health", headers={"Host": "API.example:8000"}).status_code == 200
    with served() as url:
        assert httpx.get(f"{url}/health", headers={"Host": "any.example"}).status_code == 200
    for wrong in ("http://a", "a:80", "", "a b"):
        with pytest.raises(ConfigError, match="allowed_hosts"):
            settings(allowed_hosts=(wrong,))


def test_refused_requests_are_counted_under_their_route() -> None:
    with served(settings(max_requests=1, api_keys=("k",), max_body_bytes=1000), Endless(engine().pair)) as url:
        own = {"Authorization": "Bearer k"}
        httpx.post(f"{url}/v1/chat/completions", json=ASK)
        httpx.post(f"{url}/v1/compress", content=b"x" * 2000, headers=own)
        httpx.get(f"{url}/v1/models/a/b")
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**ASK, "stream": True}, headers=own) as running:
            pieces = running.iter_bytes()  # to let go of it would hang up
            assert next(pieces)
            assert httpx.post(f"{url}/v1/completions", json=ASK, headers=own).status_code == 429
        httpx.post(f"{url}/x/y", headers=own)
        metrics = httpx.get(f"{url}/metrics").text
    for route, status in (
        ("/v1/chat/completions", 401),
        ("/v1/compress", 413),
        ("/v1/completions", 429),
        ("/v1/models/{name:path}", 401),
        ("other", 404),
    ):
        assert f'spec_rag_requests_total{{route="{route}",status="{status}"}} 1.0' in metrics


def test_the_process_and_the_version_are_told(url: str) -> None:
    assert number(url, "process_resident_memory_bytes") > 2**20
    assert number(url, "process_open_fds") > 3
    assert "spec_rag_build_info{" in httpx.get(f"{url}/metrics").text


def test_seconds_of_the_draft_leave_out_the_wait_for_it() -> None:
    own = engine()
    with served(own=own) as url:
        found: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: found.append(httpx.post(f"{url}/v1/compress", json=SHORTEN, timeout=60))
        )
        with own.draft.lock.hold():
            asking.start()
            assert until(lambda: own.draft.lock.waiting == 2)
            time.sleep(3.0)
        asking.join()
        assert found[0].json()["draft_seconds"] < 2.5
        assert number(url, "spec_rag_compression_seconds_total") < 2.5


def test_an_upstreams_tokens_and_first_pieces_are_counted() -> None:
    fake = Fake()
    with fake.running() as upstream, served(settings(target=None, upstream=upstream), engine()) as url:
        body = {"model": "big", "messages": ASK["messages"], "stream": True}
        assert "[DONE]" in httpx.post(f"{url}/v1/chat/completions", json=body).text
        assert number(url, "spec_rag_first_piece_seconds_count") == 1
        assert number(url, "spec_rag_completion_tokens_total") == 4
    recorder = Recorder(body=b'{"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}')
    with recorder.running() as upstream, served(settings(target=None, upstream=upstream), engine()) as url:
        httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK["messages"]})
        assert number(url, "spec_rag_prompt_tokens_total") == 7
        assert number(url, "spec_rag_completion_tokens_total") == 5


def test_usage_is_read_from_events_however_they_are_cut() -> None:
    events = (
        b'data: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\ndata: {"choices": [{"delta": {"content": ""}}]}\n\n'
        b': ping\n\ndata: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}\n\ndata: [DONE]\n\n'
    )
    for size in (1, 7, 1000):
        usage = UsageReader(is_events=True)
        for start in range(0, len(events), size):
            usage.feed(events[start : start + size])
        usage.end()
        assert (usage.prompt_tokens, usage.completion_tokens) == (3, 9)
    for broken in (
        b"data: [" * 9,
        b"\xff" * 3_000_000,
        b'{"usage": {"prompt_tokens": "x", "completion_tokens": null}}',
    ):
        for is_events in (True, False):
            usage = UsageReader(is_events)
            usage.feed(broken)
            usage.end()
            assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)


def test_the_end_of_an_answer_that_is_too_long_is_not_taken_for_an_answer() -> None:
    usage = UsageReader(is_events=False)
    usage.feed(b" " * (1 << 21))
    usage.feed(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 9}}')
    usage.end()
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)


@pytest.mark.parametrize("command", ["serve", "app"])
def test_the_help_fits_80_columns(command: str) -> None:
    found = CliRunner().invoke(command_line, [command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert found.exit_code == 0
    assert all(len(line) <= 80 for line in found.stdout.splitlines())
    assert "…" not in found.stdout


def test_an_application_of_ones_own_serves_any_host() -> None:
    from fastapi.testclient import TestClient

    with TestClient(create_app(settings(), engine())) as client:
        assert client.get("/health").status_code == 200
