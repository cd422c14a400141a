"""Tool calls in a model's text: what asks for one, and how to read one.

Reads what local models write: <tool_call>{...}</tool_call> (Hermes, Qwen, SmolLM), and bare JSON with "name" and
"arguments" or "parameters" (Llama, Mistral). This module does not know prompts.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import InvalidToolCall, ToolCall, ToolCallChunk

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(rf"{_OPENING}\s*(.*?)\s*(?:{_CLOSING}|\Z)", re.DOTALL)


def chosen_tool(tool_choice: Any, names: Sequence[str]) -> str | None:
    """What a tool_choice asks for: a tool's name, "any", "none", or None for the model's own choice.

    Raises:
        ValueError: it names a tool that is not there.
    """
    if isinstance(tool_choice, dict):
        tool_choice = tool_choice.get("function", tool_choice).get("name")
    if tool_choice in (None, False, "auto"):
        return None
    if tool_choice in (True, "any", "required"):
        return "any"
    if tool_choice == "none":
        return "none"
    if tool_choice not in names:
        raise ValueError(f"tool_choice={tool_choice!r}: the tools are {', '.join(names)}.")
    return str(tool_choice)


def beginning_of_call(choice: str, names: Sequence[str]) -> str:
    """The first characters of an answer that has to be a call of the chosen tool ("any" of them)."""
    name = names[0] if choice == "any" and len(names) == 1 else choice
    return f'{_OPENING}\n{{"name": "' + ("" if name == "any" else f'{name}", "arguments": ')


def read_tool_calls(text: str) -> tuple[str, list[ToolCall], list[InvalidToolCall]]:
    """The text outside the tool calls, the calls, and what looked like a call but cannot be read."""
    if _OPENING in text:
        bodies = _TAGGED.findall(text)
        rest = _TAGGED.sub("", text).rstrip()
    elif text.lstrip()[:1] in ("{", "["):
        bodies, rest = [text.strip()], ""
    else:
        return text, [], []
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for body in bodies:
        read = _calls(body)
        calls += read
        if not read:  # with its tag, so that nobody takes half a call for the arguments of a whole one
            args = _OPENING + body
            invalid.append(InvalidToolCall(type="invalid_tool_call", name=None, args=args, id=_new_id(), error=None))
    if invalid and _OPENING not in text:
        return text, [], []  # an answer that happens to be JSON
    return rest, calls, invalid


def as_chunks(calls: Sequence[ToolCall], invalid: Sequence[InvalidToolCall]) -> list[ToolCallChunk]:
    """The same calls for the last chunk of a stream."""
    written = [(call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"]) for call in calls]
    written += [(call["name"] or "", call["args"] or "", call["id"]) for call in invalid]
    return [
        ToolCallChunk(name=name, args=args, id=id, index=index, type="tool_call_chunk")
        for index, (name, args, id) in enumerate(written)
    ]


class CallsHeldBack:
    """Passes the pieces of a text on, up to where a tool call begins or may begin."""

    def __init__(self, beginning: str = "") -> None:
        self.text = beginning
        self._passed = 0

    def feed(self, piece: str) -> str:
        """What may be shown now that `piece` has come."""
        self.text += piece
        if self.text.lstrip()[:1] in ("", "{", "["):
            return ""
        end = self.text.find(_OPENING)
        if end < 0:
            end = len(self.text) - max(n for n in range(len(_OPENING)) if self.text.endswith(_OPENING[:n]))
        shown = self.text[self._passed : end].rstrip()  # the space before a call is not part of the answer
        self._passed += len(shown)
        return shown

    def rest(self) -> tuple[str, list[ToolCall], list[InvalidToolCall]]:
        """The text that has not been shown, and the calls."""
        text, calls, invalid = read_tool_calls(self.text)
        return text[self._passed :], calls, invalid


def _calls(body: str) -> list[ToolCall]:
    try:
        read, _ = json.JSONDecoder(strict=False).raw_decode(body)
    except ValueError:
        return []
    calls = []
    for one in read if isinstance(read, list) else [read]:
        if not isinstance(one, dict):
            return []
        function = one.get("function", one)
        arguments = function.get("arguments", function.get("parameters", {})) if isinstance(function, dict) else None
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return []
        if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
            return []
        calls.append(ToolCall(name=function["name"], args=arguments, id=_new_id(), type="tool_call"))
    return calls


def _new_id() -> str:
    return uuid.uuid4().hex[:9]  # Mistral's templates take ids of nine letters and digits alone
