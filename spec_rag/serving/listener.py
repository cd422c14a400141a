"""Listening socket, and a uvicorn server with connection timeouts and graceful shutdown.

uvicorn has no timeout for idle new connections and slow headers, and it raises SIGTERM again at its end.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from spec_rag.errors import ConfigError
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.shutdown import Shutdown

log = logging.getLogger("spec_rag.serving")

_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; connections wait until the server accepts them.

    Args:
        host: name or address of this machine.
        port: 0 selects a free one.

    Raises:
        ConfigError: the address is not local, or the port is in use or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host={host!r}: is not an address of this machine: try 127.0.0.1 or 0.0.0.0.") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(_why_not(host, port, error)) from error
    listening.set_inheritable(True)
    return listening


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port={port}: is in use on {host}: give another port, or stop the other server."
    if error.errno == errno.EACCES:
        return f"port={port}: this user may not listen there: give a port above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host={host!r}: is not an address of this machine: try 127.0.0.1 or 0.0.0.0."
    return f"host={host!r}, port={port}: cannot listen there: {error.strerror}."


def url_of(listening: socket.socket, host: str) -> str:
    """URL of the server for a browser on this machine."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def http_protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with a timeout for headers and idle connections.

    Args:
        header_seconds: from the connection, or the end of the last response, to the end of the next headers.
    """

    class LimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the timeout if no request runs; further header bytes do not extend it."""
            if self.transport.is_closing() or not (self.cycle is None or self.cycle.response_complete):
                self._stop_waiting()
            elif self._waiting is None:
                self._waiting = self.loop.call_later(header_seconds, self._close)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _close(self) -> None:
            if self.transport.get_write_buffer_size():  # the client does not read its response
                self.transport.abort()
            else:
                self.transport.close()

    return LimitedProtocol


class Server(uvicorn.Server):
    """uvicorn server with graceful shutdown and exit code 0.

    After SIGTERM it accepts no requests and waits `shutdown_seconds` for running ones, then cancels them.

    Args:
        app: the application.
        settings: the timeouts.
        shutdown: the running requests.
        started: called once requests are answered.
    """

    def __init__(
        self, app: Any, settings: ServerSettings, shutdown: Shutdown, started: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            http=http_protocol(settings.header_timeout_seconds),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=math.ceil(settings.header_timeout_seconds),
            timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self._finish_seconds = max(settings.shutdown_seconds - 0.5, settings.shutdown_seconds / 2)
        self._requests = shutdown
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `started`."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish running requests, and cancel those that exceed the time limit."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._requests.stopping = True
        running = self._requests.running
        log.info(json.dumps({"event": "stopping", "running": running}))
        cutting = loop.call_later(self._finish_seconds, self._requests.cut_running)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
        cut = self._requests.cut
        line = {"event": "stopped", "seconds": round(loop.time() - began, 3), "finished": running - cut, "cut": cut}
        log.log(logging.WARNING if cut else logging.INFO, json.dumps(line))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT; only SIGINT is raised again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if signal.SIGINT in self._captured_signals:
            signal.raise_signal(signal.SIGINT)
