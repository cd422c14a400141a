#!/usr/bin/env bash
# Library: uvicorn 0.54.0
#
# Guess, written before the run: limit_concurrency=3 allows three requests at a time; connections that are kept
#   alive and idle do not count.
#
# Seen: open connections count, too, whether or not a request runs on them. With a limit of 3 the first two
#   clients are answered and keep their connection; each further client gets 503, though nothing is running. It
#   ends when the idle ones are closed.
#
# Why it matters: clients of model servers keep pools of connections. A limit chosen to protect the model refuses
#   requests while the model is idle.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check uvicorn==0.54.0 httpx==0.28.1
cat > "$work/check.py" <<'PY'
import socket
import threading
import time
from importlib.metadata import version

import httpx
import uvicorn

print("uvicorn", version("uvicorn"))


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def serve(app, **options):
    """Its address on the loopback interface and the server, running in a thread."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **options))
    threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return f"http://127.0.0.1:{listener.getsockname()[1]}", server


address, server = serve(app, limit_concurrency=3, lifespan="off")
clients = [httpx.Client() for _ in range(5)]
statuses = [client.get(address).status_code for client in clients]
print("five clients, one after the other:", statuses)
for client in clients:
    client.close()
time.sleep(0.5)
statuses.append(httpx.get(address).status_code)
print("after they closed their connections:", statuses[-1])
server.should_exit = True
assert statuses == [200, 200, 503, 503, 503, 200]
PY
"$work/venv/bin/python" -I "$work/check.py"
