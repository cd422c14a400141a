"""The sixteen English tasks of LongBench (Bai et al. 2024, arXiv 2308.14508), asked in our own words.

Reads the published files: JSON lines with `input`, `context`, `answers` and `all_classes`, in a folder or in the zip
file that the hub has. This module does not know models.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import LongCase, Metric
from spec_rag.errors import ConfigError, MissingDependencyError, UnreadableFileError
from spec_rag.text.documents import Document

Count = Callable[[str], int]
HUB = "zai-org/LongBench"


@dataclass(frozen=True)
class _Task:
    """How a task is asked and judged.

    Args:
        instruction: the system's turn.
        question: what follows the context; {input} is the example's own question.
        metric: how an answer is judged.
        max_new_tokens: of an answer.
        first_line_only: nothing behind the first line counts.
    """

    instruction: str
    question: str
    metric: Metric = "f1"
    max_new_tokens: int = 32
    first_line_only: bool = False


_BRIEF = "Read the text and answer the question about it in as few words as possible. Give the answer alone."
_EXAMPLES = "Go on exactly as the examples show."
_CODE = "Write the next line of this code, and nothing else."
_TASKS: Mapping[str, _Task] = {
    "narrativeqa": _Task(_BRIEF, "{input}", max_new_tokens=128),
    "qasper": _Task(
        f'{_BRIEF} Write "unanswerable" where the article does not tell, and "yes" or "no" where that is asked.',
        "{input}",
        max_new_tokens=128,
    ),
    "multifieldqa_en": _Task(_BRIEF, "{input}", max_new_tokens=64),
    "hotpotqa": _Task(_BRIEF, "{input}"),
    "2wikimqa": _Task(_BRIEF, "{input}"),
    "musique": _Task(_BRIEF, "{input}"),
    "gov_report": _Task("You summarise reports.", "Sum up the report above on one page.", "rouge_l", 512),
    "qmsum": _Task("You answer questions about meetings in a few sentences.", "{input}", "rouge_l", 512),
    "multi_news": _Task("You summarise news.", "Sum up all the news above on one page.", "rouge_l", 512),
    "trec": _Task(_EXAMPLES, "What kind of question is this?\n{input}", "classification", 64, True),
    "triviaqa": _Task(f"{_BRIEF} {_EXAMPLES}", "{input}", first_line_only=True),
    "samsum": _Task(f"Sum up the last conversation. {_EXAMPLES}", "{input}", "rouge_l", 128, True),
    "passage_count": _Task(
        "Some of the paragraphs are repeated.",
        "How many different paragraphs are there, each counted once? Give the number alone.",
        "count",
    ),
    "passage_retrieval_en": _Task(
        "Each paragraph has a number.",
        'Which paragraph does this summary belong to?\n\n{input}\n\nAnswer as in "Paragraph 1".',
        "retrieval",
    ),
    "lcc": _Task(_CODE, "", "edit_similarity", 64),
    "repobench-p": _Task(_CODE, "{input}", "edit_similarity", 64),
}
TASKS = tuple(_TASKS)


def longbench_cases(
    task: str, source: Path | str, count: Count, tokens: int | None = None, limit: int | None = None
) -> list[LongCase]:
    """Cases of a task.

    Args:
        task: one of TASKS.
        source: the folder with TASK.jsonl, the zip file that holds it, or "hub": the file is downloaded.
        count: tokens of a text.
        tokens: of a context, at most; the middle of a longer one is left out, as the authors do. None leaves it whole.
        limit: at most so many cases.

    Raises:
        ConfigError: the task is unknown.
        UnreadableFileError: a line is not of the published form.
    """
    if task not in _TASKS:
        raise ConfigError(f"task={task!r}: must be one of {', '.join(TASKS)}.")
    path = _from_hub() if source == "hub" else Path(source)
    found = []
    for number, line in enumerate(_lines(path, task)[:limit], start=1):
        try:
            found.append(_case(task, json.loads(line), count, tokens))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFileError(
                f"{path}, {task}, line {number}: {error!r}. A line of LongBench is a JSON object with input, context "
                "and answers."
            ) from error
    return found


def _case(task: str, row: Mapping[str, Any], count: Count, tokens: int | None) -> LongCase:
    own = _TASKS[task]
    return LongCase(
        task,
        (Document(_without_middle(row["context"], count, tokens)),),
        own.question.format(input=row["input"]),
        "",
        tuple(row["answers"]),
        own.metric,
        max_new_tokens=own.max_new_tokens,
        instruction=own.instruction,
        label="",
        classes=tuple(row.get("all_classes") or ()),
        first_line_only=own.first_line_only,
    )


def _without_middle(text: str, count: Count, tokens: int | None) -> str:
    """The beginning and the end of a text, of at most so many tokens together."""
    if tokens is None or (have := count(text)) <= tokens:
        return text
    chars = len(text)
    while chars and have > tokens:
        chars = min(chars - 1, chars * tokens // have)
        shorter = text[: chars - chars // 2] + text[len(text) - chars // 2 :]
        have = count(shorter)
    return shorter


def _lines(path: Path, task: str) -> list[str]:
    if path.is_dir():
        return (path / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    if not zipfile.is_zipfile(path):
        raise UnreadableFileError(f"{path}: give the folder with {task}.jsonl, or the zip file that holds it.")
    with zipfile.ZipFile(path) as packed:
        name = next(
            (name for name in packed.namelist() if name.endswith(f"/{task}.jsonl") or name == f"{task}.jsonl"), None
        )
        if name is None:
            raise UnreadableFileError(f"{path} has no {task}.jsonl.")
        return packed.read(name).decode("utf-8").splitlines()


def _from_hub() -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingDependencyError('LongBench from the hub needs: pip install "huggingface_hub"') from error
    return Path(hf_hub_download(HUB, "data.zip", repo_type="dataset"))
