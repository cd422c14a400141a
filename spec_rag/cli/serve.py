"""`spec-rag serve`: the package over HTTP, as OpenAI's API has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from spec_rag.cli import console
from spec_rag.cli.compress import Coverage, MaxTokens, Ratio, compression_settings
from spec_rag.config import CompressionConfig, SpecKVConfig
from spec_rag.errors import ConfigError, MissingDependencyError
from spec_rag.models.options import DEFAULT_DRAFT
from spec_rag.serving.settings import ServerSettings

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
Target = Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M).")]
Upstream = Annotated[
    str | None, typer.Option(help="Base URL of an OpenAI-compatible server that answers instead of --target.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--api-keys", help="File of keys, one a line; else SPEC_RAG_API_KEYS, with commas.")
]


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command("app")(open_app)


def serve(
    target: Target = None,
    draft: console.Draft = None,
    upstream: Upstream = None,
    served_name: Annotated[str | None, typer.Option(help="Name of the target in requests (default: its own).")] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_keys: KeyFile = None,
    max_tokens: MaxTokens = None,
    ratio: Ratio = None,
    coverage: Coverage = None,
    likelihood: console.Likelihood = None,
    min_chars: Annotated[int, typer.Option(help="Tool results below this length are left as they are.", min=1)] = 1000,
    kv_capacity: Annotated[int, typer.Option(help="KV pairs each head keeps of a prompt; 0 keeps all.", min=0)] = 0,
    kv_preset: console.KVPreset = "scaled",
    max_completion_tokens: Annotated[int, typer.Option(help="The most that a request may ask for.", min=1)] = 2048,
    max_requests: Annotated[int, typer.Option(help="So many run or wait; the next gets status 429.", min=1)] = 64,
    max_body_mib: Annotated[int, typer.Option(help="Size of a request, at most, in MiB.", min=1)] = 16,
    conversation_mib: Annotated[int, typer.Option(help="What is remembered of conversations, in MiB.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds to an answer's last token, the wait included.", min=1)] = 300,
    shutdown_seconds: Annotated[float, typer.Option(help="What runs may take to finish at the end.", min=1)] = 60,
    device: console.Device = None,
    index: console.Index = None,
) -> None:
    """Serve /v1/chat/completions, /v1/completions, /v1/compress, /v1/rerank and more.

    With --upstream, the documents, tool results and marked texts of a request are shortened, and the request is handed
    on. The upstream's own key is read from SPEC_RAG_UPSTREAM_KEY; without it the client's is handed on.
    """
    if target is not None and upstream is not None:
        raise ConfigError(f"--target {target} and --upstream {upstream} both answer: give one of them.")
    settings = ServerSettings(
        draft=draft or DEFAULT_DRAFT,
        target=None if upstream else target or DEFAULT_DRAFT,
        upstream=upstream,
        upstream_key=os.environ.get("SPEC_RAG_UPSTREAM_KEY") or None,
        served_name=served_name,
        device=device,
        index=str(index) if index else None,
        api_keys=read_keys(api_keys),
        compression=CompressionConfig.from_dict(
            compression_settings(max_tokens=max_tokens, ratio=ratio, coverage=coverage, likelihood=likelihood)
        ),
        speckv=SpecKVConfig(max_capacity_prompt=kv_capacity, preset=kv_preset) if kv_capacity else None,
        min_chars=min_chars,
        max_body_bytes=max_body_mib * 2**20,
        conversation_bytes=conversation_mib * 2**20,
        max_completion_tokens=max_completion_tokens,
        default_completion_tokens=min(256, max_completion_tokens),
        max_requests=max_requests,
        timeout_seconds=timeout,
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
) -> None:
    """Ask questions about files on a page in the browser: the page of `spec-rag serve`, for this machine alone."""
    settings = ServerSettings(
        draft=draft or DEFAULT_DRAFT,
        target=target or DEFAULT_DRAFT,
        device=device,
        index=str(index) if index else None,
    )
    address = f"http://127.0.0.1:{port}/app/"
    run(settings, "127.0.0.1", port, started=lambda: _show(address, browser))


def _show(address: str, browser: bool) -> None:
    typer.echo(f"The page is at {address} (stop with Ctrl-C).", err=True)
    if browser:
        import webbrowser

        webbrowser.open(address)


def run(settings: ServerSettings, host: str, port: int, **options: Any) -> None:
    """Serve until the process is told to stop.

    Raises:
        MissingDependencyError: a package that serving needs is not installed.
    """
    try:
        from spec_rag.serving.app import run as run_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f'Serving needs {error.name}: pip install "spec-rag[serve]"') from error
    console.quiet_transformers()
    run_server(settings, host, port, **options)


def read_keys(path: Path | None) -> tuple[str, ...]:
    """The API keys of a file, or else of the environment.

    Raises:
        ConfigError: the file holds none.
    """
    if path is None:
        return tuple(key.strip() for key in os.environ.get("SPEC_RAG_API_KEYS", "").split(",") if key.strip())
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{path} holds no key: write one a line.")
    return keys
