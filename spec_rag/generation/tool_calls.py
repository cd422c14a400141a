"""Parsing of tool calls in a model's text, and the tools that a request offers.

Supported formats: <tool_call>{...}</tool_call> (Hermes, Qwen, SmolLM), and bare JSON with "name" and "arguments" or
"parameters" (Llama, Mistral). A call has the exact name of an offered tool and arguments that fit its parameters;
everything else is text. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.generation.structured_output import Constraint, closed_schema
from spec_rag.generation.tool_arguments import misfit
from spec_rag.generation.tool_grammars import (
    CLOSING,
    OPENING,
    call_or_answer,
    call_prefix,
    calls_in_text,
    forced_call,
)
from spec_rag.utils.validation import check_depth

_BARE_KEYS = {"name", "arguments", "parameters", "type", "id", "function"}
_MAX_INVALID = 16  # after this many invalid calls, the rest of an answer is text
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s;,]*")  # between two calls
_BRACES = re.compile(r"[\s}\]]*")  # superfluous brackets after a call


def _new_id() -> str:
    return uuid.uuid4().hex[:9]  # Mistral's templates accept only ids of nine letters and digits


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote: the tool's name, its arguments, and a generated id."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=_new_id)

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON that can be encoded as UTF-8."""
        written = json.dumps(self.arguments, ensure_ascii=False)
        lone = any("\ud800" <= letter <= "\udfff" for letter in written)
        return json.dumps(self.arguments) if lone else written

    def to_dict(self) -> dict[str, Any]:
        """The format of OpenAI's API: the arguments as a JSON string."""
        function = {"name": self.name, "arguments": self.arguments_json}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class InvalidToolCall:
    """Tagged text that is not a call of an offered tool.

    Attributes:
        text: the text, tags included.
        error: why it is not a call.
        name: the tool that it names, or None.
        id: a generated id.
    """

    text: str
    error: str = ""
    name: str | None = None
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class ReadCalls:
    """A parsed answer.

    Attributes:
        text: the text outside of call tags.
        calls: the calls of offered tools, in order.
        unreadable: tagged text that is not a call.
        whole_text: the answer without its calls; tagged text that is not a call is left in place.
    """

    text: str
    calls: list[ToolCall] = field(default_factory=list)
    unreadable: list[InvalidToolCall] = field(default_factory=list)
    whole_text: str = ""

    @classmethod
    def of_text(cls, text: str) -> ReadCalls:
        """An answer without calls."""
        return cls(text, whole_text=text)


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of tools in the format of OpenAI's API."""
    return [tool["function"]["name"] for tool in tools]


@dataclass(frozen=True)
class ToolChoice:
    """The tools that a model may call, with prefix and constraint of its answer.

    Attributes:
        offered: the tools that the prompt lists.
        assistant_prefix: the first characters of an answer that must be a call; "" leaves the choice to the model.
        constraint: constraint of the rest of the answer, or None. It enforces the parameters of a required call, and of
            every call if a tool has `strict`. None without llguidance.
        single: whether the answer has at most one call.
        name: the only tool that may be called; None for all.
    """

    offered: Sequence[Mapping[str, Any]] = ()
    assistant_prefix: str = ""
    constraint: Constraint | None = None
    single: bool = False
    name: str | None = None

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]] | None, choice: Any, parallel: bool | None = None) -> ToolChoice:
        """The tools and the tool_choice of a request.

        Args:
            tools: in the format of OpenAI's API.
            choice: "auto", "none", "any" (also "required", True), a tool's name, or OpenAI's dict of a function or of
                `allowed_tools`.
            parallel: False allows at most one call.

        Raises:
            ConfigError: the choice names an unknown tool, or a tool is nested too deeply.
        """
        if not tools:
            return cls()
        check_depth("tools", tools)
        offered, choice = _allowed(tools, choice)
        chosen = chosen_tool(choice, tool_names(offered))
        if chosen == "none":
            return cls()
        single = parallel is False
        has_grammars = find_spec("llguidance") is not None
        if chosen is None:
            strict = has_grammars and any(tool["function"].get("strict") for tool in offered)
            return cls(offered, "", calls_in_text(offered, single) if strict else None, single)
        constraint = forced_call(offered, chosen) if has_grammars else None
        name = None if chosen == "any" else chosen
        return cls(offered, call_prefix(chosen, tool_names(offered)), constraint, single, name)

    def constrained_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a generation with one constraint for both its calls and its answer.

        Args:
            options: of `spec_rag.generate`; schema, regex or constraint applies to an answer that is not a call.

        Raises:
            ConfigError: more than one of these is given, or one is invalid.
        """
        rest = {name: value for name, value in options.items() if name not in ("schema", "regex", "constraint")}
        form = Constraint.of(options.get("schema"), options.get("regex"))
        if form is not None and options.get("constraint") is not None:
            raise ConfigError("constraint and schema or regex are both given: give one of them.")
        form = form or options.get("constraint")
        constraint = self.constraint
        if form is not None and not self.assistant_prefix:
            constraint = call_or_answer(self.offered, form, self.single) if self.offered else form
        return rest if constraint is None else {**rest, "constraint": constraint}

    def read(self, text: str) -> ReadCalls:
        """Parse an answer that continues `assistant_prefix`."""
        tools = [tool for tool in self.offered if self.name in (None, tool["function"]["name"])]
        return read_tool_calls(self.assistant_prefix + text, tools, single=self.single)

    def stream(self) -> ToolCallStreamParser | None:
        """A parser for the pieces of the answer; None without tools."""
        return ToolCallStreamParser(self) if self.offered else None


def chosen_tool(choice: Any, names: Sequence[str]) -> str | None:
    """The meaning of a tool_choice: a tool's name, "any", "none", or None for the model's own choice.

    Raises:
        ConfigError: it names an unknown tool.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else function
    if choice in (None, False, "auto"):
        return None
    if choice in (True, "any", "required"):
        return "any"
    if choice == "none":
        return "none"
    if choice not in names:
        raise ConfigError(f"tool_choice={choice!r:.80}: the tools are {', '.join(names)}.")
    return str(choice)


def read_tool_calls(text: str, tools: Sequence[Mapping[str, Any]], *, single: bool = False) -> ReadCalls:
    """Parse an answer.

    Args:
        text: the answer.
        tools: the tools that may be called, in the format of OpenAI's API; without any, all is text.
        single: drop all calls but the first.
    """
    if not tools:
        return ReadCalls.of_text(text)
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    return _Reader(text, functions).read(single)


class ToolCallStreamParser:
    """Passes on the pieces of an answer up to the start, or the possible start, of a tool call."""

    def __init__(self, choice: ToolChoice) -> None:
        self._choice = choice
        self._pieces: list[str] = []
        self._passed = 0  # characters passed on
        self._pending = ""  # possible start of a call
        self._spaces: list[str] = []  # white space after it
        self._held = bool(choice.assistant_prefix)
        self._begun = False  # whether there is text before the first call

    def feed(self, piece: str) -> str:
        """The text that may be shown after this piece."""
        self._pieces.append(piece)
        if self._held or not piece:
            return ""
        if piece.isspace():
            self._spaces.append(piece)
            return ""
        text = "".join([self._pending, *self._spaces, piece])
        self._spaces.clear()
        if not self._begun and text.lstrip()[0] in "{[":
            self._held = True
            return ""
        self._begun = True
        end = text.find(OPENING)
        self._held = end >= 0
        if not self._held:
            partial = (n for n in range(len(OPENING) - 1, 0, -1) if text.endswith(OPENING[:n]))
            end = len(text) - next(partial, 0)
        shown = text[:end].rstrip()  # the space before a call is not part of the answer
        self._pending = text[len(shown) :]
        self._passed += len(shown)
        return shown

    def rest(self) -> ReadCalls:
        """The calls, and the text that was not shown."""
        read = self._choice.read("".join(self._pieces))
        return replace(read, text=read.text[self._passed :], whole_text=read.whole_text[self._passed :])


class _NoCallError(Exception):
    """A JSON value is not a call of an offered tool; has the reason, and the tool that it names."""

    def __init__(self, why: str, name: str | None = None) -> None:
        super().__init__(why)
        self.name = name


class _Reader:
    """Parser of one answer."""

    def __init__(self, text: str, functions: Mapping[str, Mapping[str, Any]]) -> None:
        self._text = text
        self._functions = functions
        self._decoder = json.JSONDecoder(strict=False, parse_constant=_refused, parse_float=_finite)
        self._calls: list[ToolCall] = []
        self._unreadable: list[InvalidToolCall] = []
        self._outside: list[str] = []  # text outside of call tags
        self._whole: list[str] = []

    def read(self, single: bool) -> ReadCalls:
        """Parse the answer."""
        if self._text.lstrip()[:1] in ("{", "["):
            self._add_text(self._read_bare(), len(self._text))
        else:
            self._read_tagged()
        text, whole = "".join(self._outside), "".join(self._whole)
        if self._calls:
            whole = whole.rstrip()
        if self._calls or self._unreadable:
            text = text.rstrip()
        calls = self._calls[:1] if single else self._calls
        return ReadCalls(text, calls, self._unreadable, whole)

    def _add_text(self, start: int, end: int) -> None:
        self._outside.append(self._text[start:end])
        self._whole.append(self._text[start:end])

    def _read_bare(self) -> int:
        """Parse calls of bare JSON; returns the start of the text after them."""
        position = 0
        while True:
            start = _end_of(_BETWEEN if position else _SPACE, self._text, position)
            if self._text[start : start + 1] not in ("{", "["):
                return start if position else 0
            try:
                value, end = self._decoder.raw_decode(self._text, start)
                found = [self._call(one, bare=True) for one in _listed(value)]
            except (ValueError, RecursionError, _NoCallError):
                return start if position else 0
            self._calls += found
            position = end

    def _read_tagged(self) -> None:
        position = 0
        while (start := self._text.find(OPENING, position)) >= 0 and len(self._unreadable) < _MAX_INVALID:
            self._add_text(position, start)
            position = self._read_call(start)
        self._add_text(position, len(self._text))

    def _read_call(self, start: int) -> int:
        """Parse the text after an opening tag; returns its end."""
        end = start + len(OPENING)
        found: list[ToolCall] = []
        wrong: _NoCallError | None = None
        while True:
            begin = _end_of(_BETWEEN if found else _SPACE, self._text, end)
            if found and self._text[begin : begin + 1] not in ("{", "["):
                break
            try:
                value, behind = self._decoder.raw_decode(self._text, begin)
                found += [self._call(one) for one in _listed(value)]
            except (ValueError, RecursionError, _NoCallError) as error:
                wrong = error if isinstance(error, _NoCallError) else _NoCallError(f"it is not JSON: {error}")
                break
            end = behind
        following = self._text.find(OPENING, end)
        following = following if following >= 0 else len(self._text)
        closing = self._text.find(CLOSING, end, following)
        if found:
            self._calls += found
            if closing < 0:  # the answer was cut, or continues without a closing tag
                return end
            extra = _end_of(_BRACES, self._text, end)
            self._add_text(min(extra, closing), closing)
            return closing + len(CLOSING)
        end = closing + len(CLOSING) if closing >= 0 else following
        self._unreadable.append(InvalidToolCall(self._text[start:end], str(wrong), wrong.name if wrong else None))
        self._whole.append(self._text[start:end])
        return end

    def _call(self, value: Any, bare: bool = False) -> ToolCall:
        """The call in a JSON value.

        Args:
            value: decoded JSON.
            bare: whether it has no tags. It must then have only the keys of a call, and only arguments that the tool
                names.

        Raises:
            _NoCallError: it is not a call of an offered tool.
        """
        function = value.get("function", value) if isinstance(value, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or function is None:
            raise _NoCallError("it names no tool")
        if name not in self._functions:
            raise _NoCallError(f"{name!r:.80} is none of the tools {', '.join(self._functions)}", name)
        if bare and (value.keys() | function.keys()) - _BARE_KEYS:
            raise _NoCallError("it has other keys than a call", name)
        if bare and not function.keys() & {"arguments", "parameters"}:
            raise _NoCallError("it has no arguments", name)
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = self._decoder.decode(arguments) if arguments.strip() else None
            except (ValueError, RecursionError) as error:
                raise _NoCallError(f"its arguments are not JSON: {error}", name) from error
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict):
            raise _NoCallError("its arguments are no JSON object", name)
        tool = self._functions[name]
        parameters = tool.get("parameters") or {}
        wrong = misfit(arguments, closed_schema(parameters) if bare or tool.get("strict") else parameters)
        if wrong is not None:
            raise _NoCallError(f"its arguments do not fit: {wrong}", name)
        return ToolCall(name, arguments)


def _allowed(tools: Sequence[Mapping[str, Any]], choice: Any) -> tuple[Sequence[Mapping[str, Any]], Any]:
    """The tools that a tool_choice allows, and the choice among these."""
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConfigError(f"tools: {tool!r:.80} is no function: give {{'type': 'function', 'function': {{...}}}}.")
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return tools, choice
    allowed = choice.get("allowed_tools", choice)
    if not isinstance(allowed, Mapping) or allowed.get("mode") not in ("auto", "required"):
        raise ConfigError(f"tool_choice={choice!r:.200}: the mode of allowed_tools must be 'auto' or 'required'.")
    names = [
        chosen_tool({"function": one} if isinstance(one, str) else one, tool_names(tools))
        for one in allowed.get("tools") or ()
    ]
    if not names:
        raise ConfigError(f"tool_choice={choice!r:.200}: allowed_tools allows none. Give 'none' for that.")
    return [tool for tool in tools if tool["function"]["name"] in names], allowed["mode"]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) and value else [value]


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number:.20} is too large")
    return value
