"""`spec-rag ask --upstream`: any OpenAI-compatible server answers, and its troubles are one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from serving.fake_upstream import Fake
from serving.helpers import MODEL, engine, running, served, settings
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag.answering.openai_server import OpenAIGenerator, base_url
from spec_rag.cli import serve
from spec_rag.cli.app import app
from spec_rag.compression.document_draft import Draft
from spec_rag.errors import ConfigError
from spec_rag.models.model_pair import ModelPair

TEXT = "# Hut\n\nThe hut holds 300 litres of water. It opens at nine.\n\nDogs travel free of charge.\n"


@pytest.fixture(autouse=True)
def only_a_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find a tiny draft, and no target: a server answers."""
    pair = tiny_pair()
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: Draft(pair.draft, pair.tokenizer, "tiny", 4)))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a target is loaded")

    monkeypatch.setattr(ModelPair, "load", classmethod(refuse))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there: a server on this machine needs no proxy
    monkeypatch.delenv("SPEC_RAG_UPSTREAM_KEY", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "hut.md").write_text(TEXT)
    return tmp_path / "hut.md"


def ask(file: Path, *options: object, question: str = "How much water does the hut hold?") -> Any:
    return CliRunner().invoke(app, ["ask", str(file), question, *map(str, options)])


@dataclass
class Server:
    """A server that refuses what it is made to refuse, and answers with these pieces."""

    pieces: list[str] = field(default_factory=lambda: ["It holds ", "300 litres."])
    models: list[str] = field(default_factory=lambda: ["llama3.2:latest"])
    key: str | None = None
    refuses: Callable[[dict[str, Any]], str | None] = lambda body: None
    finish: str | None = "stop"
    delta: str = "content"
    streams: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sent: int = 0

    def app(self) -> FastAPI:
        server = FastAPI()

        @server.get("/v1/models")
        async def models(request: Request) -> Response:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "Invalid key", "type": "auth"}}, 401)
            return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

        @server.get("/moved/models")
        async def moved() -> Response:
            return RedirectResponse("/v1/models", 301)

        @server.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            self.keys.append(request.headers.get("authorization"))
            if body["model"] not in (*self.models, *(name.removesuffix(":latest") for name in self.models)):
                return JSONResponse({"error": {"message": f"model '{body['model']}' not found"}}, 404)
            said = self.refuses(body)
            if said:
                return JSONResponse({"error": {"message": said}}, 400)
            if not self.streams:
                message = {"role": "assistant", "content": "".join(self.pieces)}
                return JSONResponse({"choices": [{"message": message, "finish_reason": self.finish}]})
            return StreamingResponse(self._stream(), media_type="text/event-stream")

        return server

    async def _stream(self) -> Any:
        yield ": a comment\n\n"
        for piece in self.pieces:
            self.sent += 1
            yield f"data: {json.dumps({'choices': [{'delta': {self.delta: piece}, 'finish_reason': None}]})}\n\n"
        yield f"data: {json.dumps({'choices': [{'delta': {}, 'finish_reason': self.finish}]})}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 41, 'completion_tokens': 7}})}\n\n"
        if self.finish:
            yield "data: [DONE]\n\n"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with running(server.app()) as base:
        yield base


def test_a_server_answers_from_the_kept_text_and_is_named(file: Path, server: Server, url: str) -> None:
    result = ask(file, "--upstream", f"{url}/v1", "--model", "llama3.2")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    answer, _, below = result.stdout.partition("\n\n")
    assert answer == "It holds 300 litres."
    assert below.splitlines()[0] == "Model    llama3.2"
    assert "demonstration" not in below
    assert "hut.md, characters 7-41" in below
    (body,) = server.bodies
    assert "The hut holds 300 litres of water." in body["messages"][-1]["content"]
    assert body["messages"][-1]["content"].endswith("Question: How much water does the hut hold?")
    assert server.keys == [None]


def test_json_says_which_model_answered_and_what_it_cost(file: Path, server: Server, url: str) -> None:
    record = json.loads(ask(file, "--upstream", url, "--json").stdout)
    assert (record["model"], record["demonstration_model"]) == ("llama3.2:latest", False)
    assert (record["prompt_tokens"], record["completion_tokens"], record["finish_reason"]) == (41, 7, "stop")


def test_the_key_comes_from_the_environment_alone(
    file: Path, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret-key"
    for options, says in (([], "requires an API key"), (["--api-key-env", "OTHER_KEY"], "OTHER_KEY: this environment")):
        result = ask(file, "--upstream", url, "--model", "llama3.2", *options)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert says in result.stderr
    monkeypatch.setenv("SPEC_RAG_UPSTREAM_KEY", "wrong")
    refused = ask(file, "--upstream", url, "--model", "llama3.2")
    assert refused.exit_code == 2
    assert "refuses the API key (401: Invalid key)" in refused.stderr
    assert "wrong" not in refused.stderr
    monkeypatch.setenv("OTHER_KEY", "secret-key\n")
    assert ask(file, "--upstream", url, "--model", "llama3.2", "--api-key-env", "OTHER_KEY").exit_code == 0
    assert server.keys == ["Bearer secret-key"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--upstream", "{}", "--model", "gpt-9"], "model 'gpt-9' not found). It has llama3.2:latest."),
        (["--upstream", "{}/none", "--model", "llama3.2"], "404"),
        (["--upstream", "{}/moved", "--model", "llama3.2"], "redirects to"),
        (["--upstream", "http://127.0.0.1:9", "--model", "m"], "cannot be reached"),
        (["--upstream", "127.0.0.1:9", "--model", "m"], "give a URL such as"),
        (["--upstream", "{}", "--model", " "], "--model is empty"),
        (["--upstream", "{}", "--target", "m"], "--target m applies to a local model"),
        (["--upstream", "{}", "--context", "c"], "--context c applies to a local model"),
        (["--upstream", "{}", "--lookahead", "none"], "--lookahead none applies to a local model"),
        (["--model", "m"], "--model m needs --upstream URL"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(file: Path, url: str, options: list[str], says: str) -> None:
    result = ask(file, *(option.replace("{}", url) for option in options))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert result.stderr.startswith("error: ")
    assert says in result.stderr


def test_of_several_models_one_has_to_be_named(file: Path, server: Server, url: str) -> None:
    server.models = ["small", "large"]
    result = ask(file, "--upstream", url)
    assert result.exit_code == 2
    assert "needs --model NAME: it has small, large" in result.stderr


@pytest.mark.parametrize("mood", ["badly", "busy", "cut"])
def test_a_server_that_fails_is_named(file: Path, mood: str) -> None:
    fake = Fake(mood=mood)
    with fake.running() as base:
        result = ask(file, "--upstream", base, "--model", "big")
    says = {"badly": "status 503: boom", "busy": "status 429: later", "cut": "closed"}[mood]
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_stream_without_an_end_is_no_answer(file: Path, server: Server, url: str) -> None:
    server.finish = None
    result = ask(file, "--upstream", url, "--model", "llama3.2")
    assert (result.exit_code, "ended the stream before the end" in result.stderr) == (2, True)


def test_a_field_that_a_server_refuses_is_left_out_or_renamed(file: Path, server: Server, url: str) -> None:
    def refuses(body: dict[str, Any]) -> str | None:
        for name in ("stream_options", "temperature", "max_tokens"):
            if name in body:
                return f"Unsupported parameter: '{name}'."
        return None

    server.refuses = refuses
    result = ask(file, "--upstream", url, "--model", "llama3.2", "--max-new-tokens", 55)
    assert result.exit_code == 0, result.stderr
    assert "max_tokens" not in server.bodies[-1]
    assert server.bodies[-1]["max_completion_tokens"] == 55


def test_a_server_that_does_not_stream_is_read_whole(file: Path, server: Server, url: str) -> None:
    server.streams = False
    result = ask(file, "--upstream", url, "--model", "llama3.2")
    assert result.stdout.startswith("It holds 300 litres.\n\n")


def test_an_answer_that_is_cut_is_marked(file: Path, server: Server, url: str) -> None:
    server.finish = "length"
    result = ask(file, "--upstream", url, "--model", "llama3.2", "--max-new-tokens", 7)
    assert result.stdout.startswith("It holds 300 litres. […]\n\n")
    assert "\nCut      after 7 tokens: raise --max-new-tokens." in result.stdout


def test_an_answer_that_loops_is_ended(file: Path, server: Server, url: str) -> None:
    server.pieces = ["It holds ", *["300 litres of water and "] * 5000]
    result = ask(file, "--upstream", url, "--model", "llama3.2")
    answer, _, below = result.stdout.partition("\n\n")
    assert answer == "It holds 300 litres of water and  […]"
    assert "Stopped  the model repeated itself." in below
    record = json.loads(ask(file, "--upstream", url, "--model", "llama3.2", "--json").stdout)
    assert (record["answer"], record["finish_reason"]) == ("It holds 300 litres of water and", "repetition")
    assert server.sent < 10_000, "the rest is not waited for"


def test_thoughts_are_left_out_and_an_answer_of_thoughts_alone_is_an_error(
    file: Path, server: Server, url: str
) -> None:
    server.pieces = ["<thi", "nk>Let me see.</think>", "\n\nIt holds 300 litres."]
    assert ask(file, "--upstream", url, "--model", "llama3.2").stdout.startswith("It holds 300 litres.\n")
    server.pieces, server.delta, server.finish = ["Let me", " see"], "reasoning_content", "length"
    result = ask(file, "--upstream", url, "--model", "llama3.2")
    assert (result.exit_code, "returned no answer: raise --max-new-tokens" in result.stderr) == (2, True)


def test_our_own_server_answers(file: Path) -> None:
    with served(settings(), engine()) as base:
        result = ask(file, "--upstream", base, "--max-new-tokens", 5, "--json")
        unknown = ask(file, "--upstream", base, "--model", "other")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["model"] == MODEL
    assert 0 < record["completion_tokens"] <= 5
    assert unknown.exit_code == 2
    assert f"It has {MODEL}" in unknown.stderr


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/", "http://localhost:11434/v1"),
        (" http://localhost:8000/v1/ ", "http://localhost:8000/v1"),
        ("https://host/openai/v1/chat/completions", "https://host/openai/v1"),
        ("https://host/api?x=1#y", "https://host/api"),
    ],
)
def test_addresses_are_taken_as_people_write_them(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize("given", ["", "localhost:8000", "ftp://host", "http://", "file:///etc"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="upstream="):
        OpenAIGenerator(given, "m")


def test_the_page_is_answered_by_the_server_that_is_named(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Any, str]] = []
    shown: list[str] = []

    def run(settings: Any, host: str, port: int, **options: Any) -> None:
        options["started"](f"http://{host}:{port}")
        started.append((settings, host))

    monkeypatch.setattr(serve, "run", run)
    monkeypatch.setattr(serve, "_show", lambda address, browser: shown.append(address))
    monkeypatch.setenv("SPEC_RAG_UPSTREAM_KEY", "secret-key")
    command = ["app", "--no-browser", "--upstream", url]
    assert CliRunner().invoke(app, [*command, "--model", "llama3.2"]).exit_code == 0
    ((settings, host),) = started
    assert (settings.target, settings.upstream, settings.upstream_key) == (None, f"{url}/v1", "secret-key")
    assert (host, shown) == ("127.0.0.1", ["http://127.0.0.1:8000/app/?model=llama3.2"])
    CliRunner().invoke(app, command)
    assert shown[1].endswith("?model=llama3.2%3Alatest"), "the server's only model"
    for options, says in (
        (["--target", "m"], "--target m applies to"),
        (["--api-key-env", "NONE"], "NONE: this environment"),
    ):
        refused = CliRunner().invoke(app, [*command, *options])
        assert (refused.exit_code, says in refused.stderr) == (2, True), refused.stderr
    assert "needs --upstream URL" in CliRunner().invoke(app, ["app", "--model", "m"]).stderr
    server.key = "other"
    refused = CliRunner().invoke(app, [*command, "--model", "llama3.2"])
    assert (refused.exit_code, "refuses the API key" in refused.stderr) == (2, True)
    assert len(started) == 2
