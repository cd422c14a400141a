"""Reading of the structure of a text: its format is found by content, line by line in linear time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from spec_rag.text.languages import detect_language
from spec_rag.text.structure.dialogue import ANSWER, QUESTION, read_log, speaker_label, speakers
from spec_rag.text.structure.html_blocks import is_html, read_html
from spec_rag.text.structure.json_members import read_json
from spec_rag.text.structure.outline import Builder, Structure
from spec_rag.text.structure.records import COMMENT_LINE, ITEM_LINE, KEY_LINE, SECTION_LINE, read_records
from spec_rag.text.structure.source_code import CODE_LINE, STRONG_CODE_LINE, read_code
from spec_rag.text.structure.tables import aligned_table, delimited_table, grid_table, markdown_table

Line = tuple[int, int]

_FENCE = re.compile(r"\s*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)")
_ATX = re.compile(r"[ ]{0,3}(?P<level>#{1,6})[ \t]+\S")
_UNDERLINE = re.compile(r"(?P<mark>[=\-~^\"'*+#.])(?P=mark){2,}\s*$")
_NUMBERED = re.compile(
    r"(?:\d{1,3}(?:\.\d{1,3}){1,4}\.?|(?:Article|Section|Chapter|Part|Appendix|Annex|Artikel|Kapitel|Abschnitt)\s+[\w.]+"
    r"|§+\s*\d+\w*|[IVX]{1,5}\.)[:.]?(?:\s+[^\n]{1,80})?$"
)
_BOLD_LINE = re.compile(r"(\*\*|__)[^*_\n]{2,100}\1:?$")
_ITEM = re.compile(r"(?P<indent>\s*)(?P<bullet>[-*+•‣◦–]|\(?(?:\d{1,3}|[a-z]|[ivx]{1,5})[.)])\s+(?=\S)")
_DATA_LANGUAGES = frozenset(("yaml", "yml", "toml", "ini", "cfg", "conf", "properties", "env", "dotenv"))
_WORD = re.compile(r"[^\W\d_]{2,}")
# a line that stands alone in a paragraph
_LONE_LINE = re.compile(
    r"\ {4}\s*\S|\ *\t\s*\S|[^\n]*[;{}]\s*$|[^\n\t]*\t[^\n\t]*\t"
    r"|\ *(?:def|class|function|func|fn)\ [^\n]*[:({]\s*$|\ *(?:import|from)\ [\w.]+(?:\ import\ [^\n]*)?\s*$"
    r"|\ *(?:return|yield|raise|elif|else|try|except|finally|while|with)\b[^\n.!?]*$"
    r"|\ {2,}[\w.]+(?:\(|\ [-+*/]?=\ )"
    r"|\s*(?:\||[-*+•]\s|\d+[.)]\s|\#{1,6}\s)",
    re.VERBOSE,
)
# a line of data, if the line before or behind it is one as well: "key": value, key = value, a,b,c
_FIELD = re.compile(r"""\s*(["'][^"']{1,80}["']\s*[:,]|\w[\w ./-]{0,40}[:=]\s*\S|[^,\s][^,]*(,\S[^,]*){2,}$)""")
_SENTENCE_END_INSIDE = re.compile(r"[.!?]\s+\S")
_MAX_ITEM_CHARS = 250  # a longer list item is split into sentences
_FENCE_LEVEL = 7  # of the headings that are questions or bold lines


@lru_cache(maxsize=64)
def read_structure(text: str, language: str = "en") -> Structure:
    """The units of a text with their kinds and needs.

    Args:
        text: any text.
        language: ISO 639 code, for the splitting of sentences; unknown codes are treated as English. "auto" detects it.
    """
    builder = Builder(text, detect_language(text) if language == "auto" else language)
    lines = _lines(text)
    if not (text.lstrip()[:1] in ("{", "[") and read_json(builder, 0, len(text))):
        if is_html(text):
            read_html(builder)
        elif _is_code(text, lines):
            read_code(builder, lines)
        elif _is_records(text, lines):
            read_records(builder, lines)
        else:
            _Reader(builder, lines).read()
    return builder.build()


def _lines(text: str) -> list[Line]:
    """Spans of the lines without their line breaks."""
    found, position = [], 0
    for line in text.splitlines(keepends=True):
        found.append((position, position + len(line.rstrip("\r\n"))))
        position += len(line)
    return found


def _is_records(text: str, lines: Sequence[Line]) -> bool:
    """Whether nearly all lines are keys with values, list items, sections or comments, and some are nested."""
    keys = nested = other = items = sentences = 0
    for line in lines:
        piece = text[slice(*line)]
        if _FENCE.match(piece):
            return False
        if not piece.strip() or COMMENT_LINE.match(piece) or piece.strip() in ("---", "..."):
            continue
        if SECTION_LINE.match(piece):
            nested += 1
        elif found := KEY_LINE.match(piece):
            keys += 1
            nested += bool(found["item"]) or (not found["value"] and found["sign"] == ":") or found["sign"] == "="
            nested += len(found["indent"]) > 0
            sentences += _SENTENCE_END_INSIDE.search(found["value"]) is not None
        elif ITEM_LINE.match(piece):
            items += 1
        elif piece[:1] in " \t]})":
            other += 0.2  # type: ignore[assignment]
        else:
            other += 1
    return (
        keys >= 2
        and other <= 0.1 * (keys + items + nested)
        and items <= 3 * keys
        and sentences <= 0.2 * keys
        and (nested > 0 or _flat_records(text, lines))
    )


def _flat_records(text: str, lines: Sequence[Line]) -> bool:
    """Whether blocks of keys separated by blank lines begin with the same key."""
    firsts, fresh = [], True
    for line in lines:
        piece = text[slice(*line)]
        if fresh and (found := KEY_LINE.match(piece)):
            firsts.append(found["key"])
        fresh = not piece.strip() or piece.strip() == "---"
    return len(firsts) > 1 and firsts.count(firsts[0]) > 1


def _is_code(text: str, lines: Sequence[Line]) -> bool:
    """Whether the text is a source file: many lines are statements, and none is a fence."""
    code = strong = other = 0
    for line in lines:
        piece = text[slice(*line)]
        if not piece.strip():
            continue
        if _FENCE.match(piece):
            return False
        strong += STRONG_CODE_LINE.match(piece) is not None
        code += CODE_LINE.match(piece) is not None
        other += 1
    return strong >= 2 and code >= 0.5 * other and strong >= 0.15 * other


class _Reader:
    """Reads Markdown, reStructuredText and plain text."""

    def __init__(self, builder: Builder, lines: Sequence[Line]) -> None:
        self._builder, self._lines = builder, lines
        self._text = builder.text
        self._names = speakers(builder.text, lines)
        self._items: list[tuple[int, int]] = []  # indentation and first unit of the open list items
        self._list_needs: list[int] = []
        self._speaker: list[int] = []
        self._question: list[int] = []
        self._styles: list[str] = []  # underlines of headings, in the order of their levels
        self._questions = sum(self._is_question_line(i) for i in range(len(lines)))

    def read(self) -> None:
        """Add all units."""
        i = self._front_matter()
        paragraph: list[int] = []
        while i < len(self._lines):
            line = self._line(i)
            if not line.strip():
                self._end_paragraph(paragraph)
                i += 1
                continue
            end = self._block(i, line, paragraph)
            if end == i:
                paragraph.append(i)
                i += 1
            else:
                i = end
        self._end_paragraph(paragraph)

    def _line(self, i: int) -> str:
        return self._text[slice(*self._lines[i])] if 0 <= i < len(self._lines) else ""

    def _needs(self) -> list[int]:
        return self._speaker or self._question or self._builder.context

    def _block(self, i: int, line: str, paragraph: list[int]) -> int:
        """Read the structure that starts at line i; the line behind it, or i if the line belongs to a paragraph."""
        for read in (self._fence, self._heading, self._table, self._turn, self._list, self._data, self._code):
            if (end := read(i, line, paragraph)) > i:
                return end
        if _LONE_LINE.match(line):
            self._end_paragraph(paragraph)
            self._builder.add(*self._lines[i], "text", self._needs())
            return i + 1
        return i

    def _end_paragraph(self, paragraph: list[int]) -> None:
        """Add the lines of the paragraph that was read so far, and empty it."""
        if not paragraph:
            return
        start, end = self._lines[paragraph[0]][0], self._lines[paragraph[-1]][1]
        paragraph.clear()
        first = self._text[start:end]
        indent = len(first) - len(first.lstrip())
        while self._items and self._items[-1][0] >= indent:
            self._items.pop()
        if self._items and indent > 0:
            self._builder.add_sentences(start, end, [self._items[-1][1]])
            return
        self._items = []
        quoted = first.lstrip().startswith(">")
        self._builder.add_sentences(
            start, end, self._builder.lead_needs() if quoted and not self._speaker else self._needs()
        )

    def _front_matter(self) -> int:
        if not self._lines or self._line(0).strip() != "---":
            return 0
        for j in range(1, min(len(self._lines), 100)):
            if self._line(j).strip() in ("---", "..."):
                if not all(KEY_LINE.match(self._line(k)) or self._line(k)[:1] in " -#\t" for k in range(1, j)):
                    return 0
                read_records(self._builder, self._lines[: j + 1])
                return j + 1
        return 0

    def _fence(self, i: int, line: str, paragraph: list[int]) -> int:
        found = _FENCE.match(line)
        if not found or "`" in line[found.end("mark") :]:
            return i
        self._end_paragraph(paragraph)
        end = i + 1
        while end < len(self._lines):
            closing = self._line(end).strip()
            if closing.startswith(found["mark"]) and not closing.strip(found["mark"][0]):
                break
            end += 1
        lead = [] if self._speaker else self._builder.context
        opening = self._builder.add(*self._lines[i], "fence", lead)
        first, inner = len(self._builder), self._lines[i + 1 : end]
        self._content(inner, found["language"].casefold(), list(opening))
        behind = len(self._builder)
        if end < len(self._lines):
            closing_fence = self._builder.add(*self._lines[end], "fence", opening)
            for unit in range(first, behind):
                self._builder.needs[unit] += [*opening, *closing_fence]
        return end + 1

    def _content(self, lines: Sequence[Line], language: str, needs: list[int]) -> None:
        if not lines:
            return
        start, stop = lines[0][0], lines[-1][1]
        is_json = self._builder.is_json
        if self._text[start:stop].lstrip()[:1] in ("{", "[") and read_json(self._builder, start, stop, needs):
            self._builder.is_json = is_json
        elif language in _DATA_LANGUAGES or (not language and _is_records(self._text, lines)):
            read_records(self._builder, lines, needs)
        elif language in ("csv", "tsv") and delimited_table(self._builder, lines, 0) == len(lines):
            pass
        else:
            read_code(self._builder, lines, needs)

    def _heading(self, i: int, line: str, paragraph: list[int]) -> int:
        atx = _ATX.match(line)
        if atx:
            self._end_paragraph(paragraph)
            self._add_heading(i, i, len(atx["level"]))
            return i + 1
        below = self._line(i + 1)
        overline = _UNDERLINE.match(line)
        if overline and self._line(i + 2).strip() == line.strip() and below.strip() and not paragraph:
            self._add_heading(i, i + 2, self._level(overline["mark"] + "overline"))
            return i + 3
        underline = _UNDERLINE.match(below)
        title = line.strip()
        if underline and not paragraph and any(map(str.isalnum, title)) and len(title) <= 120 and not _ITEM.match(line):
            length = len(below.strip())
            if length >= 0.6 * len(title) and "|" not in line:
                self._add_heading(i, i + 1, self._level(underline["mark"]))
                return i + 2
        if paragraph or (i > 0 and self._line(i - 1).strip()) or line[:1] in " \t" or len(title) > 100:
            return i
        alone = not below.strip() and i + 1 < len(self._lines)
        if alone and self._is_question_line(i) and self._questions > 1:
            self._add_heading(i, i, _FENCE_LEVEL)
            return i + 1
        capital = title.isupper() and len(_WORD.findall(title)) >= 1 and title[-1] not in ".!?,;"
        named = _NUMBERED.match(title) and title[-1] not in ",;"
        if alone and (_BOLD_LINE.match(title) or capital or named or self._is_title(i, title)):
            self._add_heading(i, i, 6)
            return i + 1
        if _BOLD_LINE.match(title) and below.strip():
            self._add_heading(i, i, 6)
            return i + 1
        return i

    def _is_title(self, i: int, title: str) -> bool:
        """Whether a lone short line in title position stands above a longer paragraph."""
        if title[-1] in ".!?:;,…\"'”)" or not title[0].isupper() or len(title) > 60 or len(title.split()) > 8:
            return False
        j = i + 1
        while j < min(i + 4, len(self._lines)) and not self._line(j).strip():
            j += 1
        return (len(self._line(j)) > 1.5 * len(title) and self._line(j).rstrip()[-1:] in ".!?:,;") or len(
            self._line(j)
        ) > 90

    def _is_question_line(self, i: int) -> bool:
        title = self._line(i).strip().strip("*_ ")
        return (
            title.endswith("?")
            and len(title) <= 150
            and not self._line(i - 1).strip()
            and not self._line(i).startswith((" ", "#", ">"))
        )

    def _level(self, style: str) -> int:
        if style not in self._styles:
            self._styles.append(style)
        return min(self._styles.index(style) + 1, 6)

    def _add_heading(self, first: int, last: int, level: int) -> None:
        self._items, self._speaker, self._question = [], [], []
        self._builder.add_heading(self._lines[first][0], self._lines[last][1], level)

    def _table(self, i: int, line: str, paragraph: list[int]) -> int:
        readers = [markdown_table] if "|" in line else []
        if not paragraph:
            readers += [grid_table, delimited_table, aligned_table, read_log]
        for read in readers:
            size = len(paragraph)
            if size:  # only a table with a rule may follow a line of text
                below = self._line(i + 1)
                if not ("|" in below and set(below.strip()) <= set("|-: ")) and not line.lstrip().startswith("|"):
                    continue
                self._end_paragraph(paragraph)
            if (end := read(self._builder, self._lines, i)) > i:
                return end
        return i

    def _turn(self, i: int, line: str, paragraph: list[int]) -> int:
        start = self._lines[i][0]
        if QUESTION.match(line):
            self._end_paragraph(paragraph)
            j = i + 1
            while j < len(self._lines) and self._line(j).strip() and not ANSWER.match(self._line(j)):
                j += 1
            self._speaker = []
            self._question = list(self._builder.add(start, self._lines[j - 1][1], "question", self._builder.context))
            return j
        answer = ANSWER.match(line) if self._question else None
        label = start + answer.end() if answer else speaker_label(self._text, self._lines[i], self._names)
        if label is None:
            return i
        self._end_paragraph(paragraph)
        self._items = []
        needs = self._question if answer else self._builder.context
        turn = self._builder.add_record(-1, self._text[start:label])
        self._speaker = list(self._builder.add(start, label, "speaker", needs, turn))
        j = i + 1
        while j < len(self._lines) and self._continues_turn(j):
            j += 1
        self._builder.add_sentences(label, self._lines[j - 1][1], self._speaker, record=turn)
        return j

    def _continues_turn(self, j: int) -> bool:
        line = self._line(j)
        return bool(line.strip()) and not (
            _FENCE.match(line)
            or _ATX.match(line)
            or _ITEM.match(line)
            or QUESTION.match(line)
            or (self._question and ANSWER.match(line))
            or speaker_label(self._text, self._lines[j], self._names) is not None
        )

    def _list(self, i: int, line: str, paragraph: list[int]) -> int:
        found = _ITEM.match(line)
        if not found:
            return i
        bullet = found["bullet"]
        if bullet[-1:].isalpha() or (paragraph and not (bullet in "-*+•" or bullet[0].isdigit())):
            return i
        if bullet in "–" and not self._items:
            return i
        indent = len(found["indent"].replace("\t", "    "))
        self._end_paragraph_inside(paragraph)
        continues = bool(self._items)
        while self._items and self._items[-1][0] >= indent:
            self._items.pop()
        end = i + 1
        while end < len(self._lines) and self._continues_item(end, indent, i):
            end += 1
        if self._items:
            needs = [self._items[-1][1]]
        elif continues:
            needs = self._list_needs
        else:
            needs = self._list_needs = self._speaker or self._builder.lead_needs() or self._question
        start, stop = self._lines[i][0], self._lines[end - 1][1]
        if stop - start <= _MAX_ITEM_CHARS:
            units = self._builder.add(start, stop, "text", needs)
        else:
            units = self._builder.add_sentences(start, stop, needs)
            for unit in units[1:]:
                self._builder.needs[unit] = [units[0]]
        if units:
            self._items.append((indent, units[0]))
        return end

    def _end_paragraph_inside(self, paragraph: list[int]) -> None:
        items = list(self._items)
        self._end_paragraph(paragraph)
        self._items = self._items or (items if not paragraph and items and self._continued(items) else [])

    def _continued(self, items: list[tuple[int, int]]) -> bool:
        """Whether the last unit belongs to the open items."""
        return bool(self._builder.spans) and items[-1][1] == len(self._builder) - 1

    def _continues_item(self, j: int, indent: int, first: int) -> bool:
        line = self._line(j)
        stripped = line.lstrip()
        if not stripped or _ITEM.match(line) or _FENCE.match(line) or _ATX.match(line) or stripped.startswith("|"):
            return False
        if QUESTION.match(line) or ANSWER.match(line):
            return False
        own = len(line) - len(stripped)
        is_wrapped = self._lines[j - 1][1] - self._lines[j - 1][0] >= 50 and stripped[0].islower()
        return own > indent or is_wrapped

    def _data(self, i: int, line: str, paragraph: list[int]) -> int:
        """Read a run of at least two lines of data."""
        if not self._is_field(i):
            return i
        end = i + 1
        while end < len(self._lines) and (
            self._is_field(end) or (ITEM_LINE.match(self._line(end)) and KEY_LINE.match(self._line(i)))
        ):
            end += 1
        if end - i < 2:
            return i
        self._end_paragraph(paragraph)
        run = self._lines[i:end]
        if all(KEY_LINE.match(self._line(k)) or ITEM_LINE.match(self._line(k)) for k in range(i, end)):
            read_records(self._builder, run, self._builder.lead_needs())
        else:
            for line_span in run:
                self._builder.add(*line_span, "text", self._needs())
        return end

    def _is_field(self, i: int) -> bool:
        line = self._line(i).rstrip()
        return bool(
            _FIELD.match(line) or (line.endswith(":") and KEY_LINE.match(line) and len(line) < 60)
        ) and not _SENTENCE_END_INSIDE.search(line)

    def _code(self, i: int, line: str, paragraph: list[int]) -> int:
        """Read a run of lines of code without fences, or an indented paragraph."""
        if line[:4] == "    " or line[:1] == "\t" or _LONE_LINE.match(line):
            end = i
            while (
                end < len(self._lines)
                and self._line(end).strip()
                and (
                    self._line(end)[:2] in ("  ", "\t")
                    or self._line(end)[:1] == "\t"
                    or CODE_LINE.match(self._line(end))
                )
            ):
                end += 1
            if end - i >= 2:
                block = [self._line(k) for k in range(i, end)]
                if _is_prose(block):
                    self._end_paragraph(paragraph)
                    self._builder.add_sentences(self._lines[i][0], self._lines[end - 1][1], self._item_or_needs(line))
                    return end
                if sum(bool(CODE_LINE.match(one)) for one in block) >= 0.5 * len(block):
                    self._end_paragraph(paragraph)
                    read_code(self._builder, self._lines[i:end], self._builder.lead_needs())
                    return end
        return i

    def _item_or_needs(self, line: str) -> list[int]:
        indent = len(line) - len(line.lstrip())
        inside = [unit for place, unit in self._items if place < indent]
        return inside[-1:] or self._needs()


def _is_prose(lines: Sequence[str]) -> bool:
    """Whether indented lines are a paragraph: several words per line and little punctuation of code."""
    words = sum(len(_WORD.findall(line)) for line in lines)
    letters = sum(character.isalpha() or character in " ,.'’-" for line in lines for character in line)
    characters = sum(map(len, lines))
    is_code = sum(STRONG_CODE_LINE.match(line) is not None for line in lines)
    return words >= 4 * len(lines) and letters >= 0.9 * characters and is_code <= 0.1 * len(lines)
