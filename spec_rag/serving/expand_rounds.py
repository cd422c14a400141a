"""The tool `expand_document` as a gateway offers and answers it, in the three shapes of API.

A `Round` reads one response of the upstream, whole or as events. Calls of the tool are taken out of what the client
sees; where the model called nothing else, `next_items` are what the next request adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from spec_rag.compression.originals import Expander
from spec_rag.handles import EXPAND
from spec_rag.serving.request_texts import ITEMS, Shape

MAX_ROUNDS = 8
_ABOUT = (
    "Returns the original text behind a handle, as in '[… 12 lines omitted (40-51): log; handle q3k7m2nd5xza]'. "
    "Call it where what was left out is needed."
)
_PARAMETERS = {
    "type": "object",
    "properties": {
        "handle": {"type": "string", "description": "The handle, copied exactly."},
        "lines": {"type": "string", "description": "Only these lines, such as '40-51'; leave it out for all."},
    },
    "required": ["handle"],
}


def with_tool(shape: Shape, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the tool. It is added to every request, so that the beginning of the prompt stays the same."""
    about = {"name": EXPAND, "description": _ABOUT}
    if shape == "chat":
        tool: dict[str, Any] = {"type": "function", "function": {**about, "parameters": _PARAMETERS}}
    elif shape == "responses":
        tool = {"type": "function", **about, "parameters": _PARAMETERS, "strict": False}
    else:
        tool = {**about, "input_schema": _PARAMETERS}
    tools = body.get("tools")
    return {**body, "tools": [*(tools if isinstance(tools, list) else []), tool]}


def may_offer(shape: Shape, body: Mapping[str, Any]) -> bool:
    """Whether the tool can be answered here: one choice, no tool of that name, and calls are not forbidden."""
    choice = body.get("tool_choice")
    named = [(tool.get("function") or tool).get("name") for tool in body.get("tools") or () if isinstance(tool, dict)]
    is_none = choice == "none" or (isinstance(choice, dict) and choice.get("type") == "none")
    return body.get("n") in (None, 1) and not is_none and EXPAND not in named and not body.get("background")


@dataclass
class Round:
    """One response of the upstream.

    Attributes:
        shape: of the API.
        number: 0 for the first round of a request.
        shown: number of output items or blocks that the client has seen in earlier rounds.
        sequence: number of events that the client has seen, where they are numbered.
        usage: of earlier rounds.
        output: items of /v1/responses that the client has seen.
        identity: of the response that the client sees, that of the first round.
        final_identity: of the upstream's last response.
    """

    shape: Shape
    number: int = 0
    shown: int = 0
    sequence: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    output: list[Any] = field(default_factory=list)
    identity: str | None = None
    final_identity: str | None = None
    own_usage: dict[str, Any] = field(default_factory=dict)
    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": None})
    _items: list[Any] = field(default_factory=list)

    def following(self) -> Round:
        """The round after this one."""
        total = _added(self.usage, self.own_usage)
        return Round(self.shape, self.number + 1, self.shown, self.sequence, total, self.output, self.identity)

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        """Id, name and arguments of all calls."""
        if self.shape == "chat":
            calls = self._message.get("tool_calls") or []
            return [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in calls]
        if self.shape == "responses":
            calls = [one for one in self._items if one.get("type") == "function_call"]
            return [(one["call_id"], one["name"], one["arguments"]) for one in calls]
        blocks = [one for one in self._blocks.values() if one.get("type") == "tool_use"]
        return [(one["id"], one["name"], one["input"]) for one in blocks]

    @property
    def continues(self) -> bool:
        """Whether the model called the tool and no other."""
        others = [one for one in self._items if one.get("type", "").endswith("_call") and one.get("name") != EXPAND]
        names = {name for _, name, _ in self.calls}
        return names == {EXPAND} and not others and self.number < MAX_ROUNDS

    def next_items(self, expand: Expander) -> list[Any]:
        """The model's turn and the results of its calls, for the next request."""
        results = [(identity, _answer(expand, arguments)) for identity, _, arguments in self.calls]
        if self.shape == "chat":
            tools = [{"role": "tool", "tool_call_id": identity, "content": text} for identity, text in results]
            return [self._message, *tools]
        if self.shape == "responses":
            outputs = [{"type": "function_call_output", "call_id": one, "output": text} for one, text in results]
            return [*self._items, *outputs]
        blocks = [{"type": "tool_result", "tool_use_id": identity, "content": text} for identity, text in results]
        spoken = [one for one in self._blocks.values() if one.get("type") != "text" or one.get("text")]
        return [{"role": "assistant", "content": spoken}, {"role": "user", "content": blocks}]

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take in a whole response; returns it as the client sees it."""
        shown = deepcopy(dict(body))
        if isinstance(body.get("usage"), dict):
            self.own_usage = body["usage"]
            shown["usage"] = _added(self.usage, self.own_usage)
        if self.shape == "chat":
            choice = (body.get("choices") or [{}])[0]
            self._message = choice.get("message") or {}
            if calls := self._message.get("tool_calls"):
                left = [one for one in calls if (one.get("function") or {}).get("name") != EXPAND]
                shown["choices"][0]["message"]["tool_calls"] = left
                if not left:
                    del shown["choices"][0]["message"]["tool_calls"]
                    shown["choices"][0]["finish_reason"] = "stop"
            return shown
        name = "output" if self.shape == "responses" else "content"
        items = [one for one in body.get(name) or () if isinstance(one, dict)]
        self._items = items if self.shape == "responses" else []
        self._blocks = dict(enumerate(items)) if self.shape == "messages" else {}
        visible = [one for one in items if one.get("name") != EXPAND]
        self.output = [*self.output, *visible]
        shown[name] = self.output
        if self.shape == "messages" and not any(one.get("type") == "tool_use" for one in visible) and self.calls:
            shown["stop_reason"] = "end_turn"
        return shown

    def feed(self, kind: str | None, data: Any) -> Iterator[tuple[str | None, Any]]:
        """Take in one event; gives the events that the client sees now."""
        if not isinstance(data, dict):
            return
        if self.shape == "chat":
            yield from ((None, one) for one in self._chunk(data))
        elif self.shape == "responses":
            yield from ((kind, one) for one in self._event(data))
        else:
            yield from ((kind, one) for one in self._block_event(data))

    def _chunk(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.identity = self.identity or data.get("id")
        if self.number:
            data = {**data, "id": self.identity}
        if isinstance(data.get("usage"), dict):
            self.own_usage = data["usage"]
            data = {**data, "usage": _added(self.usage, self.own_usage)}
        choices = data.get("choices") or []
        if not choices:
            if not self.continues:
                yield data
            return
        choice = choices[0]
        delta = dict(choice.get("delta") or {})
        if isinstance(delta.get("content"), str):
            self._message["content"] = (self._message["content"] or "") + delta["content"]
        left = []
        for call in delta.pop("tool_calls", None) or ():
            known = self._noted_call(call)
            if known["function"]["name"] != EXPAND:
                left.append({**call, "index": self._places.setdefault(call.get("index", 0), len(self._places))})
        finish = choice.get("finish_reason")
        if left:
            delta["tool_calls"] = left
        had_calls = "tool_calls" in (choice.get("delta") or {})
        if (finish and self.continues) or (had_calls and not left and not finish and not delta.get("content")):
            return
        if self.number and not finish and not left and set(delta) <= {"role", "content"} and not delta.get("content"):
            return
        if finish == "tool_calls" and not self._places:
            finish = "stop"
        if had_calls or finish != choice.get("finish_reason"):
            data = {**data, "choices": [{**choice, "delta": delta, "finish_reason": finish}]}
        yield data

    def _noted_call(self, call: dict[str, Any]) -> dict[str, Any]:
        calls = self._message.setdefault("tool_calls", [])
        index = call.get("index", 0)
        while len(calls) <= index:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        function = call.get("function") or {}
        calls[index]["id"] = call.get("id") or calls[index]["id"]
        for name in ("name", "arguments"):
            calls[index]["function"][name] += function.get(name) or ""
        known: dict[str, Any] = calls[index]
        return known

    def _event(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        kind, place = data.get("type", ""), data.get("output_index")
        response = data.get("response")
        if isinstance(response, dict):
            self.final_identity = response.get("id")
            self.identity = self.identity or self.final_identity
            response = {**response, "id": self.identity}  # clients refuse a response whose id changes
            data = {**data, "response": response}
        if self.number and kind in ("response.created", "response.in_progress", "response.queued"):
            return
        if kind == "response.output_item.added" and (data.get("item") or {}).get("name") != EXPAND:
            self._places[data["output_index"]] = self.shown + len(self._places)
        if kind == "response.output_item.done":
            self._items.append(data["item"])
            self.output = self.output + ([data["item"]] if place in self._places else [])
        if isinstance(response, dict) and kind in ("response.completed", "response.incomplete"):
            if self.continues:
                self.shown += len(self._places)
                self.own_usage = response.get("usage") or {}
                return
            usage = _added(self.usage, response.get("usage") or {}) if response.get("usage") else None
            data = {**data, "response": {**response, "output": self.output, "usage": usage}}
        if place is not None:
            if place not in self._places:
                return
            data = {**data, "output_index": self._places[place]}
        if "sequence_number" in data:
            data = {**data, "sequence_number": self.sequence}
            self.sequence += 1
        yield data

    def _block_event(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        kind, index = data.get("type"), data.get("index", 0)
        if kind == "message_start":
            self.own_usage = dict((data.get("message") or {}).get("usage") or {})
            if self.number:
                return
        elif kind == "content_block_start":
            self._blocks[index] = {**data["content_block"]}
            if data["content_block"].get("name") != EXPAND:
                self._places[index] = self.shown + len(self._places)
        elif kind == "content_block_delta":
            _add_delta(self._blocks[index], data["delta"])
        elif kind == "content_block_stop" and "_json" in self._blocks[index]:
            self._blocks[index]["input"] = _parsed(self._blocks[index].pop("_json"))
        elif kind in ("message_delta", "message_stop"):
            self.own_usage |= data.get("usage") or {}
            if self.continues:
                self.shown += len(self._places) if kind == "message_stop" else 0
                return
            if kind == "message_delta" and self.usage:
                total = _added(self.usage, data.get("usage") or {})
                data = {**data, "usage": {name: total[name] for name in data.get("usage") or {}}}
            if kind == "message_delta" and self.calls and not any(name != EXPAND for _, name, _ in self.calls):
                data = {**data, "delta": {**data["delta"], "stop_reason": "end_turn"}}
        if "index" in data:
            if index not in self._places:
                return
            data = {**data, "index": self._places[index]}
        yield data


def _add_delta(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    names = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
    kind = str(delta.get("type"))
    if kind in names:
        block[names[kind]] = (block.get(names[kind]) or "") + delta[names[kind]]
    elif kind == "input_json_delta":
        block["_json"] = block.get("_json", "") + delta["partial_json"]


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return {}


def _answer(expand: Expander, arguments: Any) -> str:
    given = _parsed(arguments)
    given = given if isinstance(given, dict) else {}
    lines = given.get("lines")
    return expand(str(given.get("handle") or ""), lines=None if lines is None else str(lines))


def _added(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of the counts of two usages, nested ones included."""
    total = {**before, **after}
    for name in after:
        old, new = before.get(name), after[name]
        if isinstance(old, dict) and isinstance(new, dict):
            total[name] = _added(old, new)
        elif all(isinstance(one, int | float) and not isinstance(one, bool) for one in (old, new)):
            total[name] = old + new
    return total


def following_body(shape: Shape, body: Mapping[str, Any], items: list[Any]) -> dict[str, Any]:
    """The request of the next round; a forced choice of a tool holds for the first round alone."""
    name = ITEMS[shape]
    given = body.get(name)
    before = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
    choice = body.get("tool_choice")
    is_forced = choice in ("required", "any") or (
        isinstance(choice, dict) and choice.get("type") not in ("auto", "none")
    )
    rest = {key: value for key, value in body.items() if not (is_forced and key == "tool_choice")}
    return {**rest, name: [*before, *items]}
