#!/usr/bin/env bash
# Library: httpx 0.28.1
#
# Guess, written before the run: iter_lines breaks at \n, \r and \r\n, the line ends of HTTP event streams.
#
# Seen: it breaks as str.splitlines does: also at U+2028, U+2029, U+0085, form feed and vertical tab. An event
#   whose JSON has U+2028 in a string, which JSON and server-sent events allow as it is, comes in two halves, and
#   neither parses. OpenAI's client reads the same stream whole.
#
# Why it matters: answers about PDF text and source code do hold such characters. A hand-written reader of a
#   streaming model server fails on them, rarely.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check httpx==0.28.1 openai==3.57.0
cat > "$work/check.py" <<'PY'
import http.server
import json
import threading
from importlib.metadata import version

import httpx
import openai

print("httpx", version("httpx"), "openai", version("openai"))
TEXT = "one\u2028two"
CHOICE = {"index": 0, "delta": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
EVENT = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [CHOICE]}
BODY = f"data: {json.dumps(EVENT, ensure_ascii=False)}\n\ndata: [DONE]\n\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(BODY)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
with httpx.stream("POST", url) as response:
    lines = [line for line in response.iter_lines() if line]
for line in lines:
    print("httpx line:", ascii(line)[:150])
client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
answer = "".join(
    part.choices[0].delta.content
    for part in client.chat.completions.create(model="x", messages=[{"role": "user", "content": "q"}], stream=True)
)
print("openai:", ascii(answer))
assert len(lines) == 3 and lines[0].endswith("one") and lines[1].startswith("two")
assert answer == TEXT
server.shutdown()
PY
"$work/venv/bin/python" -I "$work/check.py"
