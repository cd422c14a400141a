"""What needs no model: the first words, the last, or sentences by chance. This module does not know files or tables."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import groupby
from operator import itemgetter
from zlib import crc32

import torch

from spec_rag.evaluation.case import Case, Variant


def truncation(head: float) -> Variant:
    """The first words of all documents together and the last, what lies between dropped.

    Args:
        head: share of the kept words that are the first, 0 to 1.
    """

    def variant(case: Case) -> list[str]:
        words = [(d, *found.span()) for d, text in enumerate(case.texts) for found in re.finditer(r"\S+", text)]

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
    """Whole sentences drawn by chance; the same ones for the same question."""
    chance = torch.Generator().manual_seed(crc32(case.asked.question.encode()))
    return case.whole(torch.rand(len(case.unit_texts), generator=chance))
