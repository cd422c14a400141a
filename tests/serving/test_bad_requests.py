"""Wrong requests of every kind get an error as OpenAI's API has it, and never a 5xx."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import pytest
from serving.helpers import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
TEXT = {"model": MODEL, "prompt": "Hello"}
SHORTEN = {"documents": ["Tanks hold water."], "query": "What do tanks hold?"}
RERANK = {"documents": ["Tanks hold water."], "query": "What do tanks hold?"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

NO_NUMBER: list[Any] = ["x", "1", "", [], {}, True]
NO_COUNT = [*NO_NUMBER, 0, -1, 1.5, -(10**30)]
NO_SHARE = [*NO_NUMBER, -0.1, 1.01, 1e30]
NO_TEXT: list[Any] = [1, 1.5, True, [], {}, ["x"], {"x": "y"}]
NO_FLAG: list[Any] = ["yes", 1, 0, "true", [], {}]
NO_LIST: list[Any] = ["x", 1, True, {}, {"0": "x"}]
NO_OBJECT: list[Any] = ["x", 1, True, [], ["x"]]

SAMPLING: dict[str, list[Any]] = {
    "model": [*NO_TEXT, None, "", "other", "x" * 10_000],
    "max_tokens": [*NO_COUNT, 401, 10**12],
    "temperature": [*NO_NUMBER, -0.1, 2.1, 1e300],
    "top_p": [*NO_SHARE, 0],
    "top_k": [*NO_NUMBER, -2, 1.5, 10**30],
    "min_tokens": [*NO_NUMBER, -1, 1.5],
    "typical_p": [*NO_SHARE, 0],
    "min_p": NO_SHARE,
    "repetition_penalty": [*NO_NUMBER, 0, -1, 11],
    "seed": [*NO_NUMBER, -2, 1.5, 10**30],
    "stop_token_ids": [*NO_LIST, ["x"], [-1], [1.5], [True], [1] * 100],
    "stop": [1, True, {}, "", [""], [1], [None], ["x", ""]],
    "stream": NO_FLAG,
    "stream_options": [*NO_OBJECT, {"x": 1}, {"include_usage": "x"}],
    "n": [*NO_COUNT, 5],
    "presence_penalty": [*NO_NUMBER, 2.5],
    "frequency_penalty": [*NO_NUMBER, -2.5],
    "logit_bias": [*NO_OBJECT, {"1": 101}, {"x": 1}, {"-1": 1}, {"1": "x"}, {"1": None}, {"99999": 1}],
    "user": NO_TEXT,
    "metadata": NO_OBJECT,
    "unheard_of": [1],
}
WRONG: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "chat/completions": (
        CHAT,
        {
            **SAMPLING,
            "max_completion_tokens": [*NO_COUNT, 401],
            "messages": [*NO_LIST, None, [], [[]], ["x"], [{}], [1]],
            "messages.0.role": [*NO_TEXT, None, "", "robot", "User"],
            "messages.0.content": [1, True, {}, [1], [{}], [{"text": "x"}], [{"type": "image_url", "image_url": {}}]],
            "messages.0.name": NO_TEXT,
            "messages.0.tool_calls": [*NO_LIST, [{}], [{"function": {"name": "f", "arguments": {}}}]],
            "messages.0.compress": NO_FLAG,
            "messages.0.audio": [{"id": "a"}],
            "messages.0.function_call": [1, {}, {"name": 1}],
            "functions": [[{"name": "f"}], "x"],
            "function_call": [{"name": "f"}, 1],
            "modalities": [["audio"], "text", [1]],
            "audio": [{"voice": "x"}],
            "prediction": [{"type": "content", "content": "x"}],
            "web_search_options": [{}],
            "verbosity": ["low"],
            "reasoning_effort": [*NO_TEXT, "", "hardest"],
            "chat_template_kwargs": [
                *NO_OBJECT,
                {"chat_template": "x"},
                {"tokenize": True},
                {"messages": []},
                {"a-b": 1},
            ],
            "top_logprobs": [*NO_NUMBER, -1, 21, 5],
            "tools": [
                *NO_LIST,
                [1],
                [{}],
                [{"type": "other"}],
                [TOOL],
                [{"type": "function", "function": {"name": ""}}],
            ],
            "tool_choice": [
                1,
                {"type": "function", "function": {"name": "f"}, "x": 1},
                True,
                "sometimes",
                {},
                {"type": "function"},
                {"type": "function", "function": {}},
                {"type": "allowed_tools"},
                {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
                {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": [TOOL]}},
            ],
            "response_format": [*NO_OBJECT, {}, {"type": "xml"}, {"type": "json_schema"}],
            "logprobs": NO_FLAG,
            "documents": [*NO_LIST, [1], [{}], [{"title": "x"}], [{"text": 1}], [{"text": "x", "y": 1}], ["x"] * 300],
            "spec_rag": [
                *NO_OBJECT,
                {"x": 1},
                {"ratio": 0},
                {"ratio": "x"},
                {"ratio": 0.5, "max_tokens": 5},
                {"max_tokens": -1},
                {"unit": "paragraph"},
                {"language": "xx"},
                {"calibration": "/etc/passwd"},
                {"keep": ["(a+)+$"]},
                {"order": "relevance"},
                {"keep": ["(a+)+$"]},
                {"keep": 1},
                {"keep": [{}]},
                {"order": "relevance"},
            ],
        },
    ),
    "completions": (
        TEXT,
        {
            **SAMPLING,
            "prompt": [
                1,
                True,
                {},
                None,
                "",
                [],
                [""],
                [[]],
                [1.5],
                [-1],
                [10**6],
                [10**12],
                ["x", 1],
                [None],
                ["x"] * 65,
            ],
            "echo": [True, *NO_FLAG],
            "suffix": ["x", 1],
            "best_of": [*NO_COUNT, 2],
            "logprobs": [6, -1, "x", True],
        },
    ),
    "compress": (
        SHORTEN,
        {
            "documents": [
                *NO_LIST,
                None,
                [1],
                [None],
                [{}],
                [{"title": "x"}],
                [{"text": "x", "score": "y"}],
                ["x"] * 300,
            ],
            "query": [*NO_TEXT, None, "", "  \n"],
            "max_tokens": NO_COUNT,
            "min_tokens": [*NO_NUMBER, -1],
            "ratio": [*NO_SHARE, 0],
            "coverage": [*NO_SHARE, 0],
            "scoring": [1, "fast"],
            "unit": [1, "paragraph"],
            "language": [1, "xx"],
            "title_links": NO_FLAG,
            "preset": [1, "papr"],
            "order": [1, "relevance", "random"],
            "cascade": [1, "sometimes"],
            "calibration": [1, "", "/etc/passwd", "../x"],
            "ellipsis": [1, "." * 200],
            "keep": [1, "numbers", [1], ["number"], ["(a+)+$"]],
            "keep_first": [*NO_NUMBER, -1],
            "threshold": NO_NUMBER,
            "document_max_tokens": NO_COUNT,
            "top_k": NO_COUNT,
            "chunk_chars": NO_COUNT,
            "with_units": NO_FLAG,
            "stream": NO_FLAG,
            "unheard_of": [1],
        },
    ),
    "rerank": (
        RERANK,
        {
            "documents": [*NO_LIST, None, [], [1], [{}], ["x"] * 300],
            "query": [*NO_TEXT, None, "", " "],
            "model": [*NO_TEXT, "other"],
            "top_n": NO_COUNT,
            "return_documents": NO_FLAG,
            "max_tokens_per_doc": NO_COUNT,
            "rank_fields": [["title"], "text"],
            "unheard_of": [1],
        },
    ),
}
BROKEN: list[bytes] = [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b'{"a": }', b"{}" * 2, b"[" * 5000]
CASES = [
    *(
        (route, name, value)
        for route, (_, fields) in WRONG.items()
        for name, values in fields.items()
        for value in values
    )
]


def changed(body: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    body = copy.deepcopy(body)
    *way, last = name.split(".")
    place: Any = body
    for part in way:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return body


def check(response: httpx.Response, what: object) -> dict[str, Any]:
    assert 400 <= response.status_code < 500, (what, response.status_code, response.text[:300])
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, what
    assert error["message"], what
    assert response.headers["x-request-id"], what
    return error


def test_there_are_many_kinds() -> None:
    assert len(CASES) > 400


@pytest.mark.parametrize("route", WRONG)
def test_a_wrong_field_is_named(url: str, route: str) -> None:
    body, fields = WRONG[route]
    with httpx.Client(timeout=30) as client:
        for name, values in fields.items():
            for value in values:
                response = client.post(f"{url}/v1/{route}", json=changed(body, name, value))
                error = check(response, (route, name, value))
                field = name.split(".")[-1]
                assert field in str(error["param"]) or field in error["message"], (name, value, error)


@pytest.mark.parametrize("route", WRONG)
def test_a_missing_field_is_named_and_a_broken_body_is_refused(url: str, route: str) -> None:
    body, _ = WRONG[route]
    with httpx.Client(timeout=30) as client:
        for name in body:
            rest = {key: value for key, value in body.items() if key != name}
            error = check(client.post(f"{url}/v1/{route}", json=rest), name)
            assert (error["param"], error["code"]) == (name, "missing_required_parameter")
        for content in BROKEN:
            headers = {"Content-Type": "application/json"}
            check(client.post(f"{url}/v1/{route}", content=content, headers=headers), content)
        for number in ("NaN", "Infinity", "-Infinity", "1e999"):
            content = json.dumps(body)[:-1] + f', "temperature": {number}, "ratio": {number}}}'
            check(client.post(f"{url}/v1/{route}", content=content, headers=headers), number)
        for content in (json.dumps(body), "query=x"):
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "image/png"):
                check(client.post(f"{url}/v1/{route}", content=content, headers={"Content-Type": kind}), kind)
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            assert check(client.request(method, f"{url}/v1/{route}"), method)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat", "/v1/embeddings", "/v1/models/x/y", "/x", "/%00", "/../x"])
def test_what_is_not_there_is_not_found(url: str, path: str) -> None:
    assert check(httpx.post(f"{url}{path}", json=CHAT), path)["code"] in ("not_found", "method_not_allowed")


def test_a_chat_that_is_too_long_for_the_model_says_so(url: str) -> None:
    long = {**CHAT, "messages": [{"role": "user", "content": "Hello " * 1000}]}
    for stream in (False, True):
        error = check(httpx.post(f"{url}/v1/chat/completions", json={**long, "stream": stream}), stream)
        assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pdf", b"no pdf", "readable PDF"),
        ("a.docx", b"no docx", "readable Word document"),
        ("a.txt", b"\x00\x01", "binary"),
        ("a.txt", b"", "no text"),
        ("a.txt", "Käse".encode("latin-1"), "utf-8"),
        ("a.exe", b"MZ", "cannot be read"),
        ("..", b"x", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(url: str, name: str, data: bytes, says: str) -> None:
    error = check(httpx.post(f"{url}/v1/read", files={"file": (name, data)}), name)
    assert (error["code"], error["param"]) == ("unreadable_file", "file")
    assert says in error["message"]
    # a page that reads a stream hears of it without a failed request
    streamed = httpx.post(f"{url}/v1/read", files={"file": (name, data)}, data={"stream": "true"})
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert streamed.status_code == 200
    assert [one.get("object") for one in events] == ["progress", None]
    assert events[1]["error"] == error


def test_a_file_is_read_as_a_document_and_as_events(url: str) -> None:
    given = {"files": {"file": ("a/b.md", b"# Tanks\n\nTank 3 holds 300 litres.")}}
    document = httpx.post(f"{url}/v1/read", **given).json()
    assert (document["name"], document["title"], document["object"]) == ("b.md", "Tanks", "document")
    assert "Tank 3 holds 300 litres." in document["text"]
    assert document["tokens"] > 10
    streamed = httpx.post(f"{url}/v1/read", **given, data={"stream": "true"})
    lines = [line[6:] for line in streamed.text.splitlines() if line]
    assert json.loads(lines[0])["object"] == "progress"
    assert (json.loads(lines[1]), lines[2]) == (document, "[DONE]")
