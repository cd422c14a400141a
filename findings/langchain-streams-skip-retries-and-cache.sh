#!/usr/bin/env bash
# Library: langchain-core 1.8.3
#
# Guess, written before the run: with_retry() tries a stream again when it fails before its first chunk; stream()
#   of a chat model answers from the cache that invoke() fills.
#
# Seen: with_retry() does not touch stream(): the first failure is raised after one try, while invoke() tries
#   three times. stream() asks the model again though the cache has the answer, and so can return another text
#   than invoke().
#
# Why it matters: an application that switches to streaming loses its retries and pays for each repeated question;
#   its tests with invoke() do not show it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-core==1.8.3
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

print("langchain-core", version("langchain-core"))
tries = []


def busy(text):
    tries.append(text)
    if len(tries) % 3:
        raise ConnectionError("busy")
    return "answer"


step = RunnableLambda(busy).with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
answer = step.invoke("x")
invoked = len(tries)
tries.clear()
try:
    streamed = list(step.stream("x"))
except ConnectionError as error:
    streamed = repr(error)
print(f"invoke: {answer!r} after {invoked} tries, stream: {streamed} after {len(tries)}")

model = GenericFakeChatModel(messages=iter([AIMessage("first"), AIMessage("second")]), cache=InMemoryCache())
texts = [model.invoke("q").content, model.invoke("q").content, "".join(part.content for part in model.stream("q"))]
print("invoke, invoke, stream:", texts)
assert (answer, invoked, len(tries)) == ("answer", 3, 1) and "busy" in streamed
assert texts == ["first", "first", "second"]
PY
"$work/venv/bin/python" -I "$work/check.py"
