"""Answers that are JSON of a given schema: how a model is asked for one, and how the answer is read.

Importing this module loads neither torch nor transformers. It does not know prompts or frameworks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_INSTRUCTION = (
    "Answer with one JSON object that fits the JSON schema below, and with nothing else: no explanation, no code "
    "fence, no schema.\n\n{schema}"
)
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """What a system message says to get JSON of that schema."""
    return _INSTRUCTION.format(schema=json.dumps(schema, ensure_ascii=False))


def read_json(text: str) -> Any:
    """The JSON in an answer: the answer itself, what is in its code fence, or what follows its first bracket.

    Raises:
        ValueError: there is none, or it is broken; the message quotes the answer.
    """
    fenced = _FENCED.search(text)
    body = (fenced.group(1) if fenced else text).strip()
    start = min((at for at in (body.find("{"), body.find("[")) if at >= 0), default=0)
    try:
        return json.JSONDecoder(strict=False).raw_decode(body[start:])[0]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The answer is no JSON ({error}): {text!r:.200}") from error
