"""Selection methods that are compared on the same questions and budgets: the package, the paper, and baselines."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any
from zlib import crc32

import torch

from spec_rag.attention.token_selection import select_prompt_tokens
from spec_rag.compression.passages import frame, question_tokens
from spec_rag.compression.scoring import standardised
from spec_rag.evaluation.case import Case, Variant
from spec_rag.options.compression import SpecPCConfig
from spec_rag.text.documents import with_title
from spec_rag.text.words import word_overlap


def paper(case: Case) -> list[str]:
    """SpecPC of the paper (section 4.2): one prompt of all documents, single tokens.

    The question is the window, which is always kept; the budget counts document tokens only.
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
    """Token importance of the paper, sentences as units."""
    return case.kept(case.reading(scoring="joint", title_links=False, calibration=None))


def word_matching(case: Case) -> list[str]:
    """Whole sentences ranked by BM25 of title and sentence."""
    titled = [with_title(case.documents[d].title, text) for d, text in zip(case.owners, case.unit_texts, strict=True)]
    return case.whole(torch.tensor(word_overlap(case.asked.question, titled)))


def embedding(case: Case) -> list[str]:
    """Whole sentences ranked by embedding similarity of sentence (with title) and document."""
    sentences, documents = case.embedded["units"], case.embedded["documents"][case.owners]
    return case.whole(standardised(sentences) + standardised(documents))


def settings(**changes: Any) -> Variant:
    """`compress` with changed settings."""
    return lambda case: case.kept(case.reading(**changes))


def embedded(case: Case) -> list[str]:
    """`compress` with the similarities of an embedder."""
    return case.kept(case.reading(embedded=True))


def with_retrieval(case: Case) -> list[str]:
    """`compress` with document scores of a dense retriever."""
    return case.kept(case.reading(scores=case.embedded["documents"]))


def with_word_retrieval(case: Case) -> list[str]:
    """`compress` with BM25 document scores."""
    titled = [with_title(document.title, document.text) for document in case.documents]
    return case.kept(case.reading(scores=torch.tensor(word_overlap(case.asked.question, titled))))


def truncation(head: float) -> Variant:
    """Keep the first and the last words of all documents.

    Args:
        head: share of the kept words that is taken from the start, 0 to 1.
    """

    def variant(case: Case) -> list[str]:
        words = [(d, *match.span()) for d, text in enumerate(case.texts) for match in re.finditer(r"\S+", text)]

        def pieces(kept: int) -> list[tuple[int, str]]:
            first = round(kept * head)
            runs = [
                list(run)
                for part in (words[:first], words[len(words) - (kept - first) :])
                for _, run in groupby(part, key=itemgetter(0))
            ]
            return [(run[0][0], case.texts[run[0][0]][run[0][1] : run[-1][2]]) for run in runs]

        def tokens(kept: int) -> int:
            return sum(case.count(text) for _, text in pieces(kept))

        sizes = range(1, len(words) + 1)
        return [case.joined(pieces(bisect_right(sizes, room, key=tokens))) for room in case.rooms]

    return variant


def random_sentences(case: Case) -> list[str]:
    """Random whole sentences, seeded by the question."""
    generator = torch.Generator().manual_seed(crc32(case.asked.question.encode()))
    return case.whole(torch.rand(len(case.unit_texts), generator=generator))


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
