#!/usr/bin/env bash
# Library: starlette 1.10.0 (as FastAPI 0.165.0 uses it), uvicorn 0.54.0
#
# Guess, written before the run: when the client leaves, StreamingResponse closes the generator that it streams
#   from, so a finally block in it runs, for async and plain generators alike.
#
# Seen: an async generator is cancelled at once. A plain generator is left where it stands: its finally block has
#   not run three seconds later, and it runs only when the generator is garbage-collected.
#
# Why it matters: model servers stream from plain generators and free the request's place, lock or cache in
#   finally. Each client that leaves early keeps them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check starlette==1.10.0 uvicorn==0.54.0 httpx==0.28.1
cat > "$work/check.py" <<'PY'
import asyncio
import socket
import threading
import time
from importlib.metadata import version

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

print("starlette", version("starlette"), "uvicorn", version("uvicorn"))
events = []


def plain():
    try:
        for n in range(1000):
            time.sleep(0.02)
            yield f"data: {n}\n\n"
    finally:
        events.append("plain")


async def asynchronous():
    try:
        for n in range(1000):
            await asyncio.sleep(0.02)
            yield f"data: {n}\n\n"
    finally:
        events.append("asynchronous")


app = Starlette(
    routes=[
        Route("/plain", lambda request: StreamingResponse(plain())),
        Route("/asynchronous", lambda request: StreamingResponse(asynchronous())),
    ]
)


def serve(app, **options):
    """Its address on the loopback interface and the server, running in a thread."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **options))
    threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return f"http://127.0.0.1:{listener.getsockname()[1]}", server


address, server = serve(app)
seen = {}
for name in ("asynchronous", "plain"):
    with httpx.stream("GET", f"{address}/{name}") as response:
        next(response.iter_bytes())
    time.sleep(3)
    seen[name] = name in events
    print(f"{name} generator: finally block ran within three seconds: {seen[name]}")
server.should_exit = True
assert seen == {"asynchronous": True, "plain": False}
PY
"$work/venv/bin/python" -I "$work/check.py"
