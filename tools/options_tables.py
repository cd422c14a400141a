"""Write the tables of options in docs/options.md from their definitions.

    python tools/options_tables.py [--check]

A table is between `<!-- options: NAMES -->` and `<!-- end of options -->`. NAMES are groups of compression options, or
the name of another class of options. With --check, nothing is written and the exit code is 1 if the page differs.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from spec_rag.options.compression import SpecKVConfig, SpecPCConfig, options_of
from spec_rag.options.definitions import bounds_of, choices_of, extra, fields_of
from spec_rag.options.generation import GenerationOptions
from spec_rag.options.loading import LoadOptions

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
CLASSES = {kind.__name__: kind for kind in (SpecPCConfig, SpecKVConfig, LoadOptions)}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤"}
_TABLE = re.compile(r"(<!-- options: ([A-Za-z ]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def table(*names: str) -> str:
    """The options of these groups, or of this class, as a Markdown table, common ones first."""
    rows = ["| option | default | values | level | meaning |", "|---|---|---|---|---|"]
    if names == ("GenerationOptions",):
        fields = GenerationOptions.model_fields
    else:
        fields = fields_of(CLASSES[names[0]]) if names[0] in CLASSES else options_of(*names)  # type: ignore[arg-type]
    for name in sorted(fields, key=lambda name: extra(fields[name])["level"] != "common"):
        field = fields[name]
        default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        choices = ", ".join(f"`{json.dumps(v) if isinstance(v, str) else v}`" for v in choices_of(field.annotation))
        bounds = ", ".join(f"{SIGNS[sign]} {value}" for sign, value in bounds_of(field).items())
        level, symbol = extra(field)["level"], extra(field).get("symbol")
        name += f"` ({symbol})" if symbol else "`"
        rows.append(f"| `{name} | `{default}` | {choices or bounds} | {level} | {field.description} |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """The page with its tables written from the fields."""
    return _TABLE.sub(lambda match: match[1] + table(*match[2].split()) + match[3], page)


def main() -> int:
    """Write the page, or compare it."""
    page = PAGE.read_text(encoding="utf-8")
    expected = with_tables(page)
    if "--check" in sys.argv:
        return int(page != expected)
    PAGE.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
