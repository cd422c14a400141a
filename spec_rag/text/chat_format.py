"""Chat templates that support less than a chat needs: other arrangements of its turns, and the end of a turn.

Every arrangement holds the text of all messages in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from spec_rag.text.tokenization import control_tokens
from spec_rag.utils.object_state import state_of

Turns: TypeAlias = list[dict[str, Any]]

_ANSWER = "Zq0answer0qZ"
_USER: dict[str, Any] = {"role": "user", "content": "Zq0question0qZ"}
_ASSISTANT: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
_TAG = re.compile(r"\s*(<[^<>\s]+>)")


def arrangements(turns: Turns) -> Iterator[Turns]:
    """Yield the turns unchanged, then with system texts moved into user turns, and with a leading user turn."""
    tried: list[Turns] = []
    for system in (turns, with_leading_system_turn(turns), without_system_turn(turns)):
        for arranged in (system, opened_by_user(system)):
            if arranged not in tried:
                tried.append(arranged)
                yield arranged


def without_system_turn(turns: Sequence[dict[str, Any]]) -> Turns:
    """Convert system turns to user turns, for templates without a system role."""
    return joined_turns([{**turn, "role": "user"} if turn["role"] == "system" else turn for turn in turns])


def with_leading_system_turn(turns: Sequence[dict[str, Any]]) -> Turns:
    """Convert system turns after the first turn to user turns, for templates that accept only a leading one."""
    leading = 1 if turns and turns[0]["role"] == "system" else 0
    return [*turns[:leading], *without_system_turn(turns[leading:])]


def opened_by_user(turns: Sequence[dict[str, Any]]) -> Turns:
    """Insert an empty user turn before a leading assistant turn."""
    leading = 1 if turns and turns[0]["role"] == "system" else 0
    if len(turns) > leading and turns[leading]["role"] != "user":
        return [*turns[:leading], {"role": "user", "content": ""}, *turns[leading:]]
    return list(turns)


def with_calls_apart(turns: Sequence[dict[str, Any]]) -> Turns:
    """Split assistant turns with text and tool calls into two turns."""
    apart: Turns = []
    for turn in turns:
        if turn.get("tool_calls") and turn["content"]:
            apart.append({"role": turn["role"], "content": turn["content"]})
            turn = {**turn, "content": ""}
        apart.append(turn)
    return apart


def in_parts(turns: Sequence[dict[str, Any]]) -> Turns:
    """Convert each content to a list of text blocks, as multimodal templates expect."""
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def joined_turns(turns: Sequence[dict[str, Any]]) -> Turns:
    """Join consecutive turns of one role, except tool results."""
    joined: Turns = []
    for turn in turns:
        if joined and turn["role"] == joined[-1]["role"] != "tool":
            joined[-1] = _joined(joined[-1], turn)
        else:
            joined.append(dict(turn))
    return joined


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    content = "\n\n".join(part for part in (first["content"], second["content"]) if part)
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    return {**first, "content": content, **({"tool_calls": calls} if calls else {})}


class _TurnEnds(dict[str, list[int]]):
    """Turn end ids of one tokenizer, by its chat template."""


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the control token after an answer in the tokenizer's chat template; empty if it has none.

    If the template does not close turns, it is the control token that opens the next turn.
    """
    template = repr(tokenizer.chat_template)
    turn_ends = state_of(tokenizer, _TurnEnds)
    if template not in turn_ends:
        turn_ends[template] = _turn_end_ids(tokenizer) if tokenizer.chat_template else []
    return turn_ends[template]


def _turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # some templates close the last turn with another token than earlier ones: the last one counts
    for turns in ([_USER, _ASSISTANT], [_USER, _ASSISTANT, _USER]):
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
        except Exception:  # a template may raise anything
            continue
        token = _first_token(tokenizer, text.rpartition(_ANSWER)[2]) if _ANSWER in text else None
        if token is not None:
            return [token]
    return []


def _first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of the control token at the start of the text, ignoring white space."""
    start = text.lstrip()
    names = [name for name in control_tokens(tokenizer) if start.startswith(name.lstrip())]
    found = _TAG.match(text)
    names = names or ([found.group(1)] if found else [])
    known = tokenizer.convert_tokens_to_ids(max(names, key=len)) if names else None
    return known if isinstance(known, int) and known != tokenizer.unk_token_id else None
