"""A document whose title is the question comes before others that repeat the question's words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_pair

from spec_rag import Document, ModelPair, compress
from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.compression.features import Features
from spec_rag.compression.scoring import prior_scores, unit_scores
from spec_rag.text.words import title_match

QUESTION = "How do I reset my password?"
ANSWER = Document("Open the settings and choose Security. Then follow the link in the mail.", title=QUESTION)
OTHERS = [
    Document(
        f"To reset a password is not hard, people ask how do I reset my password number {i}. My password, a password.",
        title=f"News of week {i}",
    )
    for i in range(9)
]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.mark.parametrize(
    "title",
    [
        "How do I reset my password?",
        "how do i reset my password",
        "HOW DO I RESET MY PASSWORD",
        "How do I reset my password? | Help centre",
        "FAQ: How do I reset my password?",
        "How to reset my password",
    ],
)
def test_a_title_that_states_the_question_matches(title: str) -> None:
    assert title_match(QUESTION, title) > 0.4
    assert title_match(f"Hello.\nHow can I help?\n{QUESTION}", title) > 0.4, "the last turn of a chat"


@pytest.mark.parametrize("title", [None, "", "—", "Password", "My account", "News of week 3", "How do I pay?"])
def test_a_title_that_only_shares_words_does_not_match(title: str | None) -> None:
    assert title_match(QUESTION, title) == 0.0


def test_titles_of_any_script_match() -> None:
    assert title_match("江湖是什么意思？", "江湖是什么意思") == 1.0
    assert title_match("Wie hoch ist die Gebühr?", "Wie hoch ist die GEBÜHR") == 1.0
    assert title_match("パスワードを変更する方法", "天気予報") == 0.0
    assert title_match("???", "???") == 0.0


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("settings", [{}, {"cascade": "always"}, {"cascade": "never"}, {"scoring": "joint"}], ids=str)
def test_the_titled_document_is_kept(pair: ModelPair, settings: dict[str, str], place: int) -> None:
    documents = [*OTHERS[:place], ANSWER, *OTHERS[place:]]
    found = compress(documents, QUESTION, draft=pair, max_tokens=80, **settings)
    assert ANSWER.text == found.documents[place].text


def test_the_titled_document_is_kept_where_scores_choose_what_is_read(pair: ModelPair) -> None:
    documents = [replace(one, score=1.0 - i / 10) for i, one in enumerate([*OTHERS, ANSWER])]
    found = compress(documents, QUESTION, draft=pair, max_tokens=80)
    assert not all(look.read for look in found.passages)
    assert found.documents[-1].text == ANSWER.text


def test_without_titles_nothing_changes_and_links_switch_them_off(pair: ModelPair) -> None:
    documents = [*OTHERS, ANSWER]
    settings = {"draft": pair, "max_tokens": 80, "calibration": None}  # scores, not probabilities
    on, off = (compress(documents, QUESTION, **settings, title_links=links) for links in (True, False))
    raised = [a.importance - b.importance for a, b in zip(on.documents[-1].units, off.documents[-1].units, strict=True)]
    assert min(raised) > 0
    bare = [Document(one.text) for one in documents]
    plain = [compress(bare, QUESTION, draft=pair, max_tokens=80, title_links=links) for links in (True, False)]
    assert plain[0].text == plain[1].text


def test_a_title_counts_for_every_unit_of_its_document() -> None:
    numbers = torch.tensor([0, 0, 1])
    ranges = torch.tensor([[0, 1], [1, 2], [2, 3]])
    signals = Features(ranges, numbers, numbers, ranges, torch.zeros(1, 1, 3), titles=torch.tensor([1.0, 1.0, 0.0]))
    raised = unit_scores(signals)
    assert raised[0] == raised[1] > raised[2]
    assert prior_scores(signals).argmin() == 2


def test_retrieval_of_chunks_finds_the_titled_document() -> None:
    chunks = [chunk for one in [*OTHERS, ANSWER] for chunk in split_chunks(one)]
    assert retrieve(QUESTION, chunks, top_k=3)[0].text == ANSWER.text
