"""The server as a process: its socket, its time limits for connections, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving.helpers import MODEL, engine, settings, until
from tiny import saved, tiny_model
from typer.testing import CliRunner

from spec_rag.cli.app import app as command_line
from spec_rag.errors import ConfigError, ModelNotFoundError
from spec_rag.serving.app import run

TESTS = Path(__file__).parent.parent
STREAM = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
SERVER = """
import sys
from serving.helpers import Endless, engine, settings
from spec_rag.cli.interrupted import exit_immediately
from spec_rag.serving.app import run
own = Endless(engine().pair) if {endless} else engine(endless=True)
run(settings({settings}), "127.0.0.1", 0, own)
exit_immediately(0)
"""


@contextmanager
def process(given: str = "", *, endless: bool = True) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its URL."""
    code = SERVER.format(endless=endless, settings=given)
    with subprocess.Popen([sys.executable, "-c", code], cwd=TESTS, stderr=subprocess.PIPE, text=True) as own:
        try:
            assert own.stderr is not None
            for line in own.stderr:
                if line.startswith("Listening on "):
                    break
            yield own, line.removeprefix("Listening on ").strip()
        finally:
            own.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with process("header_timeout_seconds=1.0, body_timeout_seconds=1.0, max_requests=8", endless=False) as (_, base):
        yield base


def connect(url: str) -> socket.socket:
    host, port = url[7:].split(":")
    return socket.create_connection((host, int(port)), 20)


def seconds_until_closed(client: socket.socket, drip: bytes = b"", every: float = 0.2) -> tuple[float, bytes]:
    """How long a connection stays open while bytes drip into it, and what came back."""
    started, received = time.monotonic(), b""
    client.settimeout(every)
    while time.monotonic() - started < 20:
        try:
            if drip:
                client.sendall(drip)
            piece = client.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            break
        if not piece:
            break
        received += piece
    return time.monotonic() - started, received


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n", b""),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-A: 1\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b""),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /", b"x"),
    ],
    ids=["silent", "half a request", "slow headers", "idle after a response", "slow headers after a response"],
)
def test_a_connection_without_a_whole_request_is_closed(url: str, first: bytes, drip: bytes) -> None:
    with connect(url) as client:
        client.sendall(first)
        seconds, received = seconds_until_closed(client, drip)
    assert seconds < 6
    assert received.startswith(b"HTTP/1.1 200") == first.endswith((b"\r\n\r\n", b"GET /"))


def test_slow_bodies_hold_no_place_of_the_queue_and_are_refused_in_time(url: str) -> None:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 5000", "", "{"]
    head = "\r\n".join(lines).encode()
    clients = [connect(url) for _ in range(20)]
    try:
        for client in clients:
            client.sendall(head)
        found: list[tuple[float, bytes]] = []
        threads = [
            threading.Thread(target=lambda one=client: found.append(seconds_until_closed(one, b" ")))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        body = {**STREAM, "stream": False, "max_tokens": 2}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20).status_code == 200
        for thread in threads:
            thread.join()
    finally:
        for client in clients:
            client.close()
    assert all(seconds < 6 and received.startswith(b"HTTP/1.1 408") for seconds, received in found)
    assert "in_flight_requests 0.0" in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_on_loopback_another_host_is_refused(url: str, host: str) -> None:
    for path in ("/health", "/app/", "/v1/models", "/"):
        response = httpx.get(f"{url}{path}", headers={"Host": host})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:8000", "[::1]", "localhost."])
def test_on_loopback_the_names_of_this_machine_are_answered(url: str, host: str) -> None:
    assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == 200


def test_a_stream_that_does_not_end_is_cut_in_time_and_the_exit_code_is_0() -> None:
    with process("shutdown_seconds=2.0") as (own, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=STREAM, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            own.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            rest = [line for line in lines if line.startswith("data: ")]
        assert own.wait(10) == 0
        assert time.monotonic() - sent < 4
        assert json.loads(rest[-1][6:])["error"]["code"] == "shutting_down"
        assert own.stderr is not None
        log = [json.loads(line) for line in own.stderr if line.startswith("{")]
    assert [line["event"] for line in log] == ["stopping", "request", "stopped"]
    assert (log[1]["error"], log[1]["route"]) == ("cut at shutdown", "/v1/chat/completions")
    assert (log[2]["cut"], log[2]["finished"]) == (1, 0)
    assert {"time", "client", "status", "seconds"} <= log[1].keys()


def test_an_answer_in_one_piece_that_does_not_end_is_a_503_and_what_ends_in_time_is_finished() -> None:
    with process("shutdown_seconds=2.0, max_completion_tokens=3000", endless=False) as (own, url):
        found: list[httpx.Response] = []

        def ask(tokens: int) -> None:
            body = {**STREAM, "stream": False, "max_tokens": tokens}
            found.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30))

        asking = threading.Thread(target=ask, args=(3,))
        asking.start()
        assert until(lambda: "in_flight_requests 1.0" in httpx.get(f"{url}/metrics").text or bool(found))
        own.send_signal(signal.SIGTERM)
        asking.join()
        assert own.wait(10) == 0
    assert found[0].status_code == 200


def test_a_server_with_nothing_to_do_ends_at_once() -> None:
    with process("shutdown_seconds=30.0") as (own, url), httpx.Client() as idle:
        assert idle.get(f"{url}/health").status_code == 200
        own.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert own.wait(10) == 0
        assert time.monotonic() - started < 5


def test_the_command_says_what_it_does_and_ends_with_exit_code_0(tmp_path: Path) -> None:
    folder = str(saved(tiny_model(), tmp_path / "model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["serve", "--draft", folder, "--target", folder, "--port", str(port), "--served-name", "tiny"]
    code = [sys.executable, "-c", "from spec_rag.cli import main; main()", *options]
    with subprocess.Popen(code, stderr=subprocess.PIPE, text=True) as own:
        assert own.stderr is not None
        assert own.stderr.readline() == f"Loading {folder}\n"
        assert own.stderr.readline() == f"Listening on http://127.0.0.1:{port}\n"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"] == "tiny"
        own.send_signal(signal.SIGTERM)
        assert own.wait(20) == 0
        assert [json.loads(line)["event"] for line in own.stderr] == ["request", "stopping", "stopped"]


def never() -> Any:
    raise AssertionError("models are loaded")


@pytest.mark.parametrize("host", ["999.1.1.1", "no-such-host.invalid", "203.0.113.7", "a b"])
def test_a_wrong_address_fails_before_models_are_loaded(host: str) -> None:
    with pytest.raises(ConfigError, match="host="):
        run(settings(), host, 0, load=never)


def test_a_port_in_use_fails_before_models_are_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: is in use"):
            run(settings(), "127.0.0.1", port, load=never)
        found = CliRunner().invoke(command_line, ["serve", "--port", str(port)])
    assert found.exit_code == 2
    assert found.stderr.startswith(f"error: port={port}: is in use")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("below", ["", "deeper", "a/b"])
def test_an_index_that_cannot_be_written_fails_before_models_are_loaded(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    for index in (tmp_path / "file" / below, Path("/proc/nothing") / below):
        with pytest.raises(ConfigError, match="index="):
            run(settings(index=str(index)), "127.0.0.1", 0, load=never)
    found = CliRunner().invoke(command_line, ["serve", "--port", "0", "--index", str(tmp_path / "file")])
    assert found.exit_code == 2


def test_a_model_that_is_not_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelNotFoundError):
        run(settings(target="no/such-model"), "127.0.0.1", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = CliRunner().invoke(command_line, ["serve", "--port", str(port), "--target", "no/such-model"])
    assert found.exit_code == 2
    lines = found.stderr.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["Loading", "error:"]


def test_started_is_called_when_requests_are_answered() -> None:
    stopped: list[str] = []

    def started(url: str) -> None:
        assert httpx.get  # the server runs in this thread: it is asked from another

        def ask() -> None:
            stopped.append(httpx.get(f"{url}/health").json()["status"])
            signal.raise_signal(signal.SIGTERM)

        threading.Thread(target=ask, daemon=True).start()

    run(settings(), "127.0.0.1", 0, engine(), started)
    assert stopped == ["ok"]
