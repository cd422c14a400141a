"""`spec-rag mcp`: tools for agents over the Model Context Protocol (stdio)."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from spec_rag.cli import console
from spec_rag.cli.interrupted import INTERRUPTED, print_interrupted
from spec_rag.errors import MissingDependencyError
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.serving.settings import ServerSettings


def register(app: typer.Typer) -> None:
    app.command()(mcp)


def mcp(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders that may be searched.", exists=True, file_okay=False)
    ] = None,
    draft: console.Draft = None,
    device: console.Device = None,
    index: console.Index = None,
) -> None:
    """Serve the tools compress, search_and_compress (in FOLDERS) and expand to an agent."""
    try:
        from spec_rag.serving.mcp_server import create_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f'An MCP server needs {error.name}: pip install "spec-rag[mcp]"') from error
    console.quiet_transformers()
    settings = ServerSettings(draft=draft or DEFAULT_DRAFT, device=device, index=str(index) if index else None)
    server = create_server(settings, folders or [])
    for handler in logging.getLogger().handlers:  # libraries set lower levels on their own loggers
        handler.setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        server.run("stdio")
    except BaseExceptionGroup as group:
        if group.split(BrokenPipeError)[1] is not None:
            raise
        os._exit(0)  # the client disconnected


def _interrupted(*_: object) -> None:
    """Exit immediately: a thread that waits for standard input would keep the process alive."""
    print_interrupted()
    os._exit(INTERRUPTED)
