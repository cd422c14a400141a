"""Variants of keeping a part of the documents, to be compared on the same questions and budgets.

Every variant fills the same budgets: shares of the tokens of the documents' texts, as the draft counts them, or so many
tokens. This module does not know files or tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spec_rag.attention.token_selection import select_prompt_tokens
from spec_rag.compression.passages import frame, question_tokens
from spec_rag.compression.scoring import standardised
from spec_rag.evaluation.baselines import random_sentences, truncation
from spec_rag.evaluation.case import Case, Variant
from spec_rag.options.compression import SpecPCConfig
from spec_rag.text.documents import with_title
from spec_rag.text.words import word_overlap


def paper(case: Case) -> list[str]:
    """SpecPC as the paper has it: one prompt of all documents, single tokens, its smoothing and neighbours (4.2).

    The question is the window that is always kept; the budget goes to the documents' tokens.
    """
    tokenizer = case.draft.tokenizer
    body = [token for passage in case.passages for token in passage.ids]
    window = len(question_tokens(tokenizer, frame(tokenizer), case.asked.question).ids)
    texts = []
    for room in case.rooms:
        config = SpecPCConfig(window_size=window, max_capacity_prompt=window + room)
        kept = [i for i in select_prompt_tokens(case.joint, config).tolist() if i < len(body)]
        texts.append(str(tokenizer.decode([body[i] for i in kept])))
    return texts


def joint_sentences(case: Case) -> list[str]:
    """The paper's importance, the package's sentences."""
    return case.kept(case.reading(scoring="joint", title_links=False, calibration=None))


def word_matching(case: Case) -> list[str]:
    """Whole sentences by BM25 of title and sentence."""
    titled = [with_title(case.documents[d].title, text) for d, text in zip(case.owners, case.unit_texts, strict=True)]
    return case.whole(torch.tensor(word_overlap(case.asked.question, titled)))


def embedding(case: Case) -> list[str]:
    """Whole sentences by embedding similarity of sentence (with its title) and of document."""
    sentences, documents = case.embedded["units"], case.embedded["documents"][case.owners]
    return case.whole(standardised(sentences) + standardised(documents))


def settings(**changes: Any) -> Variant:
    """What `compress` keeps with settings changed."""
    return lambda case: case.kept(case.reading(**changes))


def embedded(case: Case) -> list[str]:
    """What `compress` keeps with an embedding model's similarities."""
    return case.kept(case.reading(embedded=True))


def with_retrieval(case: Case) -> list[str]:
    """What `compress` keeps with a dense retriever's scores of the documents."""
    return case.kept(case.reading(scores=case.embedded["documents"]))


def with_word_retrieval(case: Case) -> list[str]:
    """What `compress` keeps with BM25 scores of the documents."""
    titled = [with_title(document.title, document.text) for document in case.documents]
    return case.kept(case.reading(scores=torch.tensor(word_overlap(case.asked.question, titled))))


VARIANTS: Mapping[str, Variant] = {
    "paper": paper,
    "paper by sentence": joint_sentences,
    "BM25 sentences": word_matching,
    "random sentences": random_sentences,
    "truncation to the head": truncation(1),
    "truncation to the tail": truncation(0),
    "truncation of the middle": truncation(0.5),
    "default": settings(),
    "- links": settings(title_links=False),
    "- calibration": settings(calibration=None),
    "all passages asked": settings(cascade="never"),
    "words choose what is read": settings(cascade="always"),
    "+ BM25 document scores": with_word_retrieval,
}
EMBEDDED: Mapping[str, Variant] = {
    "embedding sentences": embedding,
    "+ embedded document scores": with_retrieval,
    "+ embedder": embedded,
}
