"""Text for a terminal without escape sequences."""

from __future__ import annotations

_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),  # lone surrogates cannot be encoded
}


def visible(text: str) -> str:
    """Replace each control character, except line breaks and tabs, by a visible one. The length stays the same."""
    return text.translate(_PICTURES)
