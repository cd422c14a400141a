"""How often the target answers right from what is left: all documents, the paper's SpecPC, the package's default.

    python -m spec_rag.evaluation.answers FILE.jsonl[.gz] [--questions N] [--out RESULTS.jsonl]

Right means that one of the answers stands in what the target writes (best-subspan exact match), greedily, at most 40
tokens. Prints Markdown with 95% bootstrap intervals. With --out, an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spec_rag.answering import answer_messages
from spec_rag.compression import compress
from spec_rag.config import SpecPCConfig
from spec_rag.counting import token_counter
from spec_rag.document_index import DocumentIndex
from spec_rag.evaluation.multidoc import interval
from spec_rag.evaluation.questions import AnsweredQuestion, is_kept, question_file, read_questions
from spec_rag.generation import generate
from spec_rag.models import DEFAULT_DRAFT, ModelPair
from spec_rag.tokens import prompt_ids

MAX_NEW_TOKENS = 40
Way = Callable[[ModelPair, AnsweredQuestion], str]


def dense(pair: ModelPair, asked: AnsweredQuestion) -> str:
    """The answer from all documents."""
    return default(1)(pair, asked)


def default(part: int, index: DocumentIndex | None = None) -> Way:
    """The answer from what the package keeps of the documents, 1/part of their tokens."""

    def way(pair: ModelPair, asked: AnsweredQuestion) -> str:
        kept = compress(asked.documents, asked.question, draft=pair, index=index, ratio=1 / part)
        return generate(pair, answer_messages(kept), max_new_tokens=MAX_NEW_TOKENS).text

    return way


def paper(part: int) -> Way:
    """The answer from a prompt compressed by SpecPC: instruction and question count extra (paper, section 4.2)."""

    def way(pair: ModelPair, asked: AnsweredQuestion) -> str:
        prompt = answer_messages(compress(asked.documents, asked.question, draft=pair, ratio=1))
        tokens = len(prompt_ids(pair.tokenizer, prompt))
        count = token_counter("draft", pair.require_tokenizer())
        documents = sum(count(document.text) for document in asked.documents)
        config = SpecPCConfig(max_capacity_prompt=max(tokens - documents + documents // part, 65))
        return generate(pair, prompt, specpc=config, max_new_tokens=MAX_NEW_TOKENS).text

    return way


def all_ways() -> dict[str, Way]:
    """The ways by name; the default's read each document once."""
    index = DocumentIndex(storage="float32")
    return {
        "all documents": dense,
        "paper, 1/4": paper(4),
        "paper, 1/8": paper(8),
        "default, 1/4": default(4, index),
        "default, 1/8": default(8, index),
    }


def evaluate(
    pair: ModelPair,
    questions: Sequence[AnsweredQuestion],
    ways: Mapping[str, Way] | None = None,
    out: Path | None = None,
) -> dict[str, list[bool]]:
    """Per way, which questions the target answers right.

    Args:
        pair: draft and target.
        questions: with documents and answers.
        ways: by name; None takes all.
        out: file to which each answer is appended, and in which answers of an earlier run are looked up; or None.
    """
    from rich.console import Console
    from rich.progress import track

    ways = all_ways() if ways is None else ways
    known: dict[tuple[str, str], str] = {}
    if out is not None and out.exists():
        records = map(json.loads, out.read_text(encoding="utf-8").splitlines())
        known = {(record["way"], record["question"]): record["answer"] for record in records}
    right: dict[str, list[bool]] = {name: [] for name in ways}
    for asked in track(questions, "Answering", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        for name, way in ways.items():
            answer = known.get((name, asked.question))
            if answer is None:
                answer = way(pair, asked)
                if out is not None:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"way": name, "question": asked.question, "answer": answer}) + "\n")
            right[name].append(is_kept(answer, asked.answers))
    return right


def table(right: Mapping[str, Sequence[bool]]) -> str:
    """Markdown: the share of right answers of each way."""
    count = len(next(iter(right.values())))
    lines = [f"| target's answer right, {count} questions | share |", "|---|---|"]
    for name, hits in right.items():
        low, high = interval(hits)
        lines.append(f"| {name} | {sum(hits) / len(hits):.3f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=question_file)
    parser.add_argument("--questions", type=int, help="only the first so many")
    parser.add_argument("--draft", default=DEFAULT_DRAFT)
    parser.add_argument("--target", default=DEFAULT_DRAFT)
    parser.add_argument("--out", type=Path, help="where answers are kept")
    given = parser.parse_args(arguments)
    pair = ModelPair.load(given.draft, given.target)
    print(table(evaluate(pair, read_questions(given.file, given.questions), out=given.out)))


if __name__ == "__main__":
    main()
