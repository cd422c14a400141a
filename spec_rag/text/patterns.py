"""Regular expressions for numbers, dates, identifiers and quotations in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spec_rag.text.units import Span

_MONTHS = (
    # full names and usual abbreviations: English, German, French, Spanish, Italian, Portuguese, Dutch
    "january|february|march|april|may|june|july|august|september|october|november|december"
    "|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec"
    "|januar|jänner|februar|märz|mai|juni|juli|oktober|dezember"
    "|janvier|février|mars|avril|juin|juillet|août|septembre|octobre|novembre|décembre"
    "|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
    "|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|novembre|dicembre"
    "|janeiro|fevereiro|março|maio|junho|julho|setembro|outubro|dezembro"
    "|januari|februari|maart|mei|augustus"
)
_YEAR = r"(?:1\d|20)\d\d"

_NUMBERS = r"""
    (?<=[\w.,;:!?)"”’])\[\d[\d\s,–-]{0,40}\]              # a reference mark is not a number
  | ^[ \t]*\d{1,3}[.)][ \t]                          # nor is the number of a list item
  | (?<![^\W_])(?<![^\W\d_][-_./])(?P<found>\d(?:[\d.,:'’\u00a0\u202f/]{0,40}\d)?)
"""
_DATES = rf"""
    \b\d{{1,2}}(?:st|nd|rd|th|er|º|\.)?\ (?:of\ |de\ )?(?:{_MONTHS})\b\.?,?(?:\ (?:de\ )?{_YEAR})?
  | \b(?:{_MONTHS})\b\.?\ \d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\ {_YEAR}\b)?
  | \b(?:{_MONTHS})\b\.?,?\ (?:of\ |de\ )?{_YEAR}\b
  | \b{_YEAR}[-/.]\d{{1,2}}[-/.]\d{{1,2}}\b
  | \b\d{{1,2}}[./-]\d{{1,2}}[./-](?:{_YEAR}|\d\d)\b(?!\.\d)
  | \d{{2,4}}\ ?年(?:\ ?\d{{1,2}}\ ?月(?:\ ?\d{{1,2}}\ ?[日号])?)? | \d{{1,2}}\ ?月\ ?\d{{1,2}}\ ?[日号]
  | \b(?:in|since|by|until|till|before|after|from|between|during|early|late|mid|about|around|circa|year
       |seit|bis|vor|nach|um|jahr|ab|en|depuis|avant|après|vers|desde|hasta|nel|dal|em|sinds|tot)\ {_YEAR}s?\b
       (?:\ ?[-–]\ ?(?:{_YEAR}|\d\d)\b|\ (?:and|to|und|et|y|e)\ {_YEAR}\b)?
  | (?<=[(,;–-])\ ?{_YEAR}(?=\ ?[),;–-]) | \b{_YEAR}s\b | \b{_YEAR}\ ?[-–]\ ?{_YEAR}\b
"""
_IDENTIFIERS = r"""
    \b(?:https?://|www\.)[^\s<>"]{1,2000} | (?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}
  | \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b
  | \b(?=[a-f]{0,64}\d)(?=\d{0,64}[a-f])[0-9a-f]{7,128}\b                   # a digest
  | \b[A-Z]{2,20}[ -]?\d[\w./-]{0,80}\b | \b[A-Z]\w{0,40}-\d[\w-]{0,80}\b    # ISO 9001, CVE-2021-44228, COVID-19
  | \b[A-Z][A-Za-z]{0,40}\d\w{0,40}\b | \b[a-z]{1,40}\d{1,20}[A-Z_]\w{0,40}\b  # A380, B2B
  | \b\d{1,20}[A-Z]{1,20}\d\w{0,40}\b | \b\d{1,20}-[A-Z]{1,20}(?:-\w{1,40}){0,8}\b  # 4Q23, 12-AB
  | \bv\d{1,9}(?:\.\d{1,9}){1,4}\b | \b\d{1,9}\.\d{1,9}\.\d{1,9}(?:\.\d{1,9})?\b   # versions and addresses
  | \b[A-Za-z]\w{0,80}_\w{1,80}\b | \b[a-z]{1,40}[A-Z]\w{0,80}\b | \b\w{1,80}\(\)  # snake_case, camelCase, call()
  | (?:(?<=\s)|^)(?:~|\.{1,2})?/[\w.-]{1,200}(?:/[\w.-]{1,200}){1,40}          # a path
  | §{1,2}\s?\d{1,9}\w{0,3}
"""
_QUOTES = r"""
    “[^“”]{2,2000}?” | „[^„“”]{2,2000}?[“”] | «[^«»]{2,2000}?» | »[^«»]{2,2000}?« | ‹[^‹›]{2,2000}?›
  | 「[^「」]{1,2000}」 | 『[^『』]{1,2000}』 | (?<!\w)"[^"\n]{2,2000}?"(?!\w) | (?<!\w)‘[^‘\n]{2,2000}?’(?!\w)
"""

PATTERNS: Mapping[str, re.Pattern[str]] = {
    "numbers": re.compile(_NUMBERS, re.VERBOSE | re.MULTILINE),
    "dates": re.compile(_DATES, re.VERBOSE | re.IGNORECASE),
    "identifiers": re.compile(_IDENTIFIERS, re.VERBOSE | re.MULTILINE),
    "quotes": re.compile(_QUOTES, re.VERBOSE),
}


def named_spans(text: str, name: str) -> list[Span]:
    """Spans of "numbers" (in digits), "dates", "identifiers" or "quotes"."""
    pattern = PATTERNS[name]
    group = "found" if "found" in pattern.groupindex else 0
    return [match.span(group) for match in pattern.finditer(text) if match.group(group)]


def inline_flags(pattern: re.Pattern[str]) -> str:
    """Convert a compiled expression to a string with its flags inline."""
    letters = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x", re.ASCII: "a"}
    flags = "".join(letter for flag, letter in letters.items() if pattern.flags & flag)
    body = f"(?:{pattern.pattern})" if pattern.pattern in PATTERNS else pattern.pattern  # the word, not what it names
    return f"(?{flags}){body}" if flags else body
