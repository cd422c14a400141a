"""A sentence that names another document's title, and what that is worth."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from spec_rag.compression import title_links as module
from spec_rag.compression.title_links import follow_links, title_links
from spec_rag.text.words import words

TITLES = ["Tarn Lighthouse", "Odalys Fenn", "Ferry"]
UNITS = ["Its keeper is Odalys Fenn.", "It is white.", "She came from Tarn.", "It leaves at nine."]
DOCUMENTS = [0, 0, 1, 2]


@pytest.fixture(autouse=True)
def rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARE", 0.6)
    monkeypatch.setattr(module, "_SHARPNESS", 1.5)


def matrix(titles: list[str | None], units: list[str], documents: list[int], question: str = "") -> Tensor:
    """[units, documents]"""
    links = title_links(titles, units, documents, question)
    assert links is not None
    found = torch.zeros(len(units), len(titles))
    for unit, document, share in links.tolist():
        found[int(unit), int(document)] = share
    return found


def linked(titles: list[str | None], units: list[str], documents: list[int]) -> list[tuple[int, int]]:
    return [(u, d) for u, d in matrix(titles, units, documents).nonzero().tolist()]


def test_a_unit_names_the_document_whose_title_it_holds() -> None:
    assert linked(TITLES, UNITS, DOCUMENTS) == [(0, 1)]
    assert float(matrix(TITLES, UNITS, DOCUMENTS)[0, 1]) == pytest.approx(1.0)


def test_case_and_what_stands_in_brackets_do_not_matter() -> None:
    titles = ["Hut", "ODALYS Fenn (baker)", "Ferry"]
    assert linked(titles, ["odalys fenn came.", "Bread.", "It leaves."], [0, 1, 2]) == [(0, 1)]


def test_half_a_title_is_not_a_name_and_most_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    titles, documents = ["Hut", "Odalys Maria Fenn", "Ferry"], [0, 1, 2]
    assert linked(titles, ["Fenn was here.", "Bread.", "It leaves."], documents) == []
    monkeypatch.setattr(module, "_SMOOTHING", 0.0)
    links = matrix(titles, ["Odalys Fenn was here.", "Bread.", "Maria leaves. Maria."], documents)
    assert float(links[0, 1]) == pytest.approx(2 / 3)


def test_a_rare_word_of_a_title_says_more_than_a_frequent_one() -> None:
    titles = ["Hut", "Tarn Station", "Ferry", "Inn"]
    units = ["Leave at Tarn.", "It is old.", "A station is near.", "The station sleeps."]
    links = matrix(titles, units, [0, 1, 2, 3])
    assert 0.6 < float(links[0, 1]) < 1
    assert links[2, 1] == links[3, 1] == 0


def test_no_document_names_itself_or_its_namesake() -> None:
    assert linked(["Odalys Fenn", "Odalys Fenn", "Hut"], ["Odalys Fenn bakes."] * 2 + ["A hut."], [0, 1, 2]) == []


def test_a_word_that_all_documents_share_names_none_where_it_weighs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str | None] = ["Hut", "Huts of Tarn", "Tarn"]
    units = ["Tarn one.", "Tarn two.", "Tarn three."]
    assert not matrix(titles, units, [0, 1, 2])[:, 1].any()
    monkeypatch.setattr(module, "_SMOOTHING", 0.0)
    assert not matrix(titles, units, [0, 1, 2]).any()


def test_of_two_documents_one_can_name_the_other() -> None:
    assert linked(["Bakery", "Odalys Fenn"], ["Odalys Fenn bakes.", "She came from Vell."], [0, 1]) == [(0, 1)]


def test_a_title_that_the_question_names_is_no_news() -> None:
    assert not matrix(TITLES, UNITS, DOCUMENTS, "Who is Odalys Fenn?").any()
    half = matrix(TITLES, UNITS, DOCUMENTS, "Who is Fenn?")
    assert float(half[0, 1]) == pytest.approx(0.5)


def test_looking_up_the_telling_words_alone_finds_every_link() -> None:
    generator = random.Random(0)
    vocabulary = [f"w{i}" for i in range(9)]
    for _ in range(200):
        names, units = (
            [" ".join(generator.choices(vocabulary, k=generator.randint(1, 4))) for _ in range(count)]
            for count in (5, 12)
        )
        titles: list[str | None] = [*names]
        documents = [generator.randrange(5) for _ in units]
        held = [{*words(titles[d] or "")} for d in range(5)]
        for unit, d in zip(units, documents, strict=True):
            held[d] |= {*words(unit)}
        weight = {w: math.log(5.5 / sum(w in own for own in held)) for own in held for w in own}
        found = matrix(titles, units, documents)
        for u, unit in enumerate(units):
            for d, title in enumerate(titles):
                name = {*words(title or "")}
                share = sum(weight[w] for w in name & {*words(unit)}) / sum(weight[w] for w in name)
                expected = share if share >= 0.6 - 1e-9 and titles[documents[u]] != title else 0.0
                assert float(found[u, d]) == pytest.approx(expected, abs=1e-5)


def test_without_titles_or_with_one_document_there_is_nothing_to_name() -> None:
    assert title_links([None, None], ["a", "b"], [0, 1], "") is None
    assert title_links(["Hut"], ["a"], [0], "") is None


def test_a_link_is_worth_as_much_as_the_unit_it_comes_from() -> None:
    links = torch.tensor([[0.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    documents = torch.tensor(DOCUMENTS)
    found = follow_links(torch.tensor([2.0, 0.0, -1.0, -1.0]), links, documents, 2.0, 1.0)
    assert found[:2].tolist() == [2.0, 0.0]
    assert float(found[2]) == pytest.approx(1.0)  # named by the best unit: two more
    assert -1 < float(found[3]) < -0.8  # named by a poor one
    halved = links * torch.tensor([1.0, 1.0, 0.5])
    half = follow_links(torch.tensor([2.0, 0.0, -1.0, -1.0]), halved, documents, 2.0, 1.0)
    assert float(half[2]) == pytest.approx(0.0)
    assert follow_links(torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2.0, 1.0).tolist() == []


def test_several_links_to_a_document_raise_it_by_the_best_of_them_alone() -> None:
    documents = torch.tensor([0, 0, 0, 1])
    scores = torch.tensor([2.0, 2.0, 2.0, -1.0])
    one = follow_links(scores, torch.tensor([[0.0, 1.0, 1.0]]), documents, 2.0, 1.0)
    three = follow_links(scores, torch.tensor([[u, 1.0, 1.0] for u in (0.0, 1.0, 2.0)]), documents, 2.0, 1.0)
    assert three.tolist() == one.tolist() == [2.0, 2.0, 2.0, 1.0]
    weaker = follow_links(
        scores, torch.tensor([[0.0, 1.0, 0.6], [1.0, 1.0, 1.0], [2.0, 1.0, 0.6]]), documents, 2.0, 1.0
    )
    assert weaker.tolist() == one.tolist()


def test_a_title_is_named_from_the_least_share_on(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str | None] = ["Hut", "Odalys Maria Fenn", "Ferry"]
    units = ["Odalys Fenn was here.", "Bread.", "It leaves. Maria."]
    monkeypatch.setattr(module, "_SHARE", 0.1)
    share = float(matrix(titles, units, [0, 1, 2])[0, 1])
    assert 0.5 < share < 1
    for least, expected in ((share - 1e-6, share), (share + 1e-6, 0.0)):
        monkeypatch.setattr(module, "_SHARE", least)
        assert float(matrix(titles, units, [0, 1, 2])[0, 1]) == pytest.approx(expected)
