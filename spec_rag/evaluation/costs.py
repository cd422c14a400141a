"""What compression costs: against one joint prefill of the same documents, and as the documents grow in number.

    python -m spec_rag.evaluation.costs ratios FILE.jsonl[.gz] ... [--questions N]
    python -m spec_rag.evaluation.costs growth [--documents 25,50,100] [--tokens 400]
    python -m spec_rag.evaluation.costs storage FILE.jsonl[.gz] [--questions N]

`ratios` times whole calls of `compress` and the draft's plain prefill of one prompt with all documents, in turn, on the
same questions. `growth` times `compress` over more and more generated documents and fits a line. `storage` says what
an index's precision costs in bytes and in answers. Prints Markdown. Seconds depend on the machine, ratios less so.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import torch

from spec_rag.compression import compress
from spec_rag.config import CompressionConfig
from spec_rag.document_index import DocumentIndex, StorageType
from spec_rag.documents import Document
from spec_rag.evaluation.questions import AnsweredQuestion, is_kept, question_file, read_questions
from spec_rag.generated_questions import generated_questions
from spec_rag.indexing import index_documents
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
    taken = [_taken(loaded, asked) for asked in [questions[0], *questions]][1:]  # the first question warms up
    lines = [f"| {len(questions)} questions | seconds | joint prefill is so many times slower |", "|---|---|---|"]
    for name in taken[0]:
        ratio = statistics.median(own["joint prefill"] / own[name] for own in taken)
        lines.append(f"| {name} | {statistics.median(own[name] for own in taken):.2f} | {ratio:.1f} |")
    return "\n".join(lines)


def _taken(loaded: LoadedModel, asked: AnsweredQuestion) -> dict[str, float]:
    """Seconds of each way on one question."""
    found = {"joint prefill": seconds(partial(joint_prefill, loaded, asked))}
    for name, likelihood in (("compress", False), ("compress with likelihood", True)):
        with tempfile.TemporaryDirectory() as folder:
            ask = partial(compress, asked.documents, asked.question, draft=loaded, ratio=0.25, likelihood=likelihood)
            filled = DocumentIndex(folder)
            found[f"{name}, nothing read before"] = seconds(partial(ask, index=filled))
            found[f"{name}, documents in memory"] = seconds(partial(ask, index=filled))
            found[f"{name}, documents on disk"] = seconds(partial(ask, index=DocumentIndex(folder)))
    return found


def storage(loaded: LoadedModel, questions: Sequence[AnsweredQuestion], part: int = 8) -> str:
    """Markdown, per precision of an index: bytes, answers kept at 1/part, and how often float32 keeps the same."""
    lines = [
        f"| {len(questions)} questions, 1/{part} kept | MiB per 1,000 tokens | answer kept | same text as float32 |",
        "|---|---|---|---|",
    ]
    exact: list[str] = []
    for precision in get_args(StorageType):
        kept, tokens, held = [], 0, 0
        for asked in questions:
            index = DocumentIndex(storage=precision)
            tokens += index_documents(asked.documents, loaded, index, CompressionConfig(likelihood=False)).tokens
            held += index.held_bytes
            ask = partial(compress, asked.documents, asked.question, draft=loaded, index=index)
            kept.append(ask(ratio=1 / part, likelihood=False).text)
        exact = exact or kept
        right = sum(is_kept(text, asked.answers) for text, asked in zip(kept, questions, strict=True))
        same = sum(one == other for one, other in zip(kept, exact, strict=True))
        share = right / len(questions)
        lines.append(f"| {precision} | {held / 2**20 / tokens * 1000:.1f} | {share:.3f} | {same} of {len(kept)} |")
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
    side_by_side.add_argument("files", type=question_file, nargs="+", metavar="FILE")
    side_by_side.add_argument("--questions", type=int, default=5)
    precision = commands.add_parser("storage", help="what an index's precision costs")
    precision.add_argument("files", type=question_file, nargs=1, metavar="FILE")
    precision.add_argument("--questions", type=int, default=40)
    more = commands.add_parser("growth", help="as documents grow in number")
    more.add_argument("--documents", default="25,50,75,100")
    more.add_argument("--tokens", type=int, default=400)
    given = parser.parse_args(arguments)
    loaded = load_model(given.draft)
    if given.command == "growth":
        print(growth(loaded, [int(n) for n in given.documents.split(",")], given.tokens))
        return
    measure = ratios if given.command == "ratios" else storage
    for path in given.files:
        print(f"\n{path.name}\n\n{measure(loaded, read_questions(path, given.questions))}", flush=True)


if __name__ == "__main__":
    main()
