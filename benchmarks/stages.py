"""What `python -m benchmarks bench` measures of quality, in the order of worth: the last is left out first.

This module knows tasks, methods and budgets by name; it does not know how they are run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sources
from benchmarks.answer_methods import ANSWERERS
from benchmarks.grid import Tasks
from benchmarks.records import Measure
from spec_rag.errors import ConfigError

Count = Callable[[str], int]

EXAMPLES = 40
QUESTIONS = 200
_HALVES = ("1/2", "1/4", "1/8", "1/16")
_WITHOUT_MODELS = ("BM25 sentences", "random sentences", "truncation to the head")


@dataclass(frozen=True)
class Stage:
    """One part of the benchmark.

    Attributes:
        name: of its file of results.
        heading: of its part of the page.
        about: what is measured.
        measure: "kept" or "answers".
        methods: by name; those that need an embedder are left out without one.
        budgets: as they are written.
        file: of questions, in the folder of data; "" for generated tasks.
        tasks: generated ones, of RULER.
        tokens: lengths of their prompts.
        cases: examples of each.
    """

    name: str
    heading: str
    about: str
    measure: Measure
    methods: Sequence[str]
    budgets: Sequence[str]
    file: str = ""
    tasks: Sequence[str] = ()
    tokens: Sequence[int] = ()
    cases: int = EXAMPLES

    def made(self, data: Path | None, count: Count) -> list[Tasks]:
        """The stage's cases; none where its file is not there."""
        if self.tasks:
            return [sources.generated_tasks(self.tasks, count, tokens, self.cases) for tokens in self.tokens]
        path = data / self.file if data else None
        return [sources.file_tasks([path], self.cases)] if path and path.exists() else []


_RULER = ("niah_single_2", "niah_multikey_1", "vt", "fwe")
STAGES: Sequence[Stage] = (
    Stage(
        "kept-nq",
        "Multi-document QA: is the answer kept?",
        "Questions of Natural Questions over ten passages each: the share whose answer string survives.",
        "kept",
        ("default", "+ embedder", "embedding sentences", *_WITHOUT_MODELS, "paper"),
        _HALVES,
        "nq-multidoc-10.jsonl.gz",
    ),
    Stage(
        "answers-ruler",
        "Needles: the answer from a pruned cache",
        "One needle of four, 1,024 tokens; SmolLM2-135M answers from a tenth of the pairs. Draft and target are the "
        "same model, which is the best case for SpecKV's look-ahead.",
        "answers",
        ("dense", "SpecKV", "SnapKV", "StreamingLLM"),
        ("1/10",),
        tasks=("niah_multikey_1",),
        tokens=(1024,),
    ),
    Stage(
        "answers-nq",
        "Multi-document QA: what the target answers",
        "Answers of SmolLM2-135M of at most 32 tokens, from all documents and from compressed ones. An answer is "
        "correct if it contains an accepted answer.",
        "answers",
        ("dense", "default"),
        ("1/4", "1/8"),
        "nq-multidoc-10.jsonl.gz",
        cases=QUESTIONS,
    ),
    Stage(
        "kept-kv",
        "Key-value retrieval: is the value kept?",
        "75 pairs of random identifiers; the question asks for one key.",
        "kept",
        ("default", *_WITHOUT_MODELS),
        _HALVES,
        "kv-retrieval-75.jsonl.gz",
    ),
    Stage(
        "kept-ruler",
        "RULER: are the answers kept?",
        "A single needle, one of four needles, a chain of five variables, and the three most frequent of many words.",
        "kept",
        ("default", "embedding sentences", *_WITHOUT_MODELS, "paper"),
        _HALVES,
        tasks=_RULER,
        tokens=(1024, 2048, 4096),
    ),
    Stage(
        "answers-tasks",
        "RULER: answers from a pruned cache",
        "A single needle, a chain of five variables and frequent words, 1,024 tokens, answered as the needles above.",
        "answers",
        ("dense", "SpecKV", "SnapKV", "StreamingLLM"),
        ("1/10",),
        tasks=("niah_single_2", "vt", "fwe"),
        tokens=(1024,),
    ),
    Stage(
        "answers-all",
        "RULER: every method that answers",
        "The same tasks, answered by SmolLM2-135M; draft and target are the same model. This takes hours.",
        "answers",
        tuple(ANSWERERS),
        ("1/4", "1/10"),
        tasks=_RULER,
        tokens=(1024, 2048, 4096),
    ),
)


def stage_of(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ConfigError: there is none.
    """
    known = {stage.name: stage for stage in STAGES}
    if name not in known:
        raise ConfigError(f"stage {name!r} is not one of {', '.join(known)}.")
    return known[name]
