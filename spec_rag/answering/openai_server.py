"""Answer generator of an OpenAI-compatible server, such as Ollama, vLLM, llama.cpp or `spec-rag serve`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spec_rag.answering.generators import guarded
from spec_rag.errors import ConfigError, MissingDependencyError, UpstreamError

if TYPE_CHECKING:
    import httpx

    from spec_rag.answering.generators import Emit, Messages
    from spec_rag.results import Answer, FinishReason

KEY_VARIABLE = "SPEC_RAG_UPSTREAM_KEY"
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 300.0  # servers such as Ollama load models on the first request
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_OPTIONAL = ("stream_options", "temperature", "max_tokens")  # not supported by all servers
_MESSAGE_CHARS = 300
_NAMED_MODELS = 8


def base_url(address: str) -> str:
    """Base URL of an API; `/v1` is added to a URL without a path.

    Raises:
        ConfigError: it is not an HTTP URL.
    """
    import httpx

    try:
        url = httpx.URL(address.strip())
    except httpx.InvalidURL as error:
        raise ConfigError(
            f"upstream={address!r:.200} is not a URL: give one such as http://localhost:11434/v1."
        ) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"upstream={address!r:.200}: give a URL such as http://localhost:11434/v1.")
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    return str(url.copy_with(path=path or "/v1", query=None, fragment=None))


def key_of(variable: str | None) -> str | None:
    """The API key in an environment variable; None reads SPEC_RAG_UPSTREAM_KEY, which may be unset.

    Raises:
        ConfigError: the named variable is not set, or the key is not valid in a header.
    """
    key = os.environ.get(variable or KEY_VARIABLE, "").strip()
    if variable is not None and not key:
        raise ConfigError(f"--api-key-env {variable}: this environment variable is not set, or empty.")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{variable or KEY_VARIABLE}: the key has characters that are not allowed in an HTTP header.")
    return key or None


class OpenAIGenerator:
    """Streams chat completions of a server. Redirects are not followed, so that the key stays with its host.

    Args:
        url: base URL of the API; see `base_url`.
        model: name of the model; None selects the server's only model.
        key: API key, or None.

    Attributes:
        base: base URL of the API.
        model: name of the model.

    Raises:
        ConfigError: the URL is invalid, or the server has several models and no name is given.
        UpstreamError: the server is not reachable, or refuses the key.
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependencyError('--upstream needs httpx: pip install "spec-rag[cli]"') from error
        self.base = base_url(url)
        self._url = str(httpx.URL(self.base).copy_with(username=None, password=None))
        self._has_key = key is not None
        self._client = httpx.Client(
            timeout=httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            mounts={f"all://{host}": None for host in _LOOPBACK},  # no proxy for loopback
            follow_redirects=False,
        )
        self.model = self._chosen(model)

    def answer(self, messages: Messages, max_new_tokens: int, emit: Emit) -> Answer:
        """Answer a chat; see `Generator`.

        Raises:
            UpstreamError: the server is not reachable, refuses the request, or ends the stream early.
        """
        from spec_rag.results import Answer, Timings

        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started = time.perf_counter()
        reply = _Reply()
        with self._posted(body) as response:
            guard = guarded(self._pieces(response, reply), emit, reply.end)
        seconds = time.perf_counter() - started
        reason: FinishReason = "repetition" if guard.looping else "length" if reply.reason == "length" else "stop"
        if not guard.text.strip() and reply.thought:
            raise UpstreamError(
                f"{self._url}: model {self.model!r} used its {max_new_tokens} tokens for thinking and returned "
                "no answer: raise --max-new-tokens."
            )
        prompt = int(reply.usage.get("prompt_tokens") or 0)
        return Answer(
            text=guard.text,
            output_ids=[],
            prompt_tokens=prompt,
            target_prompt_tokens=prompt,
            completion_tokens=int(reply.usage.get("completion_tokens") or 0),
            finish_reason=reason,
            timings=Timings(decode_seconds=seconds),
        )

    def _chosen(self, model: str | None) -> str:
        """The given model, or the server's only one."""
        if model is not None and not model.strip():
            raise ConfigError("--model is empty: give a name, such as llama3.2.")
        names = self._models()
        if model is not None:
            return model.strip()
        if len(names) == 1:
            return names[0]
        has = f"it has {_listed(names)}" if names else "it does not list its models"
        raise ConfigError(f"--upstream {self._url} needs --model NAME: {has}.")

    def _models(self) -> list[str]:
        """Names of the server's models; [] if it does not list them."""
        with self._connection_errors():
            response = self._client.get(f"{self.base}/models")
        if response.status_code in (401, 403) or response.is_redirect:
            raise self._refused(response)
        try:
            data = response.json()["data"]
            return [str(entry["id"]) for entry in data]
        except (ValueError, KeyError, TypeError):
            return []

    @contextmanager
    def _posted(self, body: dict[str, Any]) -> Iterator[httpx.Response]:
        """Post a chat; optional fields that the server refuses are removed or renamed."""
        body = dict(body)
        with self._connection_errors():
            while True:
                request = self._client.build_request("POST", f"{self.base}/chat/completions", json=body)
                response = self._client.send(request, stream=True)
                try:
                    if response.is_success:
                        yield response
                        return
                    response.read()
                    refusal = self._refused(response)
                    field = _named_field(response, body)
                    if field is None:
                        raise refusal
                    value = body.pop(field)
                    if field == "max_tokens":
                        body["max_completion_tokens"] = value
                finally:
                    response.close()

    def _pieces(self, response: httpx.Response, reply: _Reply) -> Iterator[str]:
        """Pieces of the answer; other fields are stored in `reply`."""
        thinking = _ThoughtFilter()
        done = False
        try:
            if "json" in response.headers.get("content-type", ""):  # no streaming
                events: Iterator[Any] = iter([json.loads(response.read())])
                done = True
            else:
                events = _events(response)
            for event in events:
                done = done or event is None or reply.ended
                if event is None or reply.ended:
                    break
                if not isinstance(event, dict) or event.get("error"):
                    raise UpstreamError(f"{self._url} returned an error: {_message_of(event)}")
                yield from thinking.visible(reply.take(event))
            reply.thought = reply.thought or thinking.found
        except ValueError as error:
            raise UpstreamError(f"{self._url} is not an OpenAI-compatible server: check --upstream.") from error
        if not done and reply.reason is None:
            raise UpstreamError(f"{self._url} ended the stream before the end of the answer: try again.")

    @contextmanager
    def _connection_errors(self) -> Iterator[None]:
        """Convert connection errors to UpstreamError."""
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            raise UpstreamError(f"--upstream {self._url} does not answer in time ({type(error).__name__}).") from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise UpstreamError(f"--upstream {self._url} closed the connection: {error}. Try again.") from error
        except httpx.HTTPError as error:
            raise UpstreamError(
                f"--upstream {self._url} cannot be reached ({error}): is the server running, and is this its address?"
            ) from error

    def _refused(self, response: httpx.Response) -> UpstreamError:
        """The error for an unsuccessful response."""
        status, reason = response.status_code, _message_of(response)
        if status in (401, 403):
            problem = "refuses the API key" if self._has_key else "requires an API key"
            return UpstreamError(
                f"--upstream {self._url} {problem} ({status}: {reason}): set {KEY_VARIABLE}, or name another variable "
                "with --api-key-env."
            )
        if response.is_redirect:
            return UpstreamError(
                f"--upstream {self._url} redirects to {response.headers.get('location', 'nowhere'):.200}: give that "
                "address."
            )
        if status == 404 or (status == 400 and self.model in reason):
            names = self._models()
            has = f" It has {_listed(names)}." if names else " Is this the base of an OpenAI-compatible API?"
            return UpstreamError(f"--upstream {self._url}, --model {self.model!r} ({status}: {reason}).{has}")
        return UpstreamError(f"--upstream {self._url} returned status {status}: {reason}")


@dataclass
class _Reply:
    """Fields of a response besides the text."""

    reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    thought: bool = False
    ended: bool = False

    def end(self) -> None:
        """Stop reading."""
        self.ended = True

    def take(self, event: Mapping[str, Any]) -> str:
        """Store the fields of an event; return its text."""
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        text = ""
        for choice in (event.get("choices") or [])[:1]:
            self.reason = choice.get("finish_reason") or self.reason
            message = choice.get("delta") or choice.get("message") or {}
            text += message.get("content") or ""
            self.thought |= bool(message.get("reasoning_content") or message.get("reasoning"))
        return text


class _ThoughtFilter:
    """Removes `<think> ... </think>` at the start of an answer."""

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self.found = False
        self._held = ""
        self._over = False

    def visible(self, piece: str) -> Iterator[str]:
        """The text of a piece that does not belong to a thought."""
        if self._over:
            if piece:
                yield piece
            return
        self._held += piece
        text = self._held.lstrip()
        if text.startswith(self._OPEN):
            self.found = True
            _, closed, rest = text.partition(self._CLOSE)
            if closed and rest.strip():
                self._over = True
                yield rest.lstrip()
        elif text and not self._OPEN.startswith(text):
            self._over = True
            yield self._held


def _events(response: httpx.Response) -> Iterator[Any]:
    """JSON of the events of a stream; None is the end."""
    for line in response.iter_lines():
        name, _, data = line.partition(":")
        data = data.strip()
        if name != "data" or not data:
            continue
        if data == "[DONE]":
            yield None
            return
        yield json.loads(data)


def _named_field(response: httpx.Response, body: Mapping[str, Any]) -> str | None:
    """The optional field that an error message names, or None."""
    if response.status_code not in (400, 422):
        return None
    return next((name for name in _OPTIONAL if name in body and name in response.text), None)


def _message_of(error: Any) -> str:
    """Error message of a response or event in one line."""
    if hasattr(error, "text"):
        try:
            error = json.loads(error.text)
        except ValueError:
            error = error.text if "<" not in error.text[:200] else error.reason_phrase
    while isinstance(error, dict):
        error = next((error[key] for key in ("error", "message", "detail") if error.get(key)), "no reason given")
    text = " ".join(str(error).split())
    return text if len(text) <= _MESSAGE_CHARS else f"{text[:_MESSAGE_CHARS]} …"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MODELS} more" if len(names) > _NAMED_MODELS else ""
    return ", ".join(names[:_NAMED_MODELS]) + more
