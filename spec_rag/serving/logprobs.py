"""Log-probabilities in the form of OpenAI's chat and completion APIs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spec_rag.results import TokenLogprob

_LEAST = -9999.0  # as in OpenAI's API for a probability of zero


def chat_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """`logprobs` of a chat choice; None if not requested."""
    if tokens is None:
        return None
    entries = [{**_entry(token), "top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return {"content": entries, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """`logprobs` of a completion choice; None if not requested."""
    if tokens is None:
        return None
    offsets, end = [], 0
    for token in tokens:
        offsets.append(end)
        end += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [{other.text: _finite(other.logprob) for other in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    whole = "\ufffd" not in token.text  # else the token is part of a character
    return {
        "token": token.text,
        "logprob": _finite(token.logprob),
        "bytes": list(token.text.encode("utf-8", "replace")) if whole else None,
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _LEAST
