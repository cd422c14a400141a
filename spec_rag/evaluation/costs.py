"""What compression costs: against one joint prefill of the same documents, and as the documents grow in number.

    python -m spec_rag.evaluation.costs ratios FILE.jsonl[.gz] ... [--questions N]
    python -m spec_rag.evaluation.costs growth [--documents 25,50,100] [--tokens 400]

`ratios` times whole calls of `compress` and the draft's plain prefill of one prompt with all documents, in turn, on the
same questions. `growth` times `compress` over more and more generated documents and fits a line. Prints Markdown.
Seconds depend on the machine, ratios less so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from spec_rag.compression import compress
from spec_rag.document_index import DocumentIndex
from spec_rag.documents import Document
from spec_rag.evaluation.questions import AnsweredQuestion, read_questions
from spec_rag.generated_questions import generated_questions
from spec_rag.models import DEFAULT_DRAFT, LoadedModel, load_model
from spec_rag.prompt import document_tokens, frame, question_tokens


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def joint_prefill(loaded: LoadedModel, asked: AnsweredQuestion) -> int:
    """Read instruction, documents and question as one prompt, filling a cache; returns the tokens of the prompt."""
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    layout = frame(tokenizer)
    body = [token for d in asked.documents for token in document_tokens(tokenizer, d.text, d.title).ids]
    ids = [*layout.head, *body, *question_tokens(tokenizer, layout, asked.question).ids]
    with torch.no_grad():
        loaded.model.get_decoder()(input_ids=torch.tensor([ids], device=loaded.model.device), use_cache=True)
    return len(ids)


def ratios(loaded: LoadedModel, questions: Sequence[AnsweredQuestion]) -> str:
    """Markdown: the median over questions of each way's seconds, and of the joint prefill's seconds over them."""
    rows: dict[str, list[float]] = {name: [] for name in ("joint", "cold", "query", "cold, all", "query, all")}
    for number, asked in enumerate([questions[0], *questions]):
        found = {}
        for suffix, likelihood in (("", False), (", all", True)):
            call = partial(
                compress,
                asked.documents,
                asked.question,
                draft=loaded,
                index=DocumentIndex(storage="float32"),
                ratio=0.25,
                likelihood=likelihood,
            )
            found["cold" + suffix] = seconds(call)
            found["query" + suffix] = seconds(call)
        found["joint"] = seconds(partial(joint_prefill, loaded, asked))
        if number:  # the first question was a warm-up
            for name, value in found.items():
                rows[name].append(value)
    labels = {
        "joint": "joint prefill",
        "cold": "compress, nothing read before",
        "query": "compress, documents in the index",
        "cold, all": "compress with likelihood, nothing read before",
        "query, all": "compress with likelihood, documents in the index",
    }
    lines = [f"| {len(questions)} questions | seconds | joint prefill is so many times slower |", "|---|---|---|"]
    for name, label in labels.items():
        ratio = statistics.median(joint / own for joint, own in zip(rows["joint"], rows[name], strict=True))
        lines.append(f"| {label} | {statistics.median(rows[name]):.2f} | {ratio:.1f} |")
    return "\n".join(lines)


def generated_documents(loaded: LoadedModel, count: int, tokens: int) -> list[Document]:
    """Documents of so many of the draft's tokens each, made of generated sentences."""
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    texts = (d.text for case in generated_questions(count, seed=1) for d in case.documents)
    documents = []
    for number in range(count):
        ids: list[int] = []
        while len(ids) < tokens:
            ids += tokenizer(next(texts) + " ", add_special_tokens=False)["input_ids"]
        documents.append(Document(str(tokenizer.decode(ids[:tokens])), title=f"Collection {number + 1}"))
    return documents


def growth(loaded: LoadedModel, counts: Sequence[int], tokens: int) -> str:
    """Markdown: seconds of `compress` over more and more documents (once; median of three), and a line's fit."""
    documents = generated_documents(loaded, max(counts), tokens)
    compress(documents[:2], "Where was the town founded?", draft=loaded, likelihood=False)
    cold: list[float] = []
    query: list[float] = []
    for count in counts:
        call = partial(
            compress,
            documents[:count],
            "Where was the town founded?",
            draft=loaded,
            index=DocumentIndex(storage="float32", memory_bytes=16 * 2**30),
            ratio=1 / 16,
            likelihood=False,
        )
        cold.append(seconds(call))
        query.append(statistics.median(seconds(call) for _ in range(3)))
    lines = [
        f"| documents of {tokens} tokens | " + " | ".join(map(str, counts)) + " | line through them | R² |",
        "|---|" + "---|" * (len(counts) + 2),
    ]
    for label, times in (("nothing read before, seconds", cold), ("in the index, seconds", query)):
        slope, start = statistics.linear_regression(counts, times)
        fit = statistics.correlation(counts, times) ** 2
        cells = " | ".join(f"{value:.2f}" for value in times)
        lines.append(f"| {label} | {cells} | {start:.2f} + {slope:.4f} n | {fit:.4f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", default=DEFAULT_DRAFT)
    commands = parser.add_subparsers(dest="command", required=True)
    side_by_side = commands.add_parser("ratios", help="against one joint prefill")
    side_by_side.add_argument("files", type=Path, nargs="+", metavar="FILE")
    side_by_side.add_argument("--questions", type=int, default=5)
    more = commands.add_parser("growth", help="as documents grow in number")
    more.add_argument("--documents", default="25,50,75,100")
    more.add_argument("--tokens", type=int, default=400)
    given = parser.parse_args(arguments)
    loaded = load_model(given.draft)
    if given.command == "growth":
        print(growth(loaded, [int(n) for n in given.documents.split(",")], given.tokens))
        return
    for path in given.files:
        print(f"\n{path.name}\n\n{ratios(loaded, read_questions(path, given.questions))}", flush=True)


if __name__ == "__main__":
    main()
