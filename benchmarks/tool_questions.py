"""Whether the call that returned a tool result says better what to keep of it than the user's turn alone.

    python -m benchmarks tool-questions

Forty-eight results of our own: search results, code, logs and API answers, twelve of each. A case counts where the line
that the call was made for is still there at a fifth of the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spec_rag.compression.compress import compress
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.evaluation.kept import interval
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.tool_results.shorten import call_question, plan_result

RATIO = 0.2
_TURNS = (
    "Fix the bug.", "Please go on.", "Why does the nightly job fail?", "Make the tests pass.",
    "Prepare the release.", "What should we do about the complaint?",
)  # fmt: skip
_THINGS = (
    ("invoice", "rounds the tax down"), ("login", "locks after three attempts"), ("export", "writes ISO dates"),
    ("backup", "keeps seven copies"), ("search", "ignores accents"), ("upload", "limits files to 40 MB"),
    ("calendar", "starts weeks on Monday"), ("payment", "retries twice"), ("mailer", "sends in plain text"),
    ("cache", "expires after ten minutes"), ("parser", "skips empty rows"), ("report", "groups by region"),
)  # fmt: skip


_CODE = (
    'def handle_{name}(request, limit={n}):\n    """Serve a request; it {what}."""\n    state = load(request.user)\n'
    "    for part in request.parts[:limit]:\n        state.add(part)\n    return state.finish({n} + len(state))"
)


@dataclass(frozen=True)
class Case:
    """A tool result, the turn and the call that it belongs to, and the text that should stay."""

    kind: str
    turn: str
    tool: str
    arguments: Mapping[str, Any]
    text: str
    needle: str


def cases() -> Iterator[Case]:
    """All cases."""
    for i, (thing, does) in enumerate(_THINGS):
        turn = _TURNS[i % len(_TURNS)]
        pages = [f"The {name} of the product {what}. It was changed in version {n}." for n, (name, what) in _numbered()]
        found = f"The {thing} of the product {does}."
        yield Case("search", turn, "web_search", {"query": f"{thing} behaviour"}, " ".join(pages), found)
        code = "\n\n\n".join(_CODE.format(name=name, what=what, n=n) for n, (name, what) in _numbered())
        wanted = f"it {does}."
        yield Case("code", turn, "read_file", {"path": "handlers.py", "symbol": f"handle_{thing}"}, code, wanted)
        lines = [
            f"2026-03-0{n % 9 + 1} 0{n % 10}:1{n % 6}:0{k} INFO {name} worker {n}{k} took {n * 37 + k} ms"
            for k in range(5)
            for n, (name, _) in _numbered()
        ]
        line = next(line for line in lines[12:-12] if f"INFO {thing} " in line)
        yield Case("log", turn, "read_log", {"grep": f"{thing} worker"}, "\n".join(lines), line)
        rows = [
            {"id": n, "feature": name, "note": f"It {what}.", "owner": f"team {n}"} for n, (name, what) in _numbered()
        ]
        answer = json.dumps({"rows": [*rows, *({"id": 90 + n, "feature": "none", "note": "-"} for n in range(12))]})
        yield Case("API", turn, "get_features", {"feature": thing}, answer, f"It {does}.")


def _numbered() -> Iterator[tuple[int, tuple[str, str]]]:
    return enumerate(_THINGS, 1)


def kept(draft: Any, case: Case, question: str, index: DocumentIndex) -> bool:
    """Whether the needle stays."""
    plan = plan_result(case.text, ToolResultOptions(min_chars=1), case.tool)
    assert plan.result is None, case
    compression = compress([plan.document], question, draft=draft, ratio=RATIO, min_tokens=0, index=index)
    return case.needle in plan.shortened(compression, None).text


def table(draft: Any) -> str:
    """Markdown: share of kept needles by kind, for the turn alone, the call alone, and both."""
    index = DocumentIndex()
    found: dict[str, list[list[bool]]] = {}
    for case in cases():
        call = call_question("", case.tool, case.arguments)
        questions = (case.turn, call, call_question(case.turn, case.tool, case.arguments))
        found.setdefault(case.kind, []).append([kept(draft, case, question, index) for question in questions])
    found["all"] = [row for rows in list(found.values()) for row in rows]
    lines = ["| kind | cases | the turn | the call | both |", "|---|---|---|---|---|"]
    for kind, rows in found.items():
        shares = []
        for hits in zip(*rows, strict=True):
            low, high = interval(hits)
            shares.append(f"{sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {kind} | {len(rows)} | {' | '.join(shares)} |")
    return "\n".join(lines)
