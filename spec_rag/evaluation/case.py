"""One question with its documents, budgets and cached draft results, as every variant receives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from spec_rag.compression.compress import keep, read_documents
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.embedding_similarity import similarities
from spec_rag.compression.encoding_cache import DocumentIndex, content_address
from spec_rag.compression.feature_sources import joint_importance
from spec_rag.compression.packing import ScoredDocuments
from spec_rag.compression.passages import split_passages
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import with_title
from spec_rag.text.token_counting import token_counter
from spec_rag.text.units import unit_spans
from spec_rag.utils.atomic_files import write_whole

PARTS = (4, 8, 16)
BUDGETS = tuple(Fraction(1, part) for part in PARTS)


def budget_tokens(budget: Fraction, tokens: int) -> int:
    """Tokens of a budget, at least one: a share of `tokens`, or, above 1, the budget itself."""
    return max(int(budget * tokens), 1) if budget <= 1 else int(budget)


@dataclass
class Case:
    """One question with its documents. Results of the draft and the embedder are computed once.

    Args:
        draft: the draft.
        asked: question and documents.
        embedder: as for `compress`, or None.
        with_titles: count titles and numbers as document tokens, as in a prompt "Document [1](Title: ...) ...".
        folder: cache of draft results between runs, or None. Use one folder per embedder and code version.
        budgets: shares or numbers of tokens.
        titled: put the title, which is not counted, before the kept text of each document.
    """

    draft: Draft
    asked: AnsweredQuestion
    embedder: Any = None
    folder: Path | None = None
    with_titles: bool = False
    budgets: Sequence[Fraction] = BUDGETS
    titled: bool = False

    def __post_init__(self) -> None:
        self.config = CompressionConfig(language=self.asked.language)
        self.documents = list(self.asked.documents)
        self.texts = [document.text for document in self.documents]
        self.units = [unit_spans(text, "sentence", self.asked.language) for text in self.texts]
        self.passages = split_passages(self.draft.tokenizer, self.documents, self.units)
        self.owners = [d for d, spans in enumerate(self.units) for _ in spans]
        self.unit_texts = [self.texts[d][a:b] for d, spans in enumerate(self.units) for a, b in spans]
        self.count = token_counter("draft", self.draft.tokenizer)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all documents."""
        if not self.with_titles:
            return sum(self.count(text) for text in self.texts)
        return sum(
            self.count(f"Document [{number}](Title: {document.title}) {document.text}\n")
            for number, document in enumerate(self.documents, start=1)
        )

    @property
    def rooms(self) -> list[int]:
        """Maximum tokens per budget."""
        return [budget_tokens(budget, self.tokens) for budget in self.budgets]

    @cached_property
    def index(self) -> DocumentIndex:
        """Cache of encoded passages, shared by the variants."""
        return DocumentIndex(self.folder / "passages" if self.folder else None, storage="float32")

    def reading(self, *, scores: Tensor | None = None, embedded: bool = False, **settings: Any) -> ScoredDocuments:
        """Score the documents as `compress` does.

        Args:
            scores: [documents] retrieval scores, or None.
            embedded: add the similarities of the embedder.
            **settings: fields of CompressionConfig.
        """
        documents = self.documents
        if scores is not None:
            documents = [replace(d, score=s) for d, s in zip(documents, scores.tolist(), strict=True)]
        config = CompressionConfig.from_dict({"language": self.asked.language, **settings})
        return read_documents(
            self.draft,
            documents,
            self.asked.question,
            config,
            index=self.index if config.scoring == "per_document" else None,
            embedder=self.embedder if embedded else None,
        )

    @cached_property
    def joint(self) -> Tensor:
        """Importance as in the paper. Shape: [tokens of passages and question]."""
        return self._cached(
            "joint", lambda: {"importance": joint_importance(self.draft, self.passages, self.asked.question)}
        )["importance"]

    @cached_property
    def embedded(self) -> dict[str, Tensor]:
        """Similarity of the question to each unit (with its title) and to each document."""
        assert self.embedder is not None

        def embed() -> dict[str, Tensor]:
            titles = [document.title for document in self.documents]
            units = [with_title(titles[d], text) for d, text in zip(self.owners, self.unit_texts, strict=True)]
            documents = [with_title(title, text) for title, text in zip(titles, self.texts, strict=True)]
            values = similarities(self.embedder, self.asked.question, [*units, *documents])
            return {"units": values[: len(units)], "documents": values[len(units) :]}

        return self._cached("embedded", embed)

    def kept(self, reading: ScoredDocuments) -> list[str]:
        """The text that `compress` keeps at each budget; "" if the best unit alone exceeds the budget."""
        texts = []
        for room in self.rooms:
            kept = keep(reading, self.config.changed(max_tokens=room), self.count)
            pieces = [(d, document.text) for d, document in enumerate(kept.documents)]
            text = self.joined(pieces) if self.titled else kept.text
            texts.append("" if kept.over_budget else text)
        return texts

    def joined(self, pieces: Iterable[tuple[int, str]]) -> str:
        """Join kept pieces, each with the index of its document."""
        if not self.titled:
            return "\n".join(text for _, text in pieces)
        texts = [(d, "\n".join(text for _, text in run)) for d, run in groupby(pieces, key=itemgetter(0))]
        return "\n\n".join(with_title(self.documents[d].title, text, ": ") for d, text in texts if text)

    def whole(self, scores: Tensor) -> list[str]:
        """Select units greedily by descending score; units that do not fit are skipped."""
        lengths = [self.count(text) for text in self.unit_texts]
        texts = []
        for room in self.rooms:
            chosen = []
            for i in scores.argsort(descending=True, stable=True).tolist():
                if lengths[i] <= room:
                    room -= lengths[i]
                    chosen.append(i)
            texts.append(self.joined((self.owners[i], self.unit_texts[i]) for i in sorted(chosen)))
        return texts

    def _cached(self, kind: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if self.folder is None:
            return make()
        content = [self.asked.question, *(part for d in self.documents for part in (d.title or "", d.text))]
        path = self.folder / f"{content_address(kind, self.draft.name, *content)}.safetensors"
        if path.exists():
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({name: value.contiguous() for name, value in tensors.items()}))
        return tensors


Variant = Callable[[Case], list[str]]
"""A selection method: returns the kept text per budget."""
