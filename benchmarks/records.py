"""Result lines of a measurement: one JSON object per example, method and budget.

A line is reused only if everything its numbers depend on is unchanged: models, embedder, the content of the case,
method, budget and the code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

Measure = Literal["kept", "answers"]

_MEASURED_PACKAGES = ("options", "utils", "text", "models", "attention", "compression", "generation", "evaluation")


@cache
def code_version() -> str:
    """Short hash of the code that is measured."""
    import spec_rag_kernels

    import spec_rag

    root, kernels = Path(spec_rag.__file__).parent, Path(spec_rag_kernels.__file__).parent
    files = [*root.glob("*.py"), *(path for room in _MEASURED_PACKAGES for path in (root / room).glob("*.py"))]
    files += kernels.rglob("*.py")
    found = sha256()
    for path in sorted(files):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class Key:
    """Everything that the numbers of a line depend on.

    Attributes:
        draft, target: names of the models; None if the kept text is measured, not answers.
        embedder: its name, if the method uses one.
        code: `code_version`, or name and version of another tool.
        case: hash of the content of the case.
        method: its name.
        budget: as on the command line: "1/8", "512"; "1" for methods that keep everything.
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
    """The result of one method on one example at one budget.

    Attributes:
        task: its name.
        tokens: of the prompts of the task; 0 if the examples come from a file.
        seed: of the cases.
        number: of the case.
        score: metric of the task for the kept text or the answer, 0 to 1.
        seconds: of the method; work shared by all budgets is counted at the first.
        answer: the text that the target wrote.
        f1, exact_match: of the answer.
        kv_bytes: bytes of the prompt's keys and values in the target.
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
        """Everything that the numbers depend on."""
        return Key(*(getattr(self, field.name) for field in fields(Key)))

    @property
    def cell(self) -> str:
        """Name and length of the task."""
        return f"{self.task}, {self.tokens:,} tokens" if self.tokens else self.task

    def to_json(self) -> str:
        """Serialize as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Scored:
        """Parse a line of `to_json`."""
        return cls(**json.loads(line))
