"""Log-probabilities of an answer's tokens, as OpenAI's two APIs have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spec_rag.results import TokenLogprob

_LEAST = -9999.0  # what OpenAI's API gives for a probability of zero, which JSON cannot say as a logarithm


def chat_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """The `logprobs` of a choice of a chat; None where none was asked for."""
    if tokens is None:
        return None
    entries = [{**_entry(one), "top_logprobs": [_entry(other) for other in one.top]} for one in tokens]
    return {"content": entries, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """The `logprobs` of a choice of a text completion; None where none was asked for."""
    if tokens is None:
        return None
    offsets, end = [], 0
    for one in tokens:
        offsets.append(end)
        end += len(one.text)
    return {
        "tokens": [one.text for one in tokens],
        "token_logprobs": [_finite(one.logprob) for one in tokens],
        "top_logprobs": [{other.text: _finite(other.logprob) for other in one.top} for one in tokens],
        "text_offset": offsets,
    }


def _entry(one: TokenLogprob) -> dict[str, Any]:
    whole = "\ufffd" not in one.text  # otherwise the token is a part of a character
    return {
        "token": one.text,
        "logprob": _finite(one.logprob),
        "bytes": list(one.text.encode("utf-8", "replace")) if whole else None,
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _LEAST
