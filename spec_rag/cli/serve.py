"""`spec-rag serve` and `spec-rag app`: HTTP server with OpenAI's API, and its web page."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlencode

import typer

from spec_rag.answering.openai_server import key_of
from spec_rag.cli import answerers, console
from spec_rag.cli.compression_options import compression_options, compression_settings
from spec_rag.cli.interrupted import ServerStopped
from spec_rag.errors import ConfigError, MissingDependencyError
from spec_rag.options.compression import CompressionConfig, SpecKVConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.options.tool_results import Mode, OnError, ToolResultOptions
from spec_rag.serving.settings import ServerSettings

Host = Annotated[str, typer.Option(help="Listening address; 0.0.0.0 accepts other machines.", envvar="SPEC_RAG_HOST")]
Port = Annotated[int, typer.Option(help="Listening port.", min=1, max=65535, envvar="SPEC_RAG_PORT")]
Target = Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")]
Upstream = Annotated[
    str | None, typer.Option(help="Base URL of an OpenAI-compatible server that answers instead of --target.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-keys", help="File of API keys, one per line (default: SPEC_RAG_API_KEYS, with commas)."),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        help="Accepted Host header; repeatable, * accepts all (default on loopback: names of this machine).",
        show_default=False,
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        help="Allowed CORS origin, such as https://example.com; repeatable, * allows all.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command("app")(open_app)


@compression_options("max_tokens", "ratio", "coverage")
def serve(
    target: Target = None,
    draft: console.Draft = None,
    upstream: Upstream = None,
    served_name: Annotated[str | None, typer.Option(help="Name of the target in requests (default: its own).")] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_keys: KeyFile = None,
    allowed_host: AllowedHosts = None,
    cors_origin: Origins = None,
    min_chars: Annotated[int, typer.Option(help="Minimum length of tool results that are compressed.", min=1)] = 1000,
    tool_mode: Annotated[str, typer.Option(help="Tool results: auto, lossless, or off.")] = "auto",
    only_tool: Annotated[
        list[str] | None, typer.Option(help="Shorten results of this tool only; * is a wildcard.")
    ] = None,
    except_tool: Annotated[list[str] | None, typer.Option(help="Leave results of this tool whole.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds to shorten a request before --upstream.")] = 60,
    on_error: Annotated[str, typer.Option(help="Before --upstream, after a fault: original, or raise.")] = "original",
    audit: Annotated[bool, typer.Option("--audit", help="Forward the original; count what would be saved.")] = False,
    expand: Annotated[bool, typer.Option("--expand", help="Offer the upstream's model a tool for originals.")] = False,
    kv_capacity: Annotated[int, typer.Option(help="KV pairs of the prompt kept per head; 0 keeps all.", min=0)] = 0,
    kv_preset: console.KVPreset = "scaled",
    max_completion_tokens: Annotated[int, typer.Option(help="Maximum tokens of an answer.", min=1)] = 2048,
    max_requests: Annotated[int, typer.Option(help="Maximum open requests; more get status 429.", min=1)] = 64,
    max_body_mib: Annotated[int, typer.Option(help="Maximum request body in MiB.", min=1)] = 16,
    conversation_mib: Annotated[int, typer.Option(help="Cache of conversations in MiB.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds to the last token, waiting included.", min=1)] = 300,
    header_timeout: Annotated[float, typer.Option(help="Seconds for request headers and idle connections.")] = 15,
    body_timeout: Annotated[float, typer.Option(help="Seconds for a request body, plus 1 per 16 KiB.")] = 30,
    shutdown_seconds: Annotated[float, typer.Option(help="Seconds for running requests after SIGTERM.", min=1)] = 60,
    device: console.Device = None,
    index: console.Index = None,
    **options: Any,
) -> None:
    """Serve /v1/chat/completions, /v1/completions, /v1/compress, /v1/rerank and more.

    With --upstream, documents, tool results and marked texts of a request are compressed, and the request is forwarded.
    The key of the upstream is SPEC_RAG_UPSTREAM_KEY; without it and without --api-keys, the client's credentials are
    forwarded.
    """
    if target is not None and upstream is not None:
        raise ConfigError(
            f"--target {target} and --upstream {upstream} both name a model that answers: give one of them."
        )
    settings = ServerSettings(
        draft=draft or DEFAULT_DRAFT,
        target=None if upstream else target or DEFAULT_DRAFT,
        upstream=upstream,
        upstream_key=os.environ.get("SPEC_RAG_UPSTREAM_KEY") or None,
        served_name=served_name,
        device=device,
        index=str(index) if index else None,
        api_keys=read_keys(api_keys),
        allowed_hosts=tuple(allowed_host or ()),
        cors_origins=tuple(cors_origin or ()),
        compression=CompressionConfig(**compression_settings(**options)),
        speckv=SpecKVConfig(max_capacity_prompt=kv_capacity, preset=kv_preset) if kv_capacity else None,
        min_chars=min_chars,
        tool_results=ToolResultOptions(
            mode=cast(Mode, tool_mode),
            only_tools=tuple(only_tool or ()),
            except_tools=tuple(except_tool or ()),
            deadline_seconds=deadline,
            on_error=cast(OnError, on_error),
        ),
        audit=audit,
        expand=expand,
        max_body_bytes=max_body_mib * 2**20,
        conversation_bytes=conversation_mib * 2**20,
        max_completion_tokens=max_completion_tokens,
        default_completion_tokens=min(256, max_completion_tokens),
        max_requests=max_requests,
        timeout_seconds=timeout,
        header_timeout_seconds=header_timeout,
        body_timeout_seconds=body_timeout,
        shutdown_seconds=shutdown_seconds,
    )
    run(settings, host, port)


def open_app(
    target: Target = None,
    draft: console.Draft = None,
    port: Port = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    device: console.Device = None,
    index: console.Index = None,
    upstream: answerers.Upstream = None,
    model: answerers.Model = None,
    api_key_env: answerers.ApiKeyVariable = None,
) -> None:
    """Open the web page of `spec-rag serve` on this machine, for questions about files.

    With --upstream and --model an OpenAI-compatible server answers, as in `spec-rag ask`.
    """
    answerers.check_upstream(upstream, model, api_key_env)
    models: dict[str, Any] = {"target": target or DEFAULT_DRAFT}
    query = ""
    if upstream is not None:
        answerers.local_only(**{"--target": target})
        # connects before models are loaded, to check model name and key
        answering = answerers.upstream_generator(upstream, model, api_key_env)
        models = {"target": None, "upstream": answering.base, "upstream_key": key_of(api_key_env)}
        query = f"?{urlencode({'model': answering.model})}"
    settings = ServerSettings(
        draft=draft or DEFAULT_DRAFT, device=device, index=str(index) if index else None, **models
    )
    run(settings, "127.0.0.1", port, started=lambda url: _show(f"{url}/app/{query}", browser))


def _show(address: str, browser: bool) -> None:
    typer.echo(f"The page is at {address} (stop with Ctrl-C).", err=True)
    if browser:
        import threading
        import webbrowser

        # some browsers block until they are closed
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def run(settings: ServerSettings, host: str, port: int, **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        MissingDependencyError: a package is not installed.
        ConfigError: the address cannot be bound.
    """
    try:
        from spec_rag.serving.app import run as run_server
        from spec_rag.serving.engine import LocalEngine
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f'Serving needs {error.name}: pip install "spec-rag[serve]"') from error

    def load() -> LocalEngine:
        console.quiet_transformers()
        models = " and ".join(dict.fromkeys(name for name in (settings.draft, settings.target) if name))
        with console.progress() as tell:
            tell(f"Loading {models}")
            if not sys.stderr.isatty():
                console.say(f"Loading {models}", err=True)
            return LocalEngine.load(settings)

    with _stopping_at_sigterm():
        run_server(settings, host, port, load=load, **options)
    raise ServerStopped(0)


@contextmanager
def _stopping_at_sigterm() -> Iterator[None]:
    """Exit with code 0 at SIGTERM while models are loaded."""

    def stop(number: int, frame: object) -> None:
        raise ServerStopped(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_keys(path: Path | None) -> tuple[str, ...]:
    """API keys of a file, or of SPEC_RAG_API_KEYS.

    Raises:
        ConfigError: the file has no key.
    """
    if path is None:
        return tuple(key.strip() for key in os.environ.get("SPEC_RAG_API_KEYS", "").split(",") if key.strip())
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{path} has no key: write one per line.")
    return keys
