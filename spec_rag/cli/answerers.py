"""Options for a remote server that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.answering.openai_server import key_of
from spec_rag.errors import ConfigError

if TYPE_CHECKING:
    from spec_rag.answering.openai_server import OpenAIGenerator

Upstream = Annotated[
    str | None,
    typer.Option(
        help="Base URL of an OpenAI-compatible server that answers instead of --target, such as "
        "http://localhost:11434/v1."
    ),
]
Model = Annotated[
    str | None, typer.Option(help="With --upstream: name of the model (default: the server's only model).")
]
ApiKeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        help="With --upstream: environment variable that holds the API key (default: SPEC_RAG_UPSTREAM_KEY).",
        metavar="NAME",
    ),
]


def upstream_generator(url: str, model: str | None, key_variable: str | None) -> OpenAIGenerator:
    """A generator for the server.

    Raises:
        ConfigError: the URL, the model or the variable is invalid.
        UpstreamError: the server is not reachable, or refuses the key.
    """
    from spec_rag.answering.openai_server import OpenAIGenerator

    return OpenAIGenerator(url, model, key_of(key_variable))


def check_upstream(url: str | None, model: str | None, key_variable: str | None) -> None:
    """Raise ConfigError if a model or a key variable is given without a URL."""
    for name, value in {"--model": model, "--api-key-env": key_variable}.items():
        if url is None and value is not None:
            raise ConfigError(f"{name} {value} needs --upstream URL; for a local model give --target.")


def local_only(**options: Any) -> None:
    """Raise ConfigError if one of the options, which apply to a local model only, is not None."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"{name} {value} applies to a local model, and --upstream names a server: give one of them."
            )
