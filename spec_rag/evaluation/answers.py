"""Share of questions that the target answers correctly, from all documents and from compressed ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spec_rag.answering.answer import answer_messages
from spec_rag.compression.compress import compress
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.evaluation.json_lines import append_lines, read_lines
from spec_rag.evaluation.kept import interval
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.generation.generate import generate
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig, SpecPCConfig
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.token_counting import token_counter
from spec_rag.utils.progress import steps

Answerer = Callable[[ModelPair, AnsweredQuestion], str]

_MAX_NEW_TOKENS = 40


def from_all_documents(pair: ModelPair, asked: AnsweredQuestion) -> str:
    """Answer from all documents."""
    return from_kept(1)(pair, asked)


def from_kept(part: int, index: DocumentIndex | None = None) -> Answerer:
    """Answer from compressed documents, 1/part of their tokens."""

    def answerer(pair: ModelPair, asked: AnsweredQuestion) -> str:
        kept = compress(asked.documents, asked.question, draft=pair, index=index, ratio=1 / part)
        return generate(pair, answer_messages(kept), max_new_tokens=_MAX_NEW_TOKENS).text

    return answerer


def from_budget(budget: float) -> Answerer:
    """The answer from documents compressed to a number of tokens, or, below 1, to a share.

    Raises:
        ConfigError: the budget is not above 0.
    """
    size: dict[str, Any] = {"ratio": budget} if budget < 1 else {"max_tokens": int(budget)}
    config = dict(CompressionConfig(**size))

    def answerer(pair: ModelPair, asked: AnsweredQuestion) -> str:
        kept = compress(asked.documents, asked.question, draft=pair, **config)
        return generate(pair, answer_messages(kept), max_new_tokens=_MAX_NEW_TOKENS).text

    return answerer


def from_paper(part: int) -> Answerer:
    """Answer from a prompt compressed by SpecPC; instruction and question are not counted (paper, section 4.2)."""

    def answerer(pair: ModelPair, asked: AnsweredQuestion) -> str:
        prompt = answer_messages(compress(asked.documents, asked.question, draft=pair, ratio=1))
        tokens = len(prompt_ids(pair.tokenizer, prompt))
        count = token_counter("draft", pair.require_tokenizer())
        documents = sum(count(document.text) for document in asked.documents)
        config = SpecPCConfig(max_capacity_prompt=max(tokens - documents + documents // part, 65))
        return generate(pair, prompt, specpc=config, max_new_tokens=_MAX_NEW_TOKENS).text

    return answerer


def answerers() -> dict[str, Answerer]:
    """The methods by name; the compressed ones share an index."""
    index = DocumentIndex(storage="float32")
    return {
        "all documents": from_all_documents,
        "paper, 1/4": from_paper(4),
        "paper, 1/8": from_paper(8),
        "default, 1/4": from_kept(4, index),
        "default, 1/8": from_kept(8, index),
    }


def right_answers(
    pair: ModelPair,
    questions: Sequence[AnsweredQuestion],
    by: Mapping[str, Answerer] | None = None,
    out: Path | None = None,
) -> dict[str, list[bool]]:
    """Per method, whether the target answers each question correctly (greedy, at most 40 tokens).

    Args:
        pair: draft and target.
        questions: with documents and answers.
        by: methods by name; None is all.
        out: JSON lines file of answers. An interrupted run continues from it. None writes nothing.

    Raises:
        UnreadableFileError: `out` is another kind of file.
        FileNotWrittenError: an answer cannot be written; earlier answers are kept.
    """
    by = answerers() if by is None else by
    earlier = {} if out is None else dict(read_lines(out, _parsed_answer))
    right: dict[str, list[bool]] = {name: [] for name in by}
    with steps("Answering", len(questions)) as done:
        for asked in questions:
            for name, answerer in by.items():
                answer = earlier.get((name, asked.question))
                if answer is None:
                    answer = answerer(pair, asked)
                    append_lines(out, [json.dumps({"method": name, "question": asked.question, "answer": answer})])
                right[name].append(holds_answer(answer, asked.answers))
            done()
    return right


def _parsed_answer(line: str) -> tuple[tuple[str, str], str]:
    record = json.loads(line)
    return (record["method"], record["question"]), record["answer"]


def right_table(right: Mapping[str, Sequence[bool]]) -> str:
    """Markdown table: the share of correct answers per method."""
    count = len(next(iter(right.values())))
    lines = [f"| target's answer right, {count} questions | share |", "|---|---|"]
    for name, hits in right.items():
        low, high = interval(hits)
        lines.append(f"| {name} | {sum(hits) / len(hits):.3f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)
