"""What a measurement writes: a line of JSON per example, method and budget, and how it is found again.

A line is found again only by what its figures depend on: models, embedder, the case's content, method, budget, and the
code that did the work. This module does not know how methods work.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

from spec_rag.errors import UnreadableFileError
from spec_rag.utils.atomic_files import not_written

Measure = Literal["kept", "answers"]
Row = TypeVar("Row")

_BLOCK_BYTES = 65536
_LAZY_EXPORTS = ("options", "utils", "text", "models", "attention", "compression", "generation", "evaluation")


@cache
def code_version() -> str:
    """A short name of the code that figures depend on: another one when a file of it changes."""
    import spec_rag_kernels

    import spec_rag

    root, kernels = Path(spec_rag.__file__).parent, Path(spec_rag_kernels.__file__).parent
    files = [*root.glob("*.py"), *(path for room in _LAZY_EXPORTS for path in (root / room).glob("*.py"))]
    files += kernels.rglob("*.py")
    found = sha256()
    for path in sorted(files):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class Key:
    """What the figures of a line depend on.

    Attributes:
        draft, target: names of the models; no target where it is measured what is kept.
        embedder: its name, where the method needs one.
        code: `code_version`, or a peer's name and version.
        case: address of the case's content.
        method: its name.
        budget: as it is written: "1/8", "512"; "1" for methods that keep all.
    """

    draft: str
    target: str | None
    embedder: str | None
    code: str
    case: str
    method: str
    budget: str


@dataclass(frozen=True)
class Scored(Key):
    """An example by one method at one budget.

    Attributes:
        task: its name.
        tokens: of the task's prompts, or 0 where a file decides.
        seed: of the cases.
        number: of the case.
        score: by the task's metric, 0 to 1: of what was kept, or of the answer.
        seconds: of the method; what it shares among budgets is counted at the first.
        answer: what the target wrote.
        f1, exact_match: of the answer.
        kv_bytes: of keys and values that the target held of the prompt.
    """

    task: str
    tokens: int
    seed: int
    number: int
    score: float
    seconds: float
    answer: str | None = None
    f1: float | None = None
    exact_match: float | None = None
    kv_bytes: int | None = None

    @property
    def key(self) -> Key:
        """What the figures depend on."""
        return Key(*(getattr(self, field.name) for field in fields(Key)))

    @property
    def cell(self) -> str:
        """Name of the task with its length."""
        return f"{self.task}, {self.tokens:,} tokens" if self.tokens else self.task

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Scored:
        """Read `to_json` back."""
        return cls(**json.loads(line))


def read_lines(path: Path, read: Callable[[str], Row]) -> list[Row]:
    """What an earlier run has written, but for a last line that was cut off, which `append_lines` takes away.

    Raises:
        UnreadableFileError: another line cannot be read; the message names it.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.startswith(b"{") and not line.endswith(b"\n"):
            break
        try:
            found.append(read(line.decode("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"{path}, line {number}: {error!r}. It is no line of this command: give another file to write to."
            ) from error
    return found


def append_lines(path: Path | None, lines: Iterable[str]) -> None:
    """Write lines behind those that are there, all or none, in place of one that was cut off; nowhere without a path.

    Raises:
        FileNotWrittenError: they cannot be written; the file holds the lines that were whole before.
    """
    if path is None:
        return
    left = "".join(f"{line}\n" for line in lines).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            whole = _end_of_last_line(file)
            file.truncate(whole)
            try:
                while left:
                    left = left[file.write(left) :]
            except BaseException:
                file.truncate(whole)
                raise
    except OSError as error:
        raise not_written(path, error) from error


def _end_of_last_line(file: io.FileIO) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
