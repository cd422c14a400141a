"""What a draft of eight bits keeps beside the exact one: a check on a machine before `quantize="int8"` is used."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from spec_rag.compression.draft import Draft
from spec_rag.compression.pipeline import compress
from spec_rag.evaluation.tasks.metrics import holds_answer
from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion
from spec_rag.progress import steps
from spec_rag.report import Compression


@dataclass
class _Found:
    seconds: list[float] = field(default_factory=list)
    right: int = 0


def rounded(exact: Draft, eight: Draft, questions: Sequence[AnsweredQuestion], part: int = 4) -> str:
    """Markdown: seconds, answers kept, and how often and how far the two keep the same.

    Args:
        exact: the draft in float32.
        eight: the same draft, loaded with `quantize="int8"`.
        questions: each is asked of both in turn, nothing read before; the first once more, to warm up.
        part: 1/part of the documents' tokens is kept.
    """
    found = {"float32": _Found(), "int8": _Found()}
    same, shared = 0, []
    with steps("Compressing", len(questions)) as done:
        _seconds_and_kept(exact, questions[0], part)
        _seconds_and_kept(eight, questions[0], part)
        for asked in questions:
            pair = []
            for own, draft in zip(found.values(), (exact, eight), strict=True):
                seconds, kept = _seconds_and_kept(draft, asked, part)
                own.seconds.append(seconds)
                own.right += holds_answer(kept.text, asked.answers)
                pair.append(kept)
            same += pair[0].text == pair[1].text
            one, other = (_kept_units(kept) for kept in pair)
            shared.append(len(one & other) / max(len(one | other), 1))
            done()
    count = len(questions)
    ratio = statistics.median(a / b for a, b in zip(*(own.seconds for own in found.values()), strict=True))
    return "\n".join(
        [
            f"| {count} questions, 1/{part} kept | seconds | answer kept |",
            "|---|---|---|",
            *(f"| {n} | {statistics.median(own.seconds):.2f} | {own.right / count:.3f} |" for n, own in found.items()),
            "",
            f"int8 is {ratio:.2f} times as fast. It keeps the same text for {same} of {count} questions, and of the "
            f"units that either keeps, {statistics.mean(shared):.0%} are kept by both.",
        ]
    )


def _seconds_and_kept(draft: Draft, asked: AnsweredQuestion, part: int) -> tuple[float, Compression]:
    started = time.perf_counter()
    kept = compress(asked.documents, asked.question, draft=draft, ratio=1 / part)
    return time.perf_counter() - started, kept


def _kept_units(kept: Compression) -> set[tuple[str, int]]:
    return {(one.original_text, unit.start) for one in kept.documents for unit in one.units if unit.kept}
