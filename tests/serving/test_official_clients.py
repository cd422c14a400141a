"""The official clients of all three APIs, Cohere's, and LiteLLM, in an environment of their own:

python -m venv /tmp/clients && /tmp/clients/bin/pip install openai anthropic cohere "litellm[proxy]"
SPEC_RAG_CLIENTS=/tmp/clients/bin/python pytest tests/serving/test_official_clients.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving.helpers import MODEL
from serving.test_gateway_expand import Model, fronted
from serving.test_gateway_shapes import SHAPES, exchange, result_of
from serving.test_rerank import QUERY, TEXTS

PYTHON = os.environ.get("SPEC_RAG_CLIENTS")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="SPEC_RAG_CLIENTS names no interpreter")


def run_clients(script: str, url: str, given: dict[str, Any]) -> dict[str, Any]:
    run = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name(script)), url],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_official_clients_parse_answers_and_streams_with_expansions() -> None:
    calls = [[("expand_document", {"handle": "aaaaaaaaaaaa"})], []] * 6
    exchanges = {shape: exchange(shape, 0, result_of(0)) for shape in SHAPES}
    with fronted(Model(*calls)) as url:
        found = run_clients("official_clients.py", url, exchanges)
    texts = found.pop("litellm")
    assert texts[0] == exchanges["chat"][0]["content"]
    assert "omitted" in texts[1]
    assert found == {
        "chat": "word2 ",
        "chat stream": "word3 word4 ",
        "responses": "word5 word6 ",
        "responses stream": "word7 word8 ",
        "messages": "word9 word10 ",
        "messages stream": "word11 word12 ",
        "messages end": "end_turn",
    }


def test_the_clients_of_cohere_and_litellm_rerank_as_the_server_does(url: str) -> None:
    ask = {"model": MODEL, "query": QUERY, "documents": TEXTS, "top_n": 2}
    results = httpx.post(f"{url}/v2/rerank", json=ask, timeout=60).json()["results"]
    plain = [[one["index"], one["relevance_score"]] for one in results]
    found = run_clients("rerank_clients.py", url, ask)
    texts = found.pop("cohere v1 texts", None)
    assert found == dict.fromkeys(found, plain)
    assert {"cohere v2", "litellm cohere", "litellm jina_ai", "litellm hosted_vllm"} <= set(found)
    assert texts in (None, [TEXTS[index] for index, _ in plain])
