"""Text for a terminal: what would move its cursor, colour it or retitle it is shown in place of being obeyed."""

from __future__ import annotations

_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),  # which no stream can write
}


def visible(text: str) -> str:
    """The text with a picture of each control character but line breaks and tabs; every character keeps its place."""
    return text.translate(_PICTURES)
