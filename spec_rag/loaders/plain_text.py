"""Text files: decoding, and the titles of Markdown and reStructuredText.

The text is the content of the file, unchanged except for line ends and a byte order mark.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.source import Content, SourceFile

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(\S.*)$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_ADORNMENTS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
# control characters that no text has; terminal logs have escapes, bells and backspaces
_BINARY = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f]")


def read_text(source: SourceFile) -> Content:
    """Text without a title."""
    return Content(decoded(source.path, source.data, source.encoding))


def read_markdown(source: SourceFile) -> Content:
    """Text with its first heading as the title."""
    text = decoded(source.path, source.data, source.encoding)
    return Content(text, first_heading(text))


def read_restructured_text(source: SourceFile) -> Content:
    """Text with its first section title as the title."""
    text = decoded(source.path, source.data, source.encoding)
    return Content(text, _first_section(text))


def read_unknown(source: SourceFile) -> Content:
    """Text of a file whose suffix says nothing.

    Raises:
        UnreadableFileError: it is not text.
    """
    try:
        text = decoded(source.path, source.data, source.encoding)
    except UnreadableFileError as error:
        raise UnreadableFileError(_not_text(source.path)) from error
    if source.encoding is None and _BINARY.search(text):
        raise UnreadableFileError(_not_text(source.path))
    return Content(text)


def _not_text(path: Path) -> str:
    kind = f"files of kind {path.suffix!r}" if path.suffix else "files without a suffix"
    return (
        f"{path} cannot be read: {kind} are read as UTF-8 text, and it is not. Name its encoding (--encoding latin-1), "
        "or convert it to text, HTML, PDF or .docx."
    )


def decoded(path: Path, data: bytes, encoding: str | None) -> str:
    """The text of a file, with line ends as `\\n`.

    Args:
        path: for messages.
        data: the bytes.
        encoding: None is UTF-8, or UTF-16 where the data begins with its byte order mark.

    Raises:
        UnreadableFileError: the data is not text in that encoding.
    """
    utf16 = data.startswith(UTF16_MARKS)
    if encoding is None and b"\x00" in data and not utf16:
        raise UnreadableFileError(f"{path} is a binary file, not text.")
    encoding = encoding or ("utf-16" if utf16 else "utf-8-sig")
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise UnreadableFileError(f"encoding={encoding!r} is unknown: try 'utf-8' or 'latin-1'.") from error
    except UnicodeDecodeError as error:
        name = "utf-8" if encoding == "utf-8-sig" else encoding
        raise UnreadableFileError(
            f"{path} is not {name} text (byte {error.start}): name its encoding, e.g. encoding='latin-1' "
            "(--encoding latin-1), or save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def first_heading(text: str) -> str | None:
    """The first Markdown heading that is not empty, without its closing hashes. Fenced code has no headings."""
    fences = [found.start() for found in _FENCE.finditer(text)]
    passed = 0
    for match in _HEADING.finditer(text):
        while passed < len(fences) and fences[passed] < match.start():
            passed += 1
        if passed % 2:
            continue
        title = match.group(1).rstrip(" \t")
        bare = title.rstrip("#")
        if bare.endswith((" ", "\t")) or not bare:
            title = bare.strip()
        if title:
            return title
    return None


def _first_section(text: str) -> str | None:
    """The first line of reStructuredText that is underlined by punctuation at least as wide as itself."""
    previous = ""
    for line in text.split("\n"):
        line = line.rstrip()
        if _is_adornment(line) and previous.strip() and not _is_adornment(previous):
            title = previous.strip()
            if len(line) >= min(_width(title), 500):
                return title
        previous = line
    return None


def _is_adornment(line: str) -> bool:
    return len(line) >= 2 and line[0] in _ADORNMENTS and line == line[0] * len(line)


def _width(text: str) -> int:
    """Columns that a text takes: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text[:500])
