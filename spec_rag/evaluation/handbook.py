"""The demo: questions about a fictional handbook, answered from a quarter of the retrieved tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_rag.answering.answer import DEFAULT_KV_CAPACITY, Answered, answer_from
from spec_rag.answering.chunking import DEFAULT_TOP_K, Chunk, retrieve, split_chunks
from spec_rag.errors import ConfigError
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.options.compression import SpecKVConfig

if TYPE_CHECKING:
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.report import Compression

DEMO_QUESTIONS = ("single-01", "single-07", "single-09", "single-14", "single-20")
DEMO_RATIO = 0.25
_MAX_NEW_TOKENS = 40


@dataclass(frozen=True)
class Question:
    """A question with accepted answers and supporting sentences.

    Attributes:
        id: name.
        kind: "single", or "two" if two documents are needed.
        question: the question.
        answers: accepted answers, the longest first.
        sources: file names.
        support: verbatim sentences, in the order of `sources`.
    """

    id: str
    kind: str
    question: str
    answers: tuple[str, ...]
    sources: tuple[str, ...]
    support: tuple[str, ...]


@dataclass(frozen=True)
class Handbook:
    """The documents of the demo as chunks, and its questions."""

    chunks: list[Chunk]
    questions: list[Question]


@dataclass(frozen=True)
class DemoAnswer:
    """An answered question.

    Attributes:
        question: the question.
        answered: the answer with its support.
        retrieved: whether the retrieved chunks have all supporting sentences.
        survived: whether the compressed text has an accepted answer.
        correct: whether the model's answer has an accepted answer.
    """

    question: Question
    answered: Answered
    retrieved: bool
    survived: bool
    correct: bool


@dataclass(frozen=True)
class Evaluation:
    """Counts over questions.

    Attributes:
        questions: number of questions.
        retrieved: questions with all supporting sentences retrieved.
        survived: questions with an accepted answer in the compressed text, per ratio.
        correct: correct answers of the model at the first ratio; None if it did not answer.
        answers: the answers at the first ratio.
    """

    questions: int
    retrieved: int
    survived: dict[float, int]
    correct: int | None
    answers: list[DemoAnswer]


def find_handbook(folder: Path | None = None) -> Path:
    """The folder of the demo: `folder`, or the one of the package.

    Raises:
        FileNotFoundError: it has no questions.json.
    """
    package = Path(__file__).parents[1]
    places = [folder] if folder else [package / "data/handbook", package.parent / "examples/handbook"]
    for place in places:
        if (place / "questions.json").is_file():
            here = Path.cwd()
            return place.relative_to(here) if place.is_relative_to(here) else place
    raise FileNotFoundError(
        f"{places[-1]} has no questions.json: give the folder examples/handbook of a checkout with --corpus."
    )


def load_handbook(folder: Path | None = None) -> Handbook:
    """Read the documents, except the README, and the questions.

    Raises:
        FileNotFoundError: see `find_handbook`.
        ConfigError: questions.json is invalid.
    """
    from spec_rag.loaders.reading import read_files

    folder = find_handbook(folder)
    names = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    documents = read_files(names, within=[folder])
    try:
        entries = json.loads((folder / "questions.json").read_text(encoding="utf-8"))["questions"]
        questions = [
            Question(q["id"], q["kind"], q["question"], tuple(q["answers"]), tuple(q["sources"]), tuple(q["support"]))
            for q in entries
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'questions.json'} is damaged: {type(error).__name__} {error}.") from error
    return Handbook([chunk for document in documents for chunk in split_chunks(document)], questions)


def demo_questions(handbook: Handbook, ids: Sequence[str] = DEMO_QUESTIONS) -> list[Question]:
    """Questions by id.

    Raises:
        ConfigError: an id is unknown.
    """
    by_id = {question.id: question for question in handbook.questions}
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise ConfigError(f"The corpus has no question {missing[0]!r}; it has {', '.join(by_id) or 'none'}.")
    return [by_id[name] for name in ids]


def answer_question(
    pair: ModelPair,
    handbook: Handbook,
    question: Question,
    ratio: float = DEMO_RATIO,
    *,
    index: DocumentIndex | None = None,
    emit: Callable[[str], None] | None = None,
) -> DemoAnswer:
    """Retrieve, compress to `ratio` of the tokens, and answer."""
    chunks = retrieve(question.question, handbook.chunks, DEFAULT_TOP_K)
    answered = answer_from(
        pair,
        question.question,
        chunks,
        speckv=SpecKVConfig(max_capacity_prompt=DEFAULT_KV_CAPACITY),
        max_new_tokens=_MAX_NEW_TOKENS,
        index=index,
        emit=emit,
        ratio=ratio,
    )
    return DemoAnswer(
        question,
        answered,
        retrieved=_has_support(chunks, question),
        survived=_survives(answered.compression, question),
        correct=holds_answer(answered.answer.text, question.answers),
    )


def evaluate_handbook(
    ratios: Sequence[float] = (1 / 4, 1 / 8),
    answer: bool = True,
    *,
    pair: ModelPair | None = None,
    handbook: Handbook | None = None,
    kind: str = "single",
    tell: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compress, and optionally answer, all questions of a kind.

    Args:
        ratios: compression ratios.
        answer: also answer at the first ratio.
        pair: the models; None loads the default ones.
        handbook: the documents and questions; None loads those of the package.
        kind: "single" or "two".
        tell: called with a status line per question.
    """
    from spec_rag.compression.compress import compress
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.models.model_pair import ModelPair

    pair = pair or ModelPair.load()
    handbook = handbook or load_handbook()
    questions = [question for question in handbook.questions if question.kind == kind]
    index = DocumentIndex(storage="float32")
    survived = dict.fromkeys(ratios, 0)
    retrieved = 0
    answers: list[DemoAnswer] = []
    for number, question in enumerate(questions, 1):
        if tell is not None:
            tell(f"{number} of {len(questions)}: {question.question}")
        chunks = retrieve(question.question, handbook.chunks, DEFAULT_TOP_K)
        retrieved += _has_support(chunks, question)
        for i, ratio in enumerate(ratios):
            if answer and i == 0:
                answers.append(answer_question(pair, handbook, question, ratio, index=index))
                survived[ratio] += answers[-1].survived
            else:
                survived[ratio] += _survives(
                    compress(chunks, question.question, draft=pair, index=index, ratio=ratio, retrieval=False), question
                )
    correct = sum(row.correct for row in answers) if answer else None
    return Evaluation(len(questions), retrieved, survived, correct, answers)


def _has_support(chunks: Sequence[Chunk], question: Question) -> bool:
    return all(any(sentence in chunk.text for chunk in chunks) for sentence in question.support)


def _survives(compression: Compression, question: Question) -> bool:
    return any(holds_answer(document.text, question.answers) for document in compression.documents)
