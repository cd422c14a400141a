"""JSON texts in which some values are replaced and everything else keeps its spelling.

Numbers such as 1e999 or 1.10, escapes, white space and the order of members are what the client wrote.
"""

from __future__ import annotations

import json
import re
from typing import Any

from spec_rag.serving.api_errors import ApiError

MAX_DEPTH = 128
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def json_depth(data: bytes) -> int:
    """How deeply the arrays and objects of a JSON text are nested; linear in its length."""
    brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKET)
    depth = deepest = 0
    for bracket in brackets:
        depth += _STEP[bracket]
        deepest = max(deepest, depth)
    return deepest


def check_depth(data: bytes) -> None:
    """Refuse a JSON text that is nested too deeply.

    Raises:
        ApiError: status 400; it has more than MAX_DEPTH levels.
    """
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and json_depth(data) > MAX_DEPTH:
        raise ApiError(
            400, f"The body is nested more than {MAX_DEPTH} levels deep: send a flatter one.", code="nested_too_deeply"
        )


def read_json(data: bytes) -> tuple[str, Any]:
    """The text of a JSON body and its value.

    Raises:
        ApiError: status 400; it is not JSON, or nested too deeply.
    """
    check_depth(data)
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
        return text, json.loads(text, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is not JSON.", code="invalid_json") from error


def with_changes(text: str, before: Any, after: Any) -> str:
    """The JSON text with the value `after`, spelled as it is wherever `after` equals `before`.

    Args:
        text: a JSON text.
        before: its value, as `read_json` gives it.
        after: the value that it is to have.
    """
    return _Editor(text).value(_space(text, 0), before, after)[0]


class _Editor:
    """Walks through a JSON text together with its value and the value that it is to have."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder(parse_int=str, parse_float=str)

    def value(self, start: int, before: Any, after: Any) -> tuple[str, int]:
        """The new spelling of the value that starts at a place, and where its old spelling ends."""
        if isinstance(before, dict) and isinstance(after, dict) and before != after:
            return self._object(start, before, after)
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after) and before != after:
            return self._array(start, before, after)
        end = self._end(start)
        spelled = self._text[start:end] if before == after else json.dumps(after, ensure_ascii=False)
        return spelled, end

    def _array(self, start: int, before: list[Any], after: list[Any]) -> tuple[str, int]:
        items, place = [], start  # at the bracket or comma before the next item
        for old, new in zip(before, after, strict=True):
            item, place = self.value(_space(self._text, place + 1), old, new)
            items.append(item)
            place = _space(self._text, place)
        return f"[{', '.join(items)}]", place + 1

    def _object(self, start: int, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, int]:
        places: dict[str, tuple[str, int]] = {}  # of several members with one name the last one counts
        place = _space(self._text, start + 1)
        while self._text[place] != "}":
            begin = _space(self._text, place + (self._text[place] == ","))
            name, place = self._decoder.raw_decode(self._text, begin)
            key = self._text[begin:place]
            value = _space(self._text, _space(self._text, place) + 1)
            places[name] = (key, value)
            place = _space(self._text, self._end(value))
        members = [
            f"{key}: {self.value(value, before[name], after[name])[0]}"
            for name, (key, value) in places.items()
            if name in after
        ]
        added = {name: value for name, value in after.items() if name not in before}
        members += [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in added.items()]
        return "{" + ", ".join(members) + "}", place + 1

    def _end(self, start: int) -> int:
        return self._decoder.raw_decode(self._text, start)[1]


def _space(text: str, start: int) -> int:
    """Where the white space that starts at a place ends."""
    found = _SPACE.match(text, start)
    assert found is not None
    return found.end()


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
