"""What the pages for readers show as code.

A snippet whose first line is a comment that begins with "needs" ("# needs Docker") says what it cannot run without
here: it is compiled, its options are looked up, and it is not run.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    + [ROOT / "kernels" / "ROOFLINE.md", ROOT / "benchmarks" / "peers" / "README.md"]
    + list((ROOT / "docs").rglob("*.md"))
)


@dataclass(frozen=True)
class Snippet:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    code: str

    @property
    def needs(self) -> str | None:
        """What it cannot run without; None where it runs."""
        found = re.match(r"# needs (.+)\n", self.code)
        return found[1] if found else None

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"

    @cached_property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell snippet, without variables before and redirections behind it."""
        found = []
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words:
                found.append(words)
        return found


def snippets_of(path: Path) -> list[Snippet]:
    """The blocks of code of a page, in its order; one that is not fenced, or names no language, has the language ""."""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    page = path.relative_to(ROOT).as_posix()
    return [
        Snippet(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content)
        for token in tokens
        if token.type in ("fence", "code_block")
    ]


SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]
