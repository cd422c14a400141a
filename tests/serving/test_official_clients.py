"""The official clients of all three APIs, and LiteLLM, in an environment of their own:

python -m venv /tmp/clients && /tmp/clients/bin/pip install openai anthropic "litellm[proxy]"
SPEC_RAG_CLIENTS=/tmp/clients/bin/python pytest tests/serving/test_official_clients.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from serving.test_gateway_expand import Model, fronted
from serving.test_gateway_shapes import SHAPES, exchange, result_of

PYTHON = os.environ.get("SPEC_RAG_CLIENTS")


@pytest.mark.skipif(PYTHON is None, reason="SPEC_RAG_CLIENTS names no interpreter")
def test_official_clients_parse_answers_and_streams_with_expansions() -> None:
    calls = [[("expand_document", {"handle": "aaaaaaaaaaaa"})], []] * 6
    exchanges = {shape: exchange(shape, 0, result_of(0)) for shape in SHAPES}
    with fronted(Model(*calls)) as url:
        run = subprocess.run(
            [str(PYTHON), str(Path(__file__).with_name("official_clients.py")), url],
            input=json.dumps(exchanges),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
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
