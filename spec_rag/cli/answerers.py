"""Options of the commands that let a server answer, and what they lead to."""

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
        help="Base URL of an OpenAI-compatible server that answers in place of --target, such as "
        "http://localhost:11434/v1."
    ),
]
Model = Annotated[
    str | None, typer.Option(help="With --upstream: name of the model (default: the server's, if it has one only).")
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
    """The server that the options name.

    Raises:
        ConfigError: the URL, the model or the variable cannot be used.
        UpstreamError: the server cannot be reached, or refuses the key.
    """
    from spec_rag.answering.openai_server import OpenAIGenerator

    return OpenAIGenerator(url, model, key_of(key_variable))


def check_upstream(url: str | None, model: str | None, key_variable: str | None) -> None:
    """Refuse options of a server where none is named.

    Raises:
        ConfigError: a model or a key's variable is given without a URL.
    """
    for name, value in {"--model": model, "--api-key-env": key_variable}.items():
        if url is None and value is not None:
            raise ConfigError(f"{name} {value} needs --upstream URL; a model on this machine is named with --target.")


def local_only(**options: Any) -> None:
    """Refuse options that describe a model on this machine, where a server answers.

    Args:
        **options: values by the options' names; None where an option was not given.

    Raises:
        ConfigError: one was given.
    """
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"{name} {value} is for a model on this machine, and --upstream lets a server answer: give one of them."
            )
