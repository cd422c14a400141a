"""Tool outputs of installed packages and of this repository, shortened, and checked: format, marks, handles.

    python -m benchmarks tool-replay

The selection is random, since the rules hold for every selection: shortened JSON parses, shortened Python compiles or
is marked as an excerpt, no listing loses an entry, every handle returns the exact original, and nothing grows.
"""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

import torch

from spec_rag import Originals
from spec_rag.compression.compress import keep
from spec_rag.compression.packing import ScoredDocuments
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.text.units import unit_spans
from spec_rag.tool_results.line_pieces import folded_paths, unfolded_paths
from spec_rag.tool_results.shorten import ShortenedResult, plan_result

ROOT = Path(__file__).parent.parent
MAX_CHARS = 40_000
_COMMANDS = (
    ("grep -rnE '^(def|class) ' spec_rag/{}", ("text", "utils", "models", "serving", "options", "attention")),
    ("find {} -name '*.py'", ("spec_rag", "tests", "kernels", "integrations", "benchmarks")),
    ("ls -laR {}", ("spec_rag/text", "docs", "kernels", "deploy", "examples")),
)


@dataclass(frozen=True)
class Output:
    """What a tool returned."""

    tool: str
    text: str


@dataclass
class Replay:
    """Results of a replay: outputs by kind, characters before and after, and what is wrong."""

    kinds: Counter[str]
    before: int = 0
    after: int = 0
    wrong: list[str] | None = None

    def __str__(self) -> str:
        share = self.after / max(self.before, 1)
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common())
        wrong = self.wrong or []
        total = f"{sum(self.kinds.values())} outputs ({kinds}): {share:.0%} of {self.before:,} characters"
        return "\n".join([total, *wrong, f"{len(wrong)} are wrong"])


def outputs(count: int, seed: int = 0) -> list[Output]:
    """Outputs of several tools in turn."""
    sources = [_files("*.py"), _diffs(), _files("*.json"), _commands(), _logs(), _json_lines(seed), _files("*.md")]
    if count > 50:  # files of these kinds are rare
        sources += [_files("*.html"), _files("*.csv"), _files("*.h")]
    mixed = (one for one in chain.from_iterable(zip_longest(*sources)) if one is not None)
    return list(islice((one for one in mixed if len(one.text) > 1000), count))


def replay(given: list[Output], seed: int = 0) -> Replay:
    """Shorten every output at a random ratio, and check it."""
    draw = random.Random(seed)
    found = Replay(Counter(), wrong=[])
    originals = Originals(2**30)
    for i, output in enumerate(given):
        result = shortened(output, draw.uniform(0.05, 0.6), originals)
        found.kinds[result.kind] += 1
        found.before += len(output.text)
        found.after += len(result.text)
        assert found.wrong is not None
        found.wrong += [f"{i} {output.tool} {result.kind}: {fault}" for fault in faults(output, result, originals)]
    return found


def shortened(output: Output, ratio: float, originals: Originals) -> ShortenedResult:
    """The output with a random selection."""
    plan = plan_result(output.text, ToolResultOptions(), output.tool)
    if plan.result is not None:
        return plan.result
    units = unit_spans(output.text, "sentence")
    scores = [zlib.crc32(output.text[a:b].encode("utf-8", "replace")) / 2**31 - 1 for a, b in units]
    reading = ScoredDocuments([plan.document], "q", "random", [units], [], torch.tensor(scores), torch.zeros(0), 0.0)
    compression = keep(reading, CompressionConfig(ratio=ratio, min_tokens=0), _words)
    return plan.shortened(compression, originals)


def faults(output: Output, result: ShortenedResult, originals: Originals) -> Iterator[str]:
    """What is wrong with a shortened output."""
    if len(result.text) > len(output.text):
        yield "longer than the original"
    if result.kind == "json" and not _parses(json.loads, result.text):
        yield "does not parse"
    if result.kind == "json lines" and not all(_parses(json.loads, line) for line in result.text.split("\n") if line):
        yield "a line does not parse"
    if result.kind == "python" and not result.text.startswith("# [Excerpt") and not _parses(ast.parse, _bare(result)):
        yield "does not compile"
    if result.kind in ("listing", "search"):
        same = result.text == output.text or unfolded_paths(folded_paths(output.text)) == output.text
        if not same or result.omissions:
            yield "an entry is lost"
    is_known = result.handle is not None and result.handle in originals
    if result.omissions and not (is_known and originals.expand(str(result.handle)).text == output.text):
        yield "the handle does not return the original"
    if result.omissions and result.text.count("[… ") < len(result.omissions):
        yield "an omission has no mark"


def _bare(result: ShortenedResult) -> str:
    from spec_rag.tool_results.lines import Lines

    return "\n".join(Lines.of(result.text).bodies)


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _words(text: str) -> int:
    return len(text.split())


def _files(pattern: str) -> Iterator[Output]:
    """Files of installed packages, at most three of each."""
    for package in sorted(Path(sysconfig.get_paths()["purelib"]).iterdir(), key=lambda path: zlib.crc32(bytes(path))):
        fitting = (path for path in package.rglob(pattern) if 1000 < path.stat().st_size < MAX_CHARS)
        for path in islice((path for path in fitting if path.is_file()), 3):
            yield Output("read_file", path.read_text(encoding="utf-8", errors="replace"))


def _run(command: str) -> str:
    return subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=False).stdout[:MAX_CHARS]


def _diffs() -> Iterator[Output]:
    for commit in _run("git log --no-merges --format=%h -60").split():
        yield Output("git_show", _run(f"git show {commit}"))


def _commands() -> Iterator[Output]:
    for command, places in _COMMANDS:
        for place in places:
            yield Output("bash", _run(command.format(place)))


def _logs() -> Iterator[Output]:
    for path in sorted(Path("/var/log").rglob("*.log")):
        if path.is_file():
            yield Output("read_log", path.read_text(encoding="utf-8", errors="replace")[:MAX_CHARS].rpartition("\n")[0])
    for package in ("", "spec_rag/text", "tests", "docs", "integrations"):
        yield Output("bash", _run(f"git log --stat -40 -- {package or '.'}"))


def _json_lines(seed: int) -> Iterator[Output]:
    draw = random.Random(seed)
    for commits in (20, 60, 120):
        rows = [line.split("\t") for line in _run(f"git log -{commits} --format=%h%x09%an%x09%s").splitlines()]
        fields = ("commit", "author", "subject")
        lines = [json.dumps({**dict(zip(fields, row, strict=False)), "n": draw.random()}) for row in rows]
        yield Output("api", "\n".join(lines))
        yield Output("api", json.dumps({"items": [json.loads(line) for line in lines], "next": None}, indent=2))
