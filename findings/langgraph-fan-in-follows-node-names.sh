#!/usr/bin/env bash
# Library: langgraph 1.2.24
#
# Guess, written before the run: what parallel nodes add to one list comes in the order in which their edges were
#   added.
#
# Seen: it comes in alphabetical order of the nodes' names, whatever the order of nodes and edges; tasks of Send
#   keep their order and come after the plain nodes.
#
# Why it matters: with a node per retriever, renaming a node reorders the documents, and with them the prompt, its
#   cached prefix and the answer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langgraph==1.2.24 langchain-core==1.8.3
cat > "$work/check.py" <<'PY'
import operator
from importlib.metadata import version
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph

print("langgraph", version("langgraph"))


class State(TypedDict):
    found: Annotated[list, operator.add]


def order(names):
    graph = StateGraph(State)
    for name in names:
        graph.add_node(name, lambda state, name=name: {"found": [name]})
    for name in names:
        graph.add_edge(START, name)
    return graph.compile().invoke({"found": []})["found"]


seen = {names: order(names) for names in (("web", "archive", "notes"), ("notes", "web", "archive"), ("1-web", "2-archive", "3-notes"))}
for names, found in seen.items():
    print("edges", names, "-> list", found)
assert all(found == sorted(names) for names, found in seen.items())
PY
"$work/venv/bin/python" -I "$work/check.py"
