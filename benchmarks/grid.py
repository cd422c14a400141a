"""Tasks by methods by budgets: what is kept, or what a target answers, a line of JSON per example, method and budget.

What stands in the file from an earlier run is not computed again. This module does not know how a method works, or
terminals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.answer_methods import ANSWERERS, DENSE, Request
from benchmarks.cases import LongCase, best_f1, exact_match
from benchmarks.records import Key, Measure, Scored, code_version
from spec_rag.compression.document_draft import Draft
from spec_rag.errors import ConfigError
from spec_rag.evaluation.case import BUDGETS, Case
from spec_rag.evaluation.json_lines import append_lines, read_lines
from spec_rag.evaluation.variants import EMBEDDED, VARIANTS
from spec_rag.generation.generate import generate
from spec_rag.models.model_pair import ModelPair
from spec_rag.results import Answer
from spec_rag.utils.progress import steps


@dataclass(frozen=True)
class Tasks:
    """Cases by task, and what they were made for.

    Attributes:
        cases: by name of the task.
        tokens: of a prompt, or 0 where a file decides.
        seed: of the cases.
    """

    cases: Mapping[str, Sequence[LongCase]]
    tokens: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Methods:
    """What is compared, and by which models.

    Attributes:
        draft: that reads.
        names: of the methods.
        budgets: shares, or above 1 so many tokens or pairs.
        target: draft and target, where answers are measured; else what is kept is.
        embedder: for the methods that need one, with its name.
    """

    draft: Draft
    names: Sequence[str]
    budgets: Sequence[Fraction] = BUDGETS
    target: ModelPair | None = None
    embedder: Any = None
    embedder_name: str | None = None
    code: str = field(default_factory=code_version)

    def key(self, case: LongCase, method: str, budget: Fraction) -> Key:
        """How a line of this method is found again."""
        target = self.target.target_name if self.target else None
        embedder = self.embedder_name if method in EMBEDDED else None
        return Key(self.draft.name, target, embedder, self.code, case.address, method, str(budget))

    def budgets_for(self, method: str) -> Sequence[Fraction]:
        """The budgets at which a method is tried."""
        return (Fraction(1),) if method == DENSE else self.budgets


def method_names(measure: Measure, embedder: Any, names: Sequence[str] | None = None) -> list[str]:
    """The methods that this measure and embedder allow, or those of them that are named.

    Raises:
        ConfigError: a name is unknown, or cannot be measured so.
    """
    known = [*(ANSWERERS if measure == "answers" else ()), *VARIANTS, *(EMBEDDED if embedder is not None else ())]
    for name in names or ():
        if name in known:
            continue
        if name in ANSWERERS:
            raise ConfigError(f"method {name!r} keeps no text, so its answers are what can be measured.")
        if name in EMBEDDED:
            raise ConfigError(f"method {name!r} needs an embedder.")
        raise ConfigError(f"method {name!r} is not one of {', '.join(known)}.")
    return list(names or known)


def run_grid(tasks: Tasks, methods: Methods, out: Path | None = None, deadline: float | None = None) -> list[Scored]:
    """Try every method on every case at every budget; each line is written to `out` as soon as it is known.

    Args:
        tasks: what is tried.
        methods: by what.
        out: file of JSON lines, or None; what stands there already is taken over.
        deadline: of `time.monotonic`; nothing is begun after it, and what is known by then is returned.
    """
    known = {row.key: row for row in ([] if out is None else read_lines(out, Scored.from_json))}
    found: list[Scored] = []
    with steps("Examples", sum(map(len, tasks.cases.values()))) as done:
        for task, cases in tasks.cases.items():
            for number, case in enumerate(cases):
                reading: Case | None = None
                for method in methods.names:
                    budgets = methods.budgets_for(method)
                    own = [known.get(methods.key(case, method, budget)) for budget in budgets]
                    if None in own:
                        if deadline is not None and time.monotonic() > deadline:
                            found += [row for row in own if row is not None]
                            continue
                        reading = reading or _reading(methods, case)
                        scored = [
                            Scored(**vars(methods.key(case, method, budget)), task=task, tokens=tasks.tokens,
                                   seed=tasks.seed, number=number, **figures)
                            for budget, figures in zip(budgets, _figures(methods, method, case, reading), strict=True)
                        ]  # fmt: skip
                        append_lines(out, [new.to_json() for new, old in zip(scored, own, strict=True) if old is None])
                        own = [old or new for new, old in zip(scored, own, strict=True)]
                    found += [row for row in own if row is not None]
                done()
    return found


def _reading(methods: Methods, case: LongCase) -> Case:
    titled = methods.target is not None
    return Case(methods.draft, case.asked, methods.embedder, budgets=methods.budgets, titled=titled)


def _figures(methods: Methods, method: str, case: LongCase, reading: Case) -> Iterator[dict[str, Any]]:
    """Per budget, what came out."""
    started = time.perf_counter()
    if method in ANSWERERS:
        assert methods.target is not None
        for budget in methods.budgets_for(method):
            answer = ANSWERERS[method](Request(methods.target, case, budget))
            yield _judged(case, answer, time.perf_counter() - started)
            started = time.perf_counter()
        return
    texts = {**VARIANTS, **EMBEDDED}[method](reading)
    for text in texts:
        if methods.target is None:
            yield {"score": case.score(text), "seconds": time.perf_counter() - started}
        else:
            answer = generate(methods.target, case.chat(text), max_new_tokens=case.max_new_tokens)
            yield _judged(case, answer, time.perf_counter() - started)
        started = time.perf_counter()


def _judged(case: LongCase, answer: Answer, seconds: float) -> dict[str, Any]:
    text = answer.text.strip()
    return {
        "score": case.score(text),
        "seconds": seconds,
        "answer": text,
        "f1": best_f1(text, case.answers),
        "exact_match": exact_match(text, case.answers),
        "kv_bytes": answer.kv_bytes_kept or None,
    }
