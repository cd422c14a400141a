"""Embedder and scorer are the caller's code: they run while nobody holds the draft."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import tiny_pair

from spec_rag import Cancellation, Document, compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.features import Features
from spec_rag.compression.prefilter import select_candidates
from spec_rag.errors import CancelledError

TEXTS = [f"Hut {i} stands at mile {i}. Its stove burns oak." for i in range(6)]
QUESTION = "Which hut stands at mile 3?"
SECONDS = 30.0


@pytest.fixture
def draft() -> Draft:
    return Draft.of(tiny_pair())


def test_a_scorer_may_use_the_same_draft(draft: Draft) -> None:
    def scorer(question: str, texts: list[str]) -> list[float]:
        inner = compress(texts, question, draft=draft, ratio=0.5)
        return [float(len(document.text)) for document in inner.documents]

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(compress, TEXTS, QUESTION, draft=draft, ratio=0.5, scorer=scorer).result(SECONDS)
    assert found.text


def test_an_embedder_may_use_the_same_draft(draft: Draft) -> None:
    def embedder(texts: list[str]) -> list[list[float]]:
        with draft.lock.hold() as acquired:
            assert acquired
        return [[1.0, float(len(text))] for text in texts]

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(compress, TEXTS, QUESTION, draft=draft, ratio=0.5, embedder=embedder).result(SECONDS)
    assert found.text


@pytest.mark.parametrize("what", ["embedder", "scorer"])
def test_requests_wait_for_outside_scores_together(draft: Draft, what: str) -> None:
    together = threading.Barrier(4)  # opens when all four requests are inside the caller's code at once

    def embedder(texts: list[str]) -> list[list[float]]:
        together.wait(SECONDS)
        return [[1.0, float(len(text))] for text in texts]

    def scorer(question: str, texts: list[str]) -> list[float]:
        together.wait(SECONDS)
        return [float(len(text)) for text in texts]

    given: dict[str, Any] = {what: embedder if what == "embedder" else scorer}
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(compress, TEXTS, QUESTION, draft=draft, ratio=0.5, **given) for _ in range(4)]
        texts = [one.result(2 * SECONDS).text for one in running]
    assert len(set(texts)) == 1
    assert texts[0]


def test_the_draft_is_held_while_it_reads(draft: Draft) -> None:
    held: list[int] = []
    decoder = draft.model.get_decoder()
    decoder.layers[0].register_forward_pre_hook(lambda *_: held.append(draft.lock.waiting))
    compress(TEXTS, QUESTION, draft=draft, ratio=0.5)
    assert held
    assert all(held)


def test_a_request_that_was_cancelled_while_its_scorer_ran_does_not_read(draft: Draft) -> None:
    cancelled = Cancellation()

    def scorer(question: str, texts: list[str]) -> list[float]:
        cancelled.set()
        return [0.0] * len(texts)

    with pytest.raises(CancelledError):
        compress(TEXTS, QUESTION, draft=draft, ratio=0.5, scorer=scorer, cancelled=cancelled)
    assert draft.lock.waiting == 0


def test_choosing_passages_takes_a_few_steps_for_each() -> None:
    count = 1_000
    ranges = torch.stack([torch.arange(count) * 2, torch.arange(count) * 2 + 2], dim=1)
    numbers = torch.arange(count)
    known = Features(ranges, numbers, numbers, ranges, torch.zeros(1, 1, 0), retrieval=-numbers.float())
    steps = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += frame.f_code.co_filename == select_candidates.__code__.co_filename
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        every = select_candidates(known, 2 * count)
    finally:
        sys.settrace(before)
    assert every == list(range(count))
    assert steps < 20 * count, "quadratic work would take half a million steps"
    assert select_candidates(known, 2 * 501) == list(range(501))


def test_each_text_is_counted_once(draft: Draft) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text.split())

    for ratio in (0.4, 1.0):
        counted.clear()
        compress([Document(text) for text in TEXTS], QUESTION, draft=draft, ratio=ratio, count_with=count)
        assert len(counted) == len(set(counted))
        assert set(TEXTS) <= set(counted)
