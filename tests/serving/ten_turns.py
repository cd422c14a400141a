"""A conversation of ten turns with tool results and documents, held through a server in front of another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from serving.helpers import FACTS


def result_of(turn: int) -> str:
    return " ".join(f"Tank {turn}-{i} holds {turn * 100 + i} litres of water." for i in range(12))


def hold_ten_turns(client: Any, model: str, **options: Any) -> list[tuple[int, int]]:
    """Tokens before and after of each turn; every third answer is streamed."""
    documents = [{"title": title, "text": text} for title, text in FACTS]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    spent: list[tuple[int, int]] = []
    for turn in range(10):
        messages.append({"role": "user", "content": f"How much does tank {turn} hold, and soup {turn}?"})
        if turn % 2:
            call = {"id": f"c{turn}", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{turn}", "content": result_of(turn)})
        before = json.dumps(messages)
        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=messages,
            top_p=0.5,
            stream=turn % 3 == 2,
            extra_body={"documents": documents},
            **options,
        )
        assert json.dumps(messages) == before
        spent.append(tuple(int(raw.headers[f"x-spec-rag-tokens-{when}"]) for when in ("before", "after")))
        if turn % 3 == 2:
            pieces = [chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices]
            answer = "".join(pieces)
        else:
            answer = raw.parse().choices[0].message.content
        assert answer
        messages.append({"role": "assistant", "content": answer})
    return spent


def check_ten_turns(bodies: Sequence[bytes], spent: Sequence[tuple[int, int]]) -> None:
    """What was forwarded of a turn begins with what was forwarded of the turn before, byte for byte."""
    assert len(bodies) == len(spent) == 10
    prefixes = [body[: body.index(b"], ", body.rindex(b'"content"'))] for body in bodies]
    heads = {prefix[: prefix.index(b'"messages": [')] for prefix in prefixes}
    chats = [prefix[prefix.index(b'"messages": [') :] for prefix in prefixes]
    assert len(heads) <= 2  # with and without stream
    for earlier, later in pairwise(chats):
        assert later.startswith(earlier), (earlier[-200:], later[len(earlier) - 200 : len(earlier)])
        assert len(later) > len(earlier)
    read = [json.loads(body) for body in bodies]
    assert all(body["top_p"] == 0.5 and "documents" not in body for body in read)
    sent = read[-1]["messages"]
    for turn in range(1, 10, 2):
        (result,) = [message for message in sent if message.get("tool_call_id") == f"c{turn}"]
        assert 0 < len(result["content"]) < len(result_of(turn)) / 2
    # documents are counted once, and no sentence of them is sent twice
    dense = sum(len(text) for _, text in FACTS)
    assert spent[0][0] == pytest.approx(dense, abs=10)
    assert all(after < before for before, after in spent)
    asked = " ".join(str(message["content"]) for message in sent if message["role"] != "assistant")
    assert all(asked.count(sentence) <= 1 for _, text in FACTS for sentence in text.split(". ") if len(sentence) > 10)
