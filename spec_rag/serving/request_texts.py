"""Texts of a request that may be shortened, in the three shapes of API: chat completions, responses, messages.

`chat` is OpenAI's /v1/chat/completions, `responses` its /v1/responses, `messages` Anthropic's /v1/messages. Requests
are never changed; `replaced` returns a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["chat", "responses", "messages"]
Path = tuple[str | int, ...]
ITEMS: Mapping[Shape, str] = {"chat": "messages", "responses": "input", "messages": "messages"}
_RESULTS = ("tool", "function")
_OUTPUTS = "_output"  # end of the types of items that hold a tool's result in /v1/responses
_TEXTS = ("text", "input_text", "output_text", None)


@dataclass(frozen=True)
class GivenText:
    """A tool result, or a text that is marked with `compress`.

    Attributes:
        path: its place in the body.
        text: what is there.
        place: index of its turn.
        tool, arguments: of the call that returned it, where they are known.
        is_marked: whether `compress` is true; such a text has no minimum length.
    """

    path: Path
    text: str
    place: int
    tool: str | None = None
    arguments: Any = None
    is_marked: bool = False


@dataclass
class RequestTexts:
    """What one request asks and what its tools returned.

    Attributes:
        body: the request's.
        shape: of the API.
        turns: role and text of each message; "" where the text is itself to be shortened.
        texts: what may be shortened.
        marks: places of the field `compress`, which is not forwarded.
        skipped: content that is never shortened, counted by its type.
    """

    body: Mapping[str, Any]
    shape: Shape
    turns: list[tuple[str, str]] = field(default_factory=list)
    texts: list[GivenText] = field(default_factory=list)
    marks: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, shape: Shape, body: Mapping[str, Any]) -> RequestTexts:
        """Read a request; what has another form than the API's is skipped."""
        found = cls(body, shape)
        name = ITEMS[shape]
        items = body.get(name)
        if isinstance(items, str):
            found.turns.append(("user", items))
        items = items if isinstance(items, list) else []
        calls = dict(_calls(items))
        for place, item in enumerate(items):
            if not isinstance(item, Mapping):
                found.turns.append(("", ""))
            elif shape == "responses":
                found._read_item(item, (name, place), place, calls)
            else:
                found._read_message(item, (name, place), place, calls)
        return found

    def _read_message(self, message: Mapping[str, Any], path: Path, place: int, calls: Mapping[str, Any]) -> None:
        role = str(message.get("role") or "")
        mark = self._mark(message, path)
        content = message.get("content")
        is_result = role in _RESULTS
        tool, arguments = calls.get(str(message.get("tool_call_id")), (None, None))
        call = (str(message.get("name") or tool or "") or None, arguments)
        asked = []
        for part, own in _parts(content, (*path, "content")):
            is_block = isinstance(part, Mapping)
            if is_block and part.get("type") == "tool_result":
                self._read_result(part, own, place, calls)
                continue
            text, marked = self._text_of(part, own, mark)
            wanted = marked is True or (marked is None and is_result)
            if text is None:
                if is_result:
                    self.skipped[_type_of(part)] += 1
            elif wanted:
                where = (*own, "text") if is_block else own
                self.texts.append(GivenText(where, text, place, *call, is_marked=marked is True))
            if text is not None and marked is not True and mark is not True:
                asked.append(text)
        self.turns.append((role, "\n".join(text for text in asked if text.strip())))

    def _read_result(self, block: Mapping[str, Any], path: Path, place: int, calls: Mapping[str, Any]) -> None:
        """A block of type `tool_result` in /v1/messages."""
        mark = self._mark(block, path)
        call = calls.get(str(block.get("tool_use_id")), (None, None))
        if block.get("is_error") is True:
            self.skipped["error"] += 1
            return
        self._read_output(block.get("content"), (*path, "content"), place, call, mark)

    def _read_item(self, item: Mapping[str, Any], path: Path, place: int, calls: Mapping[str, Any]) -> None:
        """An item of the input of /v1/responses."""
        kind = str(item.get("type") or "message")
        if kind == "message":
            self._read_message(item, path, place, calls)
            return
        self.turns.append((kind, ""))
        if kind.endswith(_OUTPUTS):
            call = calls.get(str(item.get("call_id")), (None, None))
            self._read_output(item.get("output"), (*path, "output"), place, call, self._mark(item, path))
        elif "output" in item or "result" in item:
            self.skipped[kind] += 1

    def _read_output(self, content: Any, path: Path, place: int, call: Sequence[Any], mark: bool | None) -> None:
        for part, own in _parts(content, path):
            text, marked = self._text_of(part, own, mark)
            if text is None:
                self.skipped[_type_of(part)] += 1
            elif marked is not False:
                where = (*own, "text") if isinstance(part, Mapping) else own
                self.texts.append(GivenText(where, text, place, call[0], call[1], marked is True))

    def _text_of(self, part: Any, path: Path, mark: bool | None) -> tuple[str | None, bool | None]:
        """The text of a part, or None; and its mark, or that of its message."""
        if isinstance(part, str):
            return part, mark
        if not isinstance(part, Mapping):
            return None, mark
        own = self._mark(part, path)
        text = part.get("text") if part.get("type") in _TEXTS else None
        return (text if isinstance(text, str) else None), mark if own is None else own

    def _mark(self, holder: Mapping[str, Any], path: Path) -> bool | None:
        if "compress" not in holder:
            return None
        self.marks.append((*path, "compress"))
        mark = holder["compress"]
        return mark if isinstance(mark, bool) else None


def _calls(items: Sequence[Any]) -> Iterator[tuple[str, tuple[str | None, Any]]]:
    """Name and arguments of each call, by its id."""
    for item in items:
        if not isinstance(item, Mapping):
            continue
        blocks = item.get("content") if isinstance(item.get("content"), list) else []
        given = item.get("tool_calls") if isinstance(item.get("tool_calls"), list) else []
        for call in [item, *given, *blocks]:  # type: ignore[misc]
            if not isinstance(call, Mapping):
                continue
            function = call.get("function") if isinstance(call.get("function"), Mapping) else call
            name = function.get("name")  # type: ignore[union-attr]
            arguments = function.get("arguments", function.get("input"))  # type: ignore[union-attr]
            identity = call.get("call_id") or call.get("id")
            if isinstance(identity, str) and (isinstance(name, str) or "action" in call):
                yield identity, (name if isinstance(name, str) else None, arguments or call.get("action"))


def _parts(content: Any, path: Path) -> list[tuple[Any, Path]]:
    if isinstance(content, list):
        return [(part, (*path, i)) for i, part in enumerate(content)]
    return [] if content is None else [(content, path)]


def _type_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind if isinstance(kind, str) and kind.isascii() and kind.isidentifier() else "other"


def replaced(value: Any, changes: Mapping[Path, Any]) -> Any:
    """A copy of nested dicts and lists with other values at some places; None removes a field.

    Args:
        value: dicts and lists.
        changes: new values by their paths, which exist.
    """
    if not changes:
        return value
    if () in changes:
        return changes[()]
    below: dict[str | int, dict[Path, Any]] = {}
    for path, new in changes.items():
        below.setdefault(path[0], {})[path[1:]] = new
    if isinstance(value, list):
        return [replaced(one, below.get(i, {})) for i, one in enumerate(value)]
    return {
        name: replaced(one, below.get(name, {}))
        for name, one in value.items()
        if below.get(name, {}).get((), "") is not None
    }
