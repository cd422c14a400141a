#!/usr/bin/env bash
# Library: openai 3.57.0, anthropic 2.14.0
#
# Guess, written before the run: the stream helpers of both clients raise where a stream ends without its last
#   event (no finish_reason and [DONE], no message_stop), and a connection that is cut gives an error of the
#   client's own.
#
# Seen: get_final_completion and get_final_message return the half answer, with finish_reason None and stop_reason
#   None, and raise nothing. A chunked body that is cut raises openai.APIConnectionError in the one; in the other
#   the transport's RemoteProtocolError, which is no anthropic.APIError.
#
# Why it matters: a proxy that restarts closes streams in good order. The caller gets 'The fee is 1' for 'The fee
#   is 1,200' and must check the reason.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check openai==3.57.0 anthropic==2.14.0
cat > "$work/check.py" <<'PY'
import http.server
import json
import threading
from importlib.metadata import version

import anthropic
import openai

print("openai", version("openai"), "anthropic", version("anthropic"))
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "x", "content": [],
    "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip
ANTHROPIC = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "The fee is 1"}},
]
CHOICE = {"index": 0, "delta": {"role": "assistant", "content": "The fee is 1"}, "finish_reason": None}
OPENAI = [{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [CHOICE]}]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in ANTHROPIC if "messages" in self.path else OPENAI:
            name = f"event: {event['type']}\n" if "type" in event else ""
            data = f"{name}data: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if self.headers["x-mode"] == "ended":
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
ASK = {"model": "x", "messages": [{"role": "user", "content": "What is the fee?"}]}


def options(mode):
    url = f"http://127.0.0.1:{server.server_port}"
    return {"base_url": url, "api_key": "x", "max_retries": 0, "default_headers": {"x-mode": mode}}


def by_openai(mode):
    with openai.OpenAI(**options(mode)).chat.completions.stream(**ASK) as stream:
        choice = stream.get_final_completion().choices[0]
        return choice.message.content, choice.finish_reason


def by_anthropic(mode):
    with anthropic.Anthropic(**options(mode)).messages.stream(**ASK, max_tokens=9) as stream:
        message = stream.get_final_message()
        return message.content[0].text, message.stop_reason


errors = []
for ask in (by_openai, by_anthropic):
    answer = ask("ended")
    try:
        ask("cut")
    except Exception as error:
        errors.append(error)
    print(f"{ask.__name__}: ended early -> {answer}, cut -> {type(errors[-1]).__module__}.{type(errors[-1]).__name__}")
    assert answer == ("The fee is 1", None)
assert isinstance(errors[0], openai.APIConnectionError)
assert type(errors[1]).__name__ == "RemoteProtocolError" and not isinstance(errors[1], anthropic.AnthropicError)
server.shutdown()
PY
"$work/venv/bin/python" -I "$work/check.py"
