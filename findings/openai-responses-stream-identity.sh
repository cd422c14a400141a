#!/usr/bin/env bash
# Library: openai 3.57.0
#
# Guess, written before the run: the helper `client.responses.stream` takes the events of one stream as they come. Its
#   final response is that of the last event, and an answer that stopped at its token limit (`response.incomplete`) is
#   returned with its status.
#
# Seen: if `response.completed` has another id than `response.created`, the helper raises. After `response.incomplete`
#   as the last event, `get_final_response` raises as well: only `response.completed` counts as an end. The plain
#   `client.responses.create(stream=True)` passes on the events of both streams.
#
# Why it matters: a gateway that answers a tool call itself and joins two upstream responses to one stream has to give
#   all events one id; and readers of streamed answers with a limit have to take the plain stream.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check openai==3.57.0
cat > "$work/check.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

print("openai", openai.__version__)


def response(identity, status):
    return {
        "id": identity, "object": "response", "created_at": 0, "model": "m", "status": status, "output": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "instructions": None,
        "metadata": {}, "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
    }


STREAMS = {
    "other id": [("response.created", "one", "in_progress"), ("response.completed", "two", "completed")],
    "incomplete": [("response.created", "one", "in_progress"), ("response.incomplete", "one", "incomplete")],
    "ordinary": [("response.created", "one", "in_progress"), ("response.completed", "one", "completed")],
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, (kind, identity, status) in enumerate(STREAMS[body["input"]]):
            event = {"type": kind, "sequence_number": number, "response": response(identity, status)}
            self.wfile.write(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)


def helper(text):
    try:
        with client.responses.stream(model="m", input=text) as stream:
            return stream.get_final_response().status
    except RuntimeError as error:
        return f"RuntimeError: {error}"


seen = {text: helper(text) for text in STREAMS}
plain = {text: [event.type for event in client.responses.create(model="m", input=text, stream=True)] for text in STREAMS}
for text in STREAMS:
    print(f"{text}: helper {seen[text]!r}; plain stream {plain[text]}")
assert seen["ordinary"] == "completed"
assert seen["other id"].startswith("RuntimeError") and seen["incomplete"].startswith("RuntimeError"), seen
assert [events[-1] for events in plain.values()] == ["response.completed", "response.incomplete", "response.completed"]
PY
"$work/venv/bin/python" -I "$work/check.py"
