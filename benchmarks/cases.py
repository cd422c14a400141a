"""One example of a task: documents, a question, and what counts as a right answer, of whatever origin.

This module does not know how examples are made, or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from benchmarks import longbench_metrics
from spec_rag.evaluation import metrics
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document
from spec_rag.text.prompts import Chat

Metric = Literal["all", "any", "f1", "rouge_l", "classification", "edit_similarity", "count", "retrieval"]

_INSTRUCTION = "Answer the question in one short sentence, using only the given text."


@dataclass(frozen=True)
class LongCase:
    """One long prompt with a known answer.

    Attributes:
        task: its name.
        documents: what has to be read; a single one unless questions are asked over several.
        question: what is asked of it, the instruction included.
        answer_start: how the answer begins; a part of the prompt.
        answers: what has to be found.
        metric: "all": each answer counts alike; "any": one of them is enough; or one of those that measure an answer
            against what people wrote.
        tokens: of the prompt.
        max_new_tokens: an answer may take so many.
        instruction: the system's turn.
        label: stands before the question in the prompt.
        classes: of a classification, all there are.
        first_line_only: nothing behind the first line of an answer counts.
        language: of the documents, as ISO 639-1 code.
    """

    task: str
    documents: tuple[Document, ...]
    question: str
    answer_start: str
    answers: tuple[str, ...]
    metric: Metric = "all"
    tokens: int = 0
    max_new_tokens: int = 48
    instruction: str = _INSTRUCTION
    label: str = "Question: "
    classes: tuple[str, ...] = ()
    first_line_only: bool = False
    language: str = "en"

    @property
    def prompt(self) -> str:
        """Documents, question and the beginning of the answer."""
        texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in self.documents]
        return "\n\n".join([*texts, f"{self.label}{self.question}", self.answer_start])

    @property
    def asked(self) -> AnsweredQuestion:
        """The case as methods that keep text are asked."""
        return AnsweredQuestion(self.question, self.answers, self.documents, self.language)

    @property
    def address(self) -> str:
        """A short name of all that is asked and read: another one for other content."""
        documents = [part for d in self.documents for part in (d.title or "", d.text)]
        parts = [self.task, self.question, self.answer_start, self.instruction, self.metric, *self.answers, *documents]
        return sha256("\0".join(parts).encode()).hexdigest()[:16]

    def chat(self, text: str | None = None) -> Chat:
        """The chat from which a model answers: what was kept of the documents, or all of them, then the question."""
        if text is None:
            text = "\n\n".join(f"{d.title}: {d.text}" if d.title else d.text for d in self.documents)
        content = f"{text}\n\n{self.label}{self.question}"
        turns = [{"role": "system", "content": self.instruction}, {"role": "user", "content": content}]
        return Chat(turns, assistant_prefix=self.answer_start)

    def score(self, text: str) -> float:
        """How right an answer is, or for "all" and "any" also what was kept; 0 to 1."""
        if self.first_line_only:
            text = text.lstrip("\n").split("\n")[0]
        return _SCORES[self.metric](text, self)


def question_case(asked: AnsweredQuestion, task: str, metric: Metric = "any") -> LongCase:
    """A question over documents as a case."""
    given = tuple(asked.documents), asked.question, "", tuple(asked.answers)
    return LongCase(task, *given, metric, max_new_tokens=32, language=asked.language)


def f1(text: str, answer: str) -> float:
    """Harmonic mean of word precision and recall after normalisation (SQuAD; Rajpurkar et al. 2016)."""
    words, expected = metrics.normalised(text).split(), metrics.normalised(answer).split()
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def _best(measure: Callable[[str, str], float]) -> Callable[[str, LongCase], float]:
    return lambda text, case: max((measure(text, answer) for answer in case.answers), default=0.0)


def _all(text: str, case: LongCase) -> float:
    return sum(metrics.holds_answer(text, [answer]) for answer in case.answers) / len(case.answers)


def _any(text: str, case: LongCase) -> float:
    return float(metrics.holds_answer(text, case.answers))


def _classified(text: str, case: LongCase) -> float:
    return max((longbench_metrics.classification(text, answer, case.classes) for answer in case.answers), default=0.0)


_SCORES: Mapping[Metric, Callable[[str, LongCase], float]] = {
    "all": _all,
    "any": _any,
    "f1": _best(f1),
    "rouge_l": _best(longbench_metrics.rouge_l),
    "classification": _classified,
    "edit_similarity": _best(longbench_metrics.edit_similarity),
    "count": _best(longbench_metrics.numbers_right),
    "retrieval": _best(longbench_metrics.paragraph_right),
}


def best_f1(text: str, answers: Sequence[str]) -> float:
    """F1 of the words with the nearest of the answers, 0 to 1."""
    return max((f1(text, answer) for answer in answers), default=0.0)


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where a text is one of the answers, after the usual normalisation, else 0."""
    return float(metrics.normalised(text) in [metrics.normalised(answer) for answer in answers])
