"""What is forwarded to an upstream: nothing outside its base URL, no credentials, all else byte for byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from serving.helpers import FACTS, engine, served, settings
from serving.recording_upstream import Recorder

from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.json_edits import MAX_DEPTH, read_json, with_changes
from spec_rag.serving.upstream_paths import forwarded_path

KEY = "the-operators-key"
CREDENTIALS = ("authorization", "x-api-key", "api-key", "cookie", "x-goog-api-key", "ocp-apim-subscription-key")


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def url(recorder: Recorder) -> Iterator[str]:
    with (
        recorder.running() as upstream,
        served(settings(target=None, upstream=upstream, upstream_key=KEY), engine()) as own,
    ):
        yield own


@pytest.fixture(autouse=True)
def _empty(recorder: Recorder) -> None:
    recorder.requests.clear()
    recorder.headers.clear()


def raw(url: str, target: str, method: str = "GET") -> bytes:
    """The response to a request whose target is sent as it is."""
    host, port = url[7:].split(":")
    with socket.create_connection((host, int(port)), 10) as client:
        lines = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", "Content-Length: 0", "", ""]
        client.sendall("\r\n".join(lines).encode("latin-1"))
        pieces = []
        while piece := client.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)


ESCAPES = [
    "..", ".", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "%25252e%25252e", "..%2f", "..%2F..%2F", "%2e%2e%2f",
    "%2e%2e%2f%2e%2e", "..%252f", "..%5c", "..\\", "%5c..%5c", "..%255c", "..;", "..;a=b", "..%3b", "%2e%2e%3bx",
    "a/..", "a/%2e%2e/..", "a%2f..%2f..", "a%252f%252e%252e", "%c0%ae%c0%ae", "%ff", "%ef%bc%8e%ef%bc%8e", "..%00",
    "..%20", "%0d%0aX-A:%20b", "%09..", "a%2f%2fb", "%2f", "%2fetc", "models%2f..%2f..%2fadmin", "..%e2%80%8b",
    "..%", "%zz",
]  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_path_leaves_the_base_of_the_upstream(url: str, recorder: Recorder, escape: str) -> None:
    for target in (f"/v1/{escape}/admin", f"/v1/{escape}", f"/v1/models/{escape}/{escape}/admin?x=1"):
        for method in ("GET", "POST", "DELETE"):
            status = int(raw(url, target, method).split()[1])
            assert status in (400, 404), (target, status)
    assert recorder.requests == []


@pytest.mark.parametrize(
    "prefix", ["/v1/../v1/", "/%76%31/", "/v%31/", "//v1/", "/v1%2f", "/V1/", "/./v1/", "/x/../v1/"]
)
def test_another_spelling_of_the_prefix_is_refused(url: str, recorder: Recorder, prefix: str) -> None:
    assert int(raw(url, f"{prefix}models").split()[1]) in (400, 404)
    assert recorder.requests == []


@pytest.mark.parametrize(
    "path",
    [
        *("models", "models/org%2Fname", "models/org%2fname", "models/org/name", "models/name:tag", "files/a%20b"),
        *(
            "responses/resp_1/input_items",
            "models/%E2%82%AC",
            "models/a.b..c",
            "models/...",
            "files/a%3Fb%23c",
            "models/",
        ),
        *("models/a+b,c;d=1", "models/50%25"),
    ],
)
@pytest.mark.parametrize("query", ["", "?a=1&a=2&b=%2f%2F&c", "?x=a+b%20c&&y==", "?path=../.."])
def test_paths_and_queries_pass_byte_for_byte(url: str, recorder: Recorder, path: str, query: str) -> None:
    assert b" 200 " in raw(url, f"/v1/{path}{query}")
    assert [request.target for request in recorder.requests] == [f"/v1/{path}{query}"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_every_method_passes_with_its_body(url: str, recorder: Recorder, method: str) -> None:
    body = b"" if method in ("GET", "HEAD") else b"\x00\xff not JSON"
    response = httpx.request(method, f"{url}/v1/files/1", content=body)
    assert response.status_code == 200
    assert response.content == (b"" if method == "HEAD" else recorder.body)
    assert response.headers["content-length"] == str(len(recorder.body))
    (request,) = recorder.requests
    assert (request.method, request.body) == (method, body)


@pytest.mark.parametrize("given", [{}, {"api_keys": ("ours",)}, {"api_keys": ("ours",), "upstream_key": None}])
def test_no_credentials_of_a_client_reach_the_upstream_of_a_server_with_keys(recorder: Recorder, given: dict) -> None:
    theirs = {"upstream_key": KEY, **given}
    own = dict.fromkeys(CREDENTIALS, "the-clients") | {"authorization": "Bearer ours"}
    with recorder.running() as upstream, served(settings(target=None, upstream=upstream, **theirs), engine()) as url:
        for path, body in (("models", {}), ("chat/completions", {"messages": []})):
            httpx.post(f"{url}/v1/{path}", json=body, headers={**own, "x-trace": "1"})
    assert len(recorder.requests) == 2
    for request in recorder.requests:
        found = {name: request.values(name) for name in CREDENTIALS if request.values(name)}
        assert found == ({"authorization": [f"Bearer {KEY}"]} if theirs["upstream_key"] else {})
        assert request.values("x-trace") == ["1"]


def test_a_server_without_keys_forwards_the_clients_credentials(recorder: Recorder) -> None:
    with recorder.running() as upstream, served(settings(target=None, upstream=upstream), engine()) as url:
        httpx.get(f"{url}/v1/models", headers={"x-api-key": "a", "authorization": "Bearer b"})
    assert recorder.requests[0].values("x-api-key") == ["a"]
    assert recorder.requests[0].values("authorization") == ["Bearer b"]


def test_repeated_headers_pass_in_both_directions_and_cookies_stay_with_their_client(
    url: str, recorder: Recorder
) -> None:
    recorder.headers += [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-Request-ID", "theirs"),
        ("Link", "x"),
        ("Link", "y"),
    ]
    sent = [("X-Two", "1"), ("X-Two", "2"), ("Connection", "x-gone"), ("X-Gone", "1")]
    response = httpx.get(f"{url}/v1/models", headers=sent)
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_list("link") == ["x", "y"]
    assert response.headers.get_list("x-request-id") == ["theirs"]
    httpx.get(f"{url}/v1/models")
    first, second = recorder.requests
    assert first.values("x-two") == ["1", "2"]
    assert first.values("x-gone") == []
    assert second.values("cookie") == []


UNCHANGED = (
    b'{ "messages":[{"role":"user","content":"Hi \\u00e9\\ud83d\\ude00"}],\t"a": 1e999, "b": -1E400, "c": 1.10,'
    b'"d": 123456789012345678901234567890, "e": 0.1000000000000000055, "f": -0, "g": [1.0, {"h": 2e-400}],'
    b' "a": 1e999 }\n'
)


def test_a_chat_in_which_nothing_is_shortened_passes_byte_for_byte(url: str, recorder: Recorder) -> None:
    assert httpx.post(f"{url}/v1/chat/completions", content=UNCHANGED).status_code == 200
    assert recorder.requests[0].body == UNCHANGED


def test_of_a_shortened_chat_all_else_keeps_its_spelling(url: str, recorder: Recorder) -> None:
    long = json.dumps(" ".join(text for _, text in FACTS))
    body = (
        '{"seed": 1e999, "messages": [{"role": "user", "content": "How much does tank 3 hold?", "x": 1.50},'
        ' {"role": "tool", "tool_call_id": "1", "y": 1e999, "content": ' + long + "}],"
        ' "temperature": 0.10, "spec_rag": {"ratio": 0.2}, "z": "\\u00e9"}'
    )
    assert httpx.post(f"{url}/v1/chat/completions", content=body.encode()).status_code == 200
    sent = recorder.requests[0].body.decode()
    json.loads(sent, parse_constant=lambda name: pytest.fail(name))
    assert len(sent) < len(body) / 2
    for kept in ('"seed": 1e999', '"x": 1.50', '"y": 1e999', '"temperature": 0.10', '"z": "\\u00e9"'):
        assert kept in sent
    assert "spec_rag" not in sent


@pytest.mark.parametrize(
    ("text", "change", "expected"),
    [
        ('{"a": 1e5 , "b" :[ 1.0,{"c":2.0} ]}', lambda v: {**v, "b": [1.0, {}]}, '{"a": 1e5, "b": [1.0, {}]}'),
        ('{"a": 1, "a": [1], "b": {}}', lambda v: {"a": [2], "b": {}}, '{"a": [2], "b": {}}'),
        ('{"a": 1.0, "b": 2}', lambda v: {"b": 2}, '{"b": 2}'),
        ('{}', lambda v: {"n": "é"}, '{"n": "é"}'),
        ('{"a\\n": 1.0, "b": "x\\"}"}', lambda v: {**v, "b": "y"}, '{"a\\n": 1.0, "b": "y"}'),
        ("[ [], {} , 1.0]", lambda v: [[], {"a": 1}, 1.0], '[[], {"a": 1}, 1.0]'),
        ("[[1.0]]", lambda v: [[1.0, 2]], "[[1.0, 2]]"),
    ],
)  # fmt: skip
def test_a_change_leaves_the_spelling_of_the_rest(text: str, change, expected: str) -> None:  # type: ignore[no-untyped-def]
    value = json.loads(text)
    changed = with_changes(text, value, change(value))
    assert changed == expected
    assert json.loads(changed) == change(value)


def test_json_is_read_up_to_a_depth_and_brackets_in_strings_do_not_count() -> None:
    nested = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert read_json(nested)
    for body in (b"[" + nested + b"]", b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500, b"[" * 300 + b'"'):
        with pytest.raises(ApiError):
            read_json(body)
    assert read_json(json.dumps("[" * 1000 + '\\"' + "[" * 1000).encode())
    for broken in (b"NaN", b'{"a": Infinity}', b"\xff\xfe\x00", b'"\\' + b'"\\' * 100_000):
        with pytest.raises(ApiError):
            read_json(broken)


def test_a_scope_without_a_raw_path_is_forwarded_by_its_decoded_one() -> None:
    assert forwarded_path({"path": "/v1/models/a b"}) == "models/a%20b"
    assert forwarded_path({"path": "/p/v1/models", "raw_path": b"/p/v1/models", "root_path": "/p"}) == "models"
    with pytest.raises(ApiError):
        forwarded_path({"path": "/v1/../admin"})
