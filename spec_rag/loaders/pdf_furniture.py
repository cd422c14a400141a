"""Lines of a PDF that are not part of its text: running heads and feet, page numbers, and tables of contents.

A line at the top or bottom of a page is a running head or foot if it is repeated there on other pages, if it has a page
number that grows with the pages, or if it stands where most pages have such a line.
Lines with leaders that end with page numbers are a table of contents.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from spec_rag.loaders.pdf_lines import Line, Page

_HEAD_LINES = 3  # lines at the top or bottom of a page that may be running heads
_LEAST_PAGES = 3  # a line that is repeated on fewer pages is part of the text
_HEAD_GAP = 1.6  # in font sizes, from a running head to the text; lines of text are nearer to each other
_LARGEST_HEAD = 1.25  # in font sizes of the text; what is larger is a title
_HEIGHT = 4.0  # points; lines at heights that differ by less are at the same height
_LEAST_ENTRIES = 3  # lines with leaders on a page that has a table of contents
_LEAST_PLAIN_ENTRIES = 2  # lines without leaders below a heading
_GAP_LINES = 3  # lines between two entries that belong to the table of contents
_LONGEST_ENTRY = 300
_LONGEST_NUMBER_LINE = 40
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
_PAGE_NUMBER = re.compile(
    r"[\s\-–—·|.\[\](/]*(?:page|seite|p\.|pg\.)?\s*([0-9]{1,5}|[ivxlcdm]{1,8})\s*(?:(?:/|of|von|de|sur)\s*\d{1,5})?"
    r"[\s\-–—·|.\])]*",
    re.IGNORECASE,
)
# a page number at the edge of a line; "Step 3" has none, so that a number at the end needs a separator before it
_FIRST_NUMBER = re.compile(r"[\[(]?([0-9]{1,5}|[ivxlcdm]{1,8})[\])]?[.|]?[ \t]+(?=\S)", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(?:\t|[-–—|·•/])[ \t]*(?:page )?[\[(]?([0-9]{1,5}|[ivxlcdm]{1,8})[\])]?$", re.IGNORECASE)
_LEADERS = re.compile(r"(?:[.·…_][ \t]?){4,}")
_SHORT_LEADERS = re.compile(r"(?:[.·…] ){2,}")
_CONTENTS = re.compile(
    r"(table of )?contents|list of (figures|tables)|inhalt(sverzeichnis)?|table des matières|sommaire|índice|indice",
    re.IGNORECASE,
)


def without_furniture(pages: Sequence[Page]) -> list[Page]:
    """The pages without running heads and feet, page numbers and tables of contents."""
    dropped = _running_lines(pages)
    left = [
        replace(page, lines=[line for i, line in enumerate(page.lines) if i not in dropped[number]])
        for number, page in enumerate(pages)
    ]
    return [_without_plain_contents(_without_contents(page, len(pages))) for page in left]


def _running_lines(pages: Sequence[Page]) -> dict[int, set[int]]:
    """For each page the indices of lines that are running heads, feet or page numbers."""
    dropped = _watermarks(pages)
    for at_top in (True, False):
        for _ in range(_HEAD_LINES):
            edges = {n: i for n, page in enumerate(pages) if (i := _edge(page, dropped[n], at_top)) is not None}
            edges = {n: i for n, i in edges.items() if _may_be_head(pages[n], i, at_top)}
            found = _repeated(pages, edges) | _numbered(pages, edges)
            found |= _at_their_place(pages, edges, found)
            found = _with_text_left(pages, edges, found, dropped)
            if not found:
                break
            for n in found:
                dropped[n].add(edges[n])
    return dropped


def _watermarks(pages: Sequence[Page]) -> dict[int, set[int]]:
    """For each page the indices of turned lines that are repeated on other pages."""
    places: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for n, page in enumerate(pages):
        upright = sum(line.turns == 0 for line in page.lines)
        for i, line in enumerate(page.lines):
            if line.turns and upright:
                places[line.text].add((n, i))
    dropped: dict[int, set[int]] = defaultdict(set)
    for found in places.values():
        if len({n for n, _ in found}) >= _LEAST_PAGES:
            for n, i in found:
                dropped[n].add(i)
    return dropped


def _with_text_left(
    pages: Sequence[Page], edges: dict[int, int], found: set[int], dropped: dict[int, set[int]]
) -> set[int]:
    """Those of the found pages that have more text than the line at the edge.

    The line of a page without more text goes as well if it is a page number, or where other pages have running heads.
    """

    def height(n: int) -> int:
        return round(pages[n].lines[edges[n]].base / (2 * _HEIGHT))

    solid = {n for n in found if len(pages[n].lines) > len(dropped[n]) + 1}
    heights = Counter(map(height, solid))
    return {
        n
        for n in found
        if n in solid or _page_number(pages[n].lines[edges[n]]) is not None or heights[height(n)] >= _LEAST_PAGES
    }


def _edge(page: Page, dropped: set[int], at_top: bool) -> int | None:
    """The index of the line nearest to the top or bottom of a page."""
    left = [i for i, line in enumerate(page.lines) if i not in dropped and line.turns == 0]
    if not left:
        return None
    if at_top:
        return max(left, key=lambda i: (page.lines[i].base, -page.lines[i].left))
    return min(left, key=lambda i: (page.lines[i].base, page.lines[i].left))


def _repeated(pages: Sequence[Page], edges: dict[int, int]) -> set[int]:
    """Pages whose line at the edge is on at least three pages at the same height, and on a third of those between."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for n, i in edges.items():
        line = pages[n].lines[i]
        for part in _parts(line.text):
            places[part, round(line.base / _HEIGHT)].append(n)
    found: set[int] = set()
    for (text, height), numbers in places.items():
        near = [m for shift in (-1, 0, 1) for m in places.get((text, height + shift), ())]
        # left and right pages may have different heads
        if len(near) >= _LEAST_PAGES and len(near) * 3 >= max(near) - min(near) + 1:
            found.update(numbers)
    return found


def _parts(text: str) -> set[str]:
    """The parts of a line between wide gaps, without the page number at its beginning or end."""
    parts = [" ".join(part.split()) for part in _without_edge_numbers(text).split("\t")]
    return {part for part in parts if part}


def _without_edge_numbers(text: str) -> str:
    first, last = _FIRST_NUMBER.match(text), _LAST_NUMBER.search(text)
    if last and _number(last.group(1)) is not None:
        text = text[: last.start()]
    if first and _number(first.group(1)) is not None:
        text = text[first.end() :]
    return text


def _numbered(pages: Sequence[Page], edges: dict[int, int]) -> set[int]:
    """Pages whose line at the edge has the page's number, which grows by one from page to page."""
    offsets = {n: {number - n for number in _numbers(pages[n].lines[i])} for n, i in edges.items()}
    heights = {n: round(pages[n].lines[i].base / (2 * _HEIGHT)) for n, i in edges.items()}
    counts = Counter((offset, heights[n]) for n, own in offsets.items() for offset in own)
    found = set()
    for n, own in offsets.items():
        is_number = _page_number(pages[n].lines[edges[n]]) is not None
        for offset in own:
            steady = sum(counts[offset, heights[n] + shift] for shift in (-1, 0, 1)) >= min(_LEAST_PAGES, len(pages))
            if (steady and len(pages) > 1) or (is_number and offset == 1):
                found.add(n)
    return found


def _at_their_place(pages: Sequence[Page], edges: dict[int, int], found: set[int]) -> set[int]:
    """Pages whose line at the edge is where most lines at the edge are running heads: those of short sections."""

    def height(n: int) -> int:
        return round(pages[n].lines[edges[n]].base / _HEIGHT)

    running, all_lines = Counter(map(height, found)), Counter(map(height, edges))
    sizes = {height(n): pages[n].lines[edges[n]].size for n in found}
    return {
        n
        for n in edges
        if running[height(n)] >= _LEAST_PAGES
        and 2 * running[height(n)] >= all_lines[height(n)]
        and pages[n].lines[edges[n]].size <= 1.07 * sizes[height(n)]
    }


def _numbers(line: Line) -> Iterator[int]:
    """Numbers of a line that may be the page's number: the whole line, its first or its last word."""
    alone = _page_number(line)
    found = [_FIRST_NUMBER.match(line.text), _LAST_NUMBER.search(line.text)] if alone is None else []
    numbers = [alone, *(_number(match.group(1)) for match in found if match)]
    yield from {number for number in numbers if number is not None}


def _page_number(line: Line) -> int | None:
    """The number of a line that is a page number and nothing more."""
    found = _PAGE_NUMBER.fullmatch(line.text) if len(line.text) < _LONGEST_NUMBER_LINE else None
    return _number(found.group(1)) if found else None


def _number(word: str) -> int | None:
    """The value of an Arabic or Roman numeral."""
    if word.isascii() and word.isdigit() and len(word) <= 5:
        return int(word)
    lower = word.lower()
    if not lower or len(lower) > 8 or any(letter not in _ROMAN for letter in lower):
        return None
    values = [_ROMAN[letter] for letter in lower]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0], strict=True))


def _may_be_head(page: Page, index: int, at_top: bool) -> bool:
    """Whether a line at the edge, or a few lines with it, stand apart from the text and are not larger than it."""
    line = page.lines[index]
    if line.size > _LARGEST_HEAD * median(other.size for other in page.lines):
        return False
    bases = sorted({round(other.base) for other in page.lines if other.turns == line.turns}, reverse=at_top)
    inner = [base for base in bases if (base <= line.base + 1 if at_top else base >= line.base - 1)]
    gaps = [abs(after - before) for before, after in pairwise(inner)][:_HEAD_LINES]
    return not gaps or max(gaps) > _HEAD_GAP * line.size


def _without_contents(page: Page, pages: int) -> Page:
    """The page without its lines of a table of contents."""
    entries = _entries(page.lines)
    numbers = [number for _, number in entries]
    falls = sum(later < earlier for earlier, later in pairwise(numbers))
    if len(entries) < _LEAST_ENTRIES or falls > 1 + len(numbers) // 10 or max(numbers) > 2 * pages + 50:
        return page  # no contents, or a price list or the like
    dropped = {i for i, _ in entries}
    for (before, _), (after, _) in pairwise(entries):
        if after - before - 1 <= _GAP_LINES:
            dropped.update(range(before, after))
    first, last = entries[0][0], entries[-1][0]
    while first > 0 and (_CONTENTS.fullmatch(page.lines[first - 1].text) or _ends_with_page(page.lines[first - 1])):
        first -= 1
        dropped.add(first)
    while last + 1 < len(page.lines) and _ends_with_page(page.lines[last + 1]):
        last += 1
        dropped.add(last)
    return replace(page, lines=[line for i, line in enumerate(page.lines) if i not in dropped])


def _without_plain_contents(page: Page) -> Page:
    """The page without a table of contents that has no leaders, but a heading and lines that end with page numbers."""
    for heading, line in enumerate(page.lines):
        if not _CONTENTS.fullmatch(line.text):
            continue
        numbers: list[int] = []
        last = heading
        for i, entry in enumerate(page.lines[heading + 1 :], heading + 1):
            number = int(entry.text.split()[-1]) if _ends_with_page(entry) else None
            if number is not None and number >= max(numbers, default=0):
                numbers.append(number)
                last = i
            elif number is not None or i - last > 1:  # an entry may take two lines
                break
        if len(numbers) >= _LEAST_PLAIN_ENTRIES:
            return replace(page, lines=[*page.lines[:heading], *page.lines[last + 1 :]])
    return page


def _entries(lines: Sequence[Line]) -> list[tuple[int, int]]:
    """Indices and page numbers of the entries of a table of contents."""
    clear = sum(_entry_number(line.text, _LEADERS) is not None for line in lines)
    leaders = _SHORT_LEADERS if clear >= _LEAST_ENTRIES else _LEADERS
    return [(i, number) for i, line in enumerate(lines) if (number := _entry_number(line.text, leaders)) is not None]


def _entry_number(text: str, leaders: re.Pattern[str]) -> int | None:
    if len(text) > _LONGEST_ENTRY or not (leaders.search(text) or _LEADERS.search(text)):
        return None
    return _number(text.split()[-1].lstrip(".·…_"))


def _ends_with_page(line: Line) -> bool:
    words = line.text.split()
    number = words[-1] if words else ""
    return (
        1 < len(words) < 15
        and number.isascii()
        and number.isdigit()
        and len(number) <= 5
        and (line.is_row or words[0].rstrip(".").isdigit())
    )
