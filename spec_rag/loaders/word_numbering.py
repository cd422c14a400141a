"""The numbers that Word shows before list items and numbered headings; files hold only the rules for them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEVELS = 9
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"))
_ROMAN_ONES = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
_MOST = 10**5  # larger numbers are written in digits


@dataclass
class _Level:
    """A level of a list: its first number, the form of its numbers, and the text around them."""

    start: int = 1
    form: str = "decimal"
    text: str = ""
    style: str | None = None


@dataclass
class _List:
    """A list: its levels, and which lists share its numbers."""

    shared: str
    levels: dict[int, _Level] = field(default_factory=dict)
    restarts: set[int] = field(default_factory=set)


class Numbering:
    """Labels of the paragraphs of a document, which have to be asked for in their order.

    Args:
        document: a document of python-docx.
    """

    def __init__(self, document: Any) -> None:
        self._lists = _lists(document)
        self._styles = _styles(document)
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        self._begun: set[str] = set()

    def label(self, paragraph: Any) -> tuple[str, bool]:
        """The label of a paragraph, "" if it has none, and whether the paragraph is a list item."""
        number, level, from_style = self._number_and_level(paragraph)
        found = self._lists.get(number or "0")
        if found is None or level not in found.levels:
            return "", False
        self._count(number or "", found, level)
        own = found.levels[level]
        is_item = not (from_style and own.form != "bullet" and own.style is not None)
        if own.form == "bullet":
            return "•", is_item
        if own.form == "none":
            return "", is_item
        text = own.text
        for i in range(level + 1):
            if f"%{i + 1}" in text:
                shown = found.levels.get(i, _Level())
                count = self._counts[found.shared].get(i, shown.start)
                text = text.replace(f"%{i + 1}", formatted(count, shown.form))
        return text.strip(), is_item

    def _count(self, number: str, found: _List, level: int) -> None:
        counts = self._counts[found.shared]
        if number not in self._begun:
            self._begun.add(number)
            for restarted in found.restarts:
                counts.pop(restarted, None)
        counts[level] = counts.get(level, found.levels[level].start - 1) + 1
        for deeper in [i for i in counts if i > level]:
            del counts[deeper]

    def _number_and_level(self, paragraph: Any) -> tuple[str | None, int, bool]:
        """The list and level of a paragraph, which it has itself or by its style."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return None, 0, False
        own = _rule(properties)
        style = _value(properties, "pStyle")
        number, level = self._styles.get(style or "", (None, None))
        from_style = own[0] is None
        number = own[0] if own[0] is not None else number
        level = own[1] if own[1] is not None else level
        if level is None and number in self._lists:
            by_style = (i for i, one in self._lists[number].levels.items() if style and one.style == style)
            level = next(by_style, 0)
        return number, level or 0, from_style


def formatted(number: int, form: str) -> str:
    """A number in one of Word's forms; forms of other scripts are written in digits."""
    if form in ("lowerLetter", "upperLetter") and 0 < number <= _MOST:
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        letters = letters[:_LEVELS]
        return letters.upper() if form == "upperLetter" else letters
    if form in ("lowerRoman", "upperRoman") and 0 < number <= _MOST // 10:
        roman, left = "", number
        for value, sign in _ROMAN:
            roman += sign * (left // value)
            left %= value
        roman += _ROMAN_ONES[left]
        return roman.upper() if form == "upperRoman" else roman
    return f"{number:02d}" if form == "decimalZero" else str(number)


def _lists(document: Any) -> dict[str, _List]:
    """Lists by the number that paragraphs refer to."""
    root = _part(document, "numbering")
    if root is None:
        return {}
    abstract = {one.get(f"{_W}abstractNumId"): _levels(one) for one in root.iter(f"{_W}abstractNum")}
    found = {}
    for number in root.iter(f"{_W}num"):
        shared = _value(number, "abstractNumId") or ""
        levels = dict(abstract.get(shared, {}))
        restarts = set()
        for override in number.iter(f"{_W}lvlOverride"):
            level = _integer(override.get(f"{_W}ilvl"), 0)
            levels.update({i: one for i, one in _levels(override).items() if i == level})
            start = _value(override, "startOverride")
            if start is not None:
                old = levels.get(level, _Level())
                levels[level] = _Level(_integer(start, 1), old.form, old.text, old.style)
                restarts.add(level)
        found[number.get(f"{_W}numId")] = _List(shared, levels, restarts)
    return found


def _levels(parent: Any) -> dict[int, _Level]:
    return {
        _integer(level.get(f"{_W}ilvl"), 0): _Level(
            _integer(_value(level, "start"), 1),
            _value(level, "numFmt") or "decimal",
            _value(level, "lvlText") or "",
            _value(level, "pStyle"),
        )
        for level in parent.iter(f"{_W}lvl")
    }


def _styles(document: Any) -> dict[str, tuple[str | None, int | None]]:
    """List and level of each paragraph style; styles take them from those they are based on."""
    root = document.styles.element
    own, bases = {}, {}
    for style in root.iter(f"{_W}style"):
        identity = style.get(f"{_W}styleId")
        properties = style.find(f"{_W}pPr")
        own[identity] = (None, None) if properties is None else _rule(properties)
        bases[identity] = _value(style, "basedOn")
    found = {}
    for identity in own:
        number, level = own[identity]
        base, seen = bases[identity], {identity}
        while base in own and base not in seen:
            seen.add(base)
            number = own[base][0] if number is None else number
            level = own[base][1] if level is None else level
            base = bases[base]
        found[identity] = (number, level)
    return found


def _part(document: Any, kind: str) -> Any | None:
    for relation in document.part.rels.values():
        if not relation.is_external and relation.reltype.endswith(f"/{kind}"):
            return relation.target_part.element
    return None


def _rule(properties: Any) -> tuple[str | None, int | None]:
    """The list and level that paragraph properties state."""
    rule = properties.find(f"{_W}numPr")
    if rule is None:
        return None, None
    level = _value(rule, "ilvl")
    return _value(rule, "numId"), None if level is None else _integer(level, 0)


def _value(parent: Any, name: str) -> str | None:
    element = parent.find(f"{_W}{name}")
    return None if element is None else element.get(f"{_W}val")


def _integer(text: str | None, default: int) -> int:
    try:
        return min(max(int(text or ""), 0), _MOST)
    except ValueError:
        return default
