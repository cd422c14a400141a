"""A sentence that names another document's title, and what that is worth."""

from __future__ import annotations

import pytest
import torch

from spec_rag.compression.links import follow_links, title_links

TITLES = ["Tarn Lighthouse", "Odalys Fenn", "Ferry"]
UNITS = ["Its keeper is Odalys Fenn.", "It is white.", "She came from Tarn.", "It leaves at nine."]
DOCUMENTS = [0, 0, 1, 2]


def linked(titles: list[str | None], units: list[str], documents: list[int]) -> list[tuple[int, int]]:
    links = title_links(titles, units, documents)
    assert links is not None
    return [(u, d) for u, d in links.nonzero().tolist()]


def test_a_unit_names_the_document_whose_title_it_holds() -> None:
    assert linked(TITLES, UNITS, DOCUMENTS) == [(0, 1)]
    links = title_links(TITLES, UNITS, DOCUMENTS)
    assert links is not None
    assert links.shape == (4, 3)
    assert float(links[0, 1]) == pytest.approx(1.0)


def test_case_and_what_stands_in_brackets_do_not_matter() -> None:
    titles = ["Hut", "ODALYS Fenn (baker)", "Ferry"]
    assert linked(titles, ["odalys fenn came.", "Bread.", "It leaves."], [0, 1, 2]) == [(0, 1)]


def test_half_a_title_is_not_a_name_and_most_of_it_is() -> None:
    titles, documents = ["Hut", "Odalys Maria Fenn", "Ferry"], [0, 1, 2]
    assert linked(titles, ["Fenn was here.", "Bread.", "It leaves."], documents) == []
    links = title_links(titles, ["Odalys Fenn was here.", "Bread.", "Maria leaves. Maria."], documents)
    assert links is not None
    assert float(links[0, 1]) == pytest.approx(2 / 3)


def test_a_rare_word_of_a_title_says_more_than_a_frequent_one() -> None:
    titles = ["Hut", "Tarn Station", "Ferry", "Inn"]
    units = ["Leave at Tarn.", "It is old.", "A station is near.", "The station sleeps."]
    links = title_links(titles, units, [0, 1, 2, 3])
    assert links is not None
    assert 0.6 < float(links[0, 1]) < 1
    assert links[2, 1] == links[3, 1] == 0


def test_no_document_names_itself_or_its_namesake() -> None:
    assert linked(["Odalys Fenn", "Odalys Fenn", "Hut"], ["Odalys Fenn bakes."] * 2 + ["A hut."], [0, 1, 2]) == []


def test_a_word_that_all_documents_share_names_none() -> None:
    assert linked(["Hut", "Huts of Tarn", "Tarn"], ["Tarn one.", "Tarn two.", "Tarn three."], [0, 1, 2]) == []


def test_without_titles_or_with_one_document_there_is_nothing_to_name() -> None:
    assert title_links([None, None], ["a", "b"], [0, 1]) is None
    assert title_links(["Hut"], ["a"], [0]) is None


def test_a_link_is_worth_as_much_as_the_unit_it_comes_from() -> None:
    links = torch.zeros(4, 3)
    links[0, 1] = links[1, 2] = 1.0
    documents = torch.tensor(DOCUMENTS)
    found = follow_links(torch.tensor([2.0, 0.0, -1.0, -1.0]), links, documents)
    assert found[:2].tolist() == [2.0, 0.0]
    assert float(found[2]) == pytest.approx(1.0)  # named by the best unit: two more
    assert -1 < float(found[3]) < -0.8  # named by a poor one
    half = follow_links(torch.tensor([2.0, 0.0, -1.0, -1.0]), links / 2, documents)
    assert float(half[2]) == pytest.approx(0.0)
    assert follow_links(torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).tolist() == []
