"""Tool calls in a model's text: what asks for one, and how to read one.

Reads what local models write: <tool_call>{...}</tool_call> (Hermes, Qwen, SmolLM), and bare JSON with "name" and
"arguments" or "parameters" (Llama, Mistral). Importing this module loads neither torch nor transformers. It does not
know prompts or frameworks.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.generation.structured import Constraint

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(rf"{OPENING}\s*(.*?)\s*(?:{CLOSING}|\Z)", re.DOTALL)


def _new_id() -> str:
    return uuid.uuid4().hex[:9]  # Mistral's templates take ids of nine letters and digits alone


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote: the tool's name, its arguments, and an id of our own."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=_new_id)

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it: the arguments as a JSON string."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True)
class UnreadableCall:
    """What looked like a call and cannot be read, with its tag, so that nobody takes half a call for a whole one."""

    text: str
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class ReadCalls:
    """An answer taken apart: the text outside the calls, the calls, and what cannot be read as one."""

    text: str
    calls: list[ToolCall]
    unreadable: list[UnreadableCall]


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of tools that are written as OpenAI's API has them."""
    return [tool["function"]["name"] for tool in tools]


@dataclass(frozen=True)
class ToolChoice:
    """What a model is told of the tools, and what its answer is begun with.

    Attributes:
        offered: the tools that the prompt speaks of.
        beginning: the first characters of an answer that has to be a call; "" leaves the choice to the model.
        constraint: what the rest of such an answer is held to: one call whose arguments fit the tool. None where the
            choice is the model's, and where llguidance is not installed.
    """

    offered: Sequence[Mapping[str, Any]] = ()
    beginning: str = ""
    constraint: Constraint | None = None

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> ToolChoice:
        """Read a tool_choice: "auto", "none", "any" (also "required", True), a tool's name, or OpenAI's dict of it.

        Raises:
            ConfigError: it names a tool that is not there.
        """
        if not tools:
            return cls()
        names = tool_names(tools)
        chosen = chosen_tool(choice, names)
        if chosen == "none":
            return cls()
        if chosen is None:
            return cls(tools)
        held = Constraint.tool_call(tools, chosen, CLOSING) if find_spec("llguidance") else None
        return cls(tools, beginning_of_call(chosen, names), held)


def chosen_tool(choice: Any, names: Sequence[str]) -> str | None:
    """What a tool_choice asks for: a tool's name, "any", "none", or None for the model's own choice.

    Raises:
        ConfigError: it names a tool that is not there.
    """
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name")
    if choice in (None, False, "auto"):
        return None
    if choice in (True, "any", "required"):
        return "any"
    if choice == "none":
        return "none"
    if choice not in names:
        raise ConfigError(f"tool_choice={choice!r}: the tools are {', '.join(names)}.")
    return str(choice)


def beginning_of_call(choice: str, names: Sequence[str]) -> str:
    """The first characters of an answer that has to be a call of the chosen tool ("any" of them)."""
    name = names[0] if choice == "any" and len(names) == 1 else choice
    return f'{OPENING}\n{{"name": "' + ("" if name == "any" else f'{name}", "arguments": ')


def read_tool_calls(text: str) -> ReadCalls:
    """Take an answer apart."""
    if OPENING in text:
        bodies = _TAGGED.findall(text)
        rest = _TAGGED.sub("", text).rstrip()
    elif text.lstrip()[:1] in ("{", "["):
        bodies, rest = [text.strip()], ""
    else:
        return ReadCalls(text, [], [])
    calls: list[ToolCall] = []
    unreadable: list[UnreadableCall] = []
    for body in bodies:
        read = _calls(body)
        calls += read
        if not read:
            unreadable.append(UnreadableCall(OPENING + body))
    if unreadable and OPENING not in text:
        return ReadCalls(text, [], [])  # an answer that happens to be JSON
    return ReadCalls(rest, calls, unreadable)


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
        end = self.text.find(OPENING)
        if end < 0:
            end = len(self.text) - max(n for n in range(len(OPENING)) if self.text.endswith(OPENING[:n]))
        shown = self.text[self._passed : end].rstrip()  # the space before a call is not part of the answer
        self._passed += len(shown)
        return shown

    def rest(self) -> ReadCalls:
        """The calls, and the text that has not been shown."""
        read = read_tool_calls(self.text)
        return ReadCalls(read.text[self._passed :], read.calls, read.unreadable)


def _calls(body: str) -> list[ToolCall]:
    try:
        read, _ = json.JSONDecoder(strict=False).raw_decode(body)
    except (ValueError, RecursionError):
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
        calls.append(ToolCall(function["name"], arguments))
    return calls
