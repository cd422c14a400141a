"""Where cases come from: generated, a file of questions, or LongBench, by name. This module does not know methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import longbench, ruler
from benchmarks.cases import LongCase, question_case
from benchmarks.grid import Tasks
from spec_rag.errors import ConfigError
from spec_rag.evaluation.questions import AnsweredQuestion, read_questions

Count = Callable[[str], int]


def generated_tasks(
    names: Sequence[str], count: Count, tokens: int, cases: int, seed: int = 0, questions: Path | None = None
) -> Tasks:
    """Tasks of RULER; "all" is all of them, or all but the last two where there are no questions."""
    asked = read_questions(questions) if questions else []
    if list(names) == ["all"]:
        names = [name for name in ruler.TASKS if asked or name not in ruler.QUESTIONS]
    made = {name: ruler.ruler_cases(name, count, tokens, cases, seed, questions=asked) for name in names}
    return Tasks(made, tokens, seed)


def file_tasks(paths: Sequence[Path], limit: int | None = None, skip: int = 0) -> Tasks:
    """A task per file of JSON lines, with the file's name."""
    return Tasks({task_name(path): file_cases(path, limit, skip) for path in paths})


def file_cases(path: Path, limit: int | None = None, skip: int = 0) -> list[LongCase]:
    """The questions of a file, without the first `skip`, of at most `limit`.

    Raises:
        ConfigError: there is none.
    """
    asked: list[AnsweredQuestion] = read_questions(path, limit)[skip:]
    if not asked:
        raise ConfigError(f"--skip {skip} leaves no question of {path}: give a smaller one.")
    return [question_case(one, task_name(path)) for one in asked]


def task_name(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.split(".")[0]


def longbench_tasks(
    names: Sequence[str], source: str, count: Count, tokens: int | None, limit: int | None = None
) -> Tasks:
    """Tasks of LongBench; "all" is all of them."""
    names = longbench.TASKS if list(names) == ["all"] else names
    return Tasks({name: longbench.longbench_cases(name, source, count, tokens, limit) for name in names})
