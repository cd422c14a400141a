"""A small Hugging Face hub on loopback, for tests of first contact: what a fresh machine does online.

It speaks what the hub library asks: model information, file trees, HEAD and GET of files with ranges, and the error
codes of gated, private and missing models. It is also an HTTP proxy, as far as it answers for any host.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
GOOD_TOKEN, BAD_TOKEN = "hf_good", "hf_bad"


@dataclass
class Repo:
    """A model of the hub.

    Attributes:
        files: content by path.
        revisions: other branches and tags that name the same commit.
        gated: its files need GOOD_TOKEN.
        private: nobody without GOOD_TOKEN is told that it exists.
    """

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False

    @classmethod
    def of_folder(cls, folder: Path, **settings: object) -> Repo:
        """The model with the files of a checkpoint folder."""
        return cls({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, **settings)  # type: ignore[arg-type]

    @property
    def commit(self) -> str:
        """The hash of its only commit."""
        return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(self.files.items()))).hexdigest()


@dataclass
class Hub:
    """The hub's models, how it misbehaves, and what it was asked.

    Attributes:
        repos: models by hub id.
        requests: "METHOD path" of each request, for files and the API alike.
        cut: how many bytes of a file are sent before the connection breaks, by path; once, unless it is in `always`.
        stalled: the files that are sent half and then never go on.
        files_only: it is a mirror without the API, and its errors have no codes.
        status: what every request is answered with, if not as usual.
        body: what is sent with that status.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    always: bool = False
    stalled: set[str] = field(default_factory=set)
    stalls: threading.Event = field(default_factory=threading.Event)
    files_only: bool = False
    status: int | None = None
    body: bytes = b""
    port: int = 0

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[str]:
        """The names of the files whose content was asked for."""
        return [line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET ") and "/resolve/" in line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_CONNECT(self) -> None:
        self.hub.requests.append(f"CONNECT {self.path}")
        self._answer(502, b"", {})

    def _serve(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(f"{self.command} {path}")
        if address.hostname:
            self.hub.hosts.add(address.hostname)  # asked as a proxy
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        if self.hub.status is not None:
            self._answer(self.hub.status, self.hub.body, {})
            return
        if token == BAD_TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        owner_name, _, rest = path.removeprefix("/api/models/").strip("/").partition("/resolve/")
        if path.startswith("/api/models/"):
            if self.hub.files_only:
                self._refuse(404, "", "")
                return
            parts = path.removeprefix("/api/models/").split("/")
            self._about("/".join(parts[:2]), parts[2:], token)
            return
        revision, _, file = rest.partition("/")
        self._file(owner_name, revision, file, token)
        return

    def _repo(self, name: str, revision: str, token: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and token != GOOD_TOKEN):
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        if revision not in (*repo.revisions, repo.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo

    def _about(self, name: str, rest: list[str], token: str) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        repo = self._repo(name, revision, token)
        if repo is None:
            return
        if rest and rest[0] == "tree":
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in repo.files.items()
            ]
            self._answer(200, json.dumps(tree).encode(), {})
            return
        about = {"id": name, "modelId": name, "sha": repo.commit, "private": repo.private, "gated": repo.gated}
        about["siblings"] = [{"rfilename": file} for file in repo.files]
        self._answer(200, json.dumps(about).encode(), {})

    def _file(self, name: str, revision: str, file: str, token: str) -> None:
        repo = self._repo(name, revision, token)
        if repo is None:
            return
        if repo.gated and token != GOOD_TOKEN:
            status = 403 if token else 401
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
            return
        headers = {"X-Repo-Commit": repo.commit}
        if file not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found", headers)
            return
        data = repo.files[file]
        headers |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Size": str(len(data)), "Content-Disposition": f'inline; filename="{file}";'}
        asked = (self.headers.get("Range") or "").removeprefix("bytes=")
        start = int(asked.split("-")[0]) if asked else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206 if start else 200, data[start:], headers, file)

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        if self.hub.files_only:
            self._answer(404, b"", headers or {})
            return
        named = {"X-Error-Code": code} if code else {}
        self._answer(status, b"", {**(headers or {}), **named, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], file: str = "") -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut.get(file) if self.hub.always else self.hub.cut.pop(file, None)
        if cut is not None:
            self.wfile.write(body[:cut])
            self.close_connection = True
        elif file in self.hub.stalled:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.stalls.set()
            threading.Event().wait(60)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def fresh_environment(home: Path, endpoint: str | None, **more: str) -> dict[str, str]:
    """The environment of a fresh machine that is online: an empty hub cache, and no setting of the hub library."""
    ours = ("HF_", "TRANSFORMERS_", "HUGGING", "SPEC_RAG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept = {name: value for name, value in kept.items() if not name.upper().endswith("_PROXY")}
    paths = [str(ROOT), str(ROOT / "integrations"), str(ROOT / "kernels"), str(ROOT / "tests")]
    kept |= {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | ({"HF_ENDPOINT": endpoint} if endpoint else {}) | more


def start(code: str, environment: dict[str, str], **settings: object) -> subprocess.Popen[str]:
    """A fresh Python process that runs the code."""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**pipes, **settings})  # type: ignore[call-overload, no-any-return]


def run(code: str, environment: dict[str, str]) -> tuple[str, str]:
    """Standard output and error of the code in a fresh process, which runs in HF_HOME and must succeed."""
    folder = Path(environment["HF_HOME"])
    folder.mkdir(parents=True, exist_ok=True)
    process = start(code, environment, cwd=folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err
