"""Text by speakers, questions with answers, and logs by entry."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from spec_rag.text.structure.outline import Builder

Line = tuple[int, int]

_TIME = r"(?:[\[(]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?:\s?[AaPp][Mm])?[\])]?\s*(?:-->?\s*\S+\s*|[-–]\s*)?)"
_NAME = r"[^\W\d_][\w.'’-]*(?:\s+(?:\([^()\n]{1,30}\)|[^\W_][\w.'’-]*)){0,3}"
SPEAKER = re.compile(
    rf"\s*(?:{_TIME}?(?P<open>[*_]{{0,2}})(?P<name>{_NAME})(?:\s*{_TIME})?[*_]{{0,2}}\s*[:：][*_]{{0,2}}(?=\s|$)"
    rf"|{_TIME}?<(?P<nick>[^<>\s]{{1,30}})>(?=\s)|(?P<turn>{_NAME})\s+{_TIME}$)"
)
QUESTION = re.compile(
    r"\s*[*_#]{0,3}(?:Q(?:uestion)?|F(?:rage)?|P(?:regunta)?)[ \t]*\d{0,3}[.:)][*_]{0,2}\s", re.IGNORECASE
)
ANSWER = re.compile(
    r"\s*[*_]{0,2}(?:A(?:nswer|ntwort)?|R(?:éponse|espuesta)?)[ \t]*\d{0,3}[.:)][*_]{0,2}(?=\s)", re.IGNORECASE
)
LOG_ENTRY = re.compile(
    r"[\[(]?(?:\d{4}[-/.]\d\d[-/.]\d\d[T ]\d\d:\d\d|\w{3}\s+\d{1,2}\s\d\d:\d\d:\d\d\s|\d\d:\d\d:\d\d[.,\s]"
    r"|(?:DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|CRITICAL|TRACE)\b[:\s\]])|\S{7,40} \S+ \S+ \[\d\d/\w{3}/\d{4}"
)
_SENTENCE = re.compile(r"\S+\s+\S+\s+\S+.*")


def speakers(text: str, lines: Sequence[Line]) -> frozenset[str]:
    """The names that speak in a text: labels before a colon that occur more than once, with sentences behind them."""
    count: Counter[str] = Counter()
    spoken = 0
    for line in lines:
        if found := SPEAKER.match(text, line[0], min(line[1], line[0] + 200)):
            name = _name(found)
            count[name] += 1
            spoken += bool(found["nick"] or found["turn"]) or bool(_SENTENCE.match(text[found.end() : line[1]].strip()))
    turns = sum(count.values())
    repeated = {name for name, times in count.items() if times > 1}
    is_dialogue = (
        turns >= 3 and spoken >= 0.5 * turns and len(count) >= 2 and 2 * sum(count[n] for n in repeated) >= turns
    )
    two_turns = turns == len(count) == 2 and spoken == 2
    if not is_dialogue and not two_turns:
        return frozenset()
    return frozenset(count)


def speaker_label(text: str, line: Line, names: frozenset[str]) -> int | None:
    """The end of the label of a turn, or None where the line starts no turn."""
    found = SPEAKER.match(text, line[0], min(line[1], line[0] + 200)) if names else None
    return found.end() if found and _name(found) in names else None


def read_log(builder: Builder, lines: Sequence[Line], i: int) -> int:
    """Read log entries, each with the lines that continue it; the line behind them, or i if there are none."""
    text = builder.text
    starts = [bool(LOG_ENTRY.match(text[slice(*line)])) for line in lines[i : i + 10]]
    if not starts or not starts[0] or sum(starts) < 3:
        return i
    table = builder.add_record(-1)
    needs = builder.lead_needs()
    j = i
    while j < len(lines) and text[slice(*lines[j])].strip():
        end = j + 1
        while end < len(lines) and text[slice(*lines[end])].strip() and not LOG_ENTRY.match(text[slice(*lines[end])]):
            end += 1
        builder.add(lines[j][0], lines[end - 1][1], "row", needs, builder.add_record(table))
        j = end
    return j


def _name(found: re.Match[str]) -> str:
    name = found["name"] or found["nick"] or found["turn"]
    return re.sub(r"\s*\([^()]*\)", "", name).casefold()
