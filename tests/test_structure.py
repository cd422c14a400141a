"""What each unit of a document is, what it needs, and how kept units are joined."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator

import pytest
from readings import words

from spec_rag.compression.packing import ScoredDocuments, select
from spec_rag.compression.path_match import match_paths
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.spans import original_spans
from spec_rag.text.structure.dialogue import speakers
from spec_rag.text.structure.outline import CONTENT, Structure
from spec_rag.text.structure.reader import read_structure

COMPOSE = "services:\n" + "".join(
    f"  {name}:\n    image: {image}\n    ports:\n      - {port}\n"
    for name, image, port in (("web", "nginx", 80), ("db", "postgres", 5432), ("cache", "redis", 6379))
)
SERVERS = {
    "servers": [{"name": n, "region": r, "cpu": c} for n, r, c in (("alpha", "north", 8), ("beta", "south", 16))]
}


def shown(text: str, piece: str) -> str:
    """The unit that contains a piece, behind what it needs, joined."""
    structure = read_structure(text)
    unit = next(i for i, (a, b) in enumerate(structure.spans) if piece in text[a:b] and structure.kinds[i] in CONTENT)
    return "\n".join(text[slice(*structure.spans[i])] for i in sorted([*structure.closure(unit), unit]))


@pytest.mark.parametrize(
    ("text", "piece", "expected"),
    [
        ("# Hire\n\n## Kayaks\n\nThe fee is 5 euros. It is low.\n", "low", "## Kayaks\nIt is low."),
        ("Hire\n====\n\nKayaks\n------\n\nThe fee is 5.\n", "fee", "Kayaks\n------\nThe fee is 5."),
        (
            "======\nHire\n======\n\nThe fee\nis 5 euros.\n\nEnd\n===\n\nBye now.",
            "fee",
            "======\nHire\n======\nThe fee\nis 5 euros.",
        ),
        ("<h2>Kayaks</h2><p>The fee is 5.</p><p>More.</p><h2>Tents</h2><p>It is 9.</p>", "9", "<h2>Tents\nIt is 9."),
        ("## A\n\n### Price\n\nIt is 1.\n\n## B\n\n### Price\n\nIt is 2.", "2", "## B\n### Price\nIt is 2."),
        ("Bring:\n\n- a tent\n- a lamp\n", "lamp", "Bring:\n- a lamp"),
        (
            "1. Goods go back within 14 days\n   unless made to order.\n2. Refunds\n   - by card: 3 days\n",
            "order",
            "1. Goods go back within 14 days\n   unless made to order.",
        ),
        ("1. Goods\n2. Refunds\n   - by card: 3 days\n", "card", "2. Refunds\n   - by card: 3 days"),
        ("| A | B |\n|---|---|\n| x | 1 |\n| y | 2 |", "y", "| A | B |\n|---|---|\n| y | 2 |"),
        ("sku,qty\nbolt,1\nnut,2\npin,3", "nut", "sku,qty\nnut,2"),
        ("name\tage\nAnn\t31\nBob\t44", "Bob", "name\tage\nBob\t44"),
        (
            "Model     Price\nAurora      399\nBorea       329\nCirrus      999\n",
            "Borea",
            "Model     Price\nBorea       329",
        ),
        (COMPOSE, "postgres", "services:\n  db:\n    image: postgres"),
        (COMPOSE, "5432", "services:\n  db:\n    ports:\n      - 5432"),
        (json.dumps(SERVERS, indent=1), "south", ' "servers": [\n   "name": "beta",\n   "region": "south",'),
        (json.dumps(SERVERS), "south", '"servers": [\n{"name": "beta", "region": "south", "cpu": 16}'),
        ("[a]\nx = 1\n\n[b]\nx = 2\n", "2", "[b]\nx = 2"),
        ('[[s]]\nname = "a"\nip = 1\n\n[[s]]\nname = "b"\nip = 2\n', "ip = 2", '[[s]]\nname = "b"\nip = 2'),
        ("name: Ann\nage: 31\n\nname: Bob\nage: 44\n", "44", "name: Bob\nage: 44"),
        ("---\ntitle: Guide\n---\n\n# Use\n\nTurn it on. Wait.", "Wait", "# Use\nWait."),
        ("Ann: We open at nine. Hi.\nBob: We close at ten. Go out.\nAnn: That is late for us.", "Go", "Bob:\n Go out."),
        (
            "Q: How long is it?\nA: It is long. It takes a day.\n\nQ: Is it hard?\nA: No, not very.",
            "day",
            "Q: How long is it?\nA:\nIt takes a day.",
        ),
        ("Start.\n\n```sh\nrun a\nrun b\n```\n\nEnd.", "run b", "```sh\nrun b\n```"),
        (
            "def f(a):\n    if a:\n        return 1\n    return 2\n\n\ndef g(b):\n    return 3\n",
            "return 2",
            "def f(a):\n    return 2",
        ),
        ("def f(a):\n    if a:\n        return 1\n    return 2\n", "if a", "def f(a):\n    if a:\n        return 1"),
        ("We saw it. He wrote:\n\n> It works\n> well here.\n", "works", "He wrote:\n> It works\n> well here."),
    ],
)
def test_a_unit_comes_with_what_it_needs(text: str, piece: str, expected: str) -> None:
    found = shown(text, piece)
    if "<" in text:
        found = found.replace("<p>", "").replace("</h2>", "")
    assert [line.strip() for line in found.split("\n")] == [line.strip() for line in expected.split("\n")]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Fenn left at 6 p.m. on Monday. She came back, e.g. by bus.\n\nThen, in 1871, it rained. Note: late.",
        "Paris, France\nand Rome, Italy, are old. They said: no.",
        "He counted (1) apples and (2) pears; then he slept.\nIt was 3:40 when A. Smith came.",
    ],
)
def test_prose_has_no_structure(text: str) -> None:
    structure = read_structure(text)
    assert structure.is_plain
    assert set(structure.kinds) == {"text"}


@pytest.mark.parametrize("crumb", ["---", "```", "}", "***", "Thank you.", "Best regards,", "Good morning everyone!"])
def test_separators_brackets_and_greetings_are_not_content(crumb: str) -> None:
    text = f"The ferry leaves at nine.\n\n{crumb}\n\nDogs travel free."
    structure = read_structure(text)
    for (start, end), kind in zip(structure.spans, structure.kinds, strict=True):
        assert (kind in CONTENT) is (text[start:end] != crumb)


def reading_of(question: str, texts: list[str | tuple[str, str]], preferred: str = "") -> ScoredDocuments:
    """Documents whose units score 0, or 1 where they contain `preferred`, before their paths are matched."""
    documents = [Document(t) if isinstance(t, str) else Document(t[1], t[0]) for t in texts]
    structures = [read_structure(document.text) for document in documents]
    own = [d.text[a:b] for d, s in zip(documents, structures, strict=True) for a, b in s.spans]
    import torch

    scores = torch.tensor([float(bool(preferred) and preferred in text) for text in own])
    paths = match_paths(question, documents, structures)
    units = [list(structure.spans) for structure in structures]
    return ScoredDocuments(
        documents,
        question,
        "none",
        units,
        [],
        paths.added_to(scores),
        torch.zeros(0),
        0.0,
        structures=structures,
        paths=paths,
    )


def kept(
    question: str, texts: list[str | tuple[str, str]], budget: int, preferred: str = "", **settings: object
) -> str:
    reading = reading_of(question, texts, preferred)
    found = select(reading, CompressionConfig.from_dict(settings), words, budget)
    return "\n\n".join(one.text for one in found if one.text)


def test_the_value_of_a_record_is_kept_under_its_own_name_or_not_at_all() -> None:
    for name, image in (("web", "nginx"), ("db", "postgres"), ("cache", "redis")):
        for budget in range(2, 20):
            text = kept(f"Which image does {name} use?", [COMPOSE], budget)
            assert f"{name}:" in text, "another record does not answer for the one that is asked for"
            assert all(other not in text for other in {"nginx", "postgres", "redis"} - {image})


def test_names_that_all_records_share_or_that_hold_another_name_do_not_exclude() -> None:
    text = "model,price\nAurora 2,60\nAurora 3,62\nBorea,45\n"
    table = read_structure(text)

    def rows(question: str) -> list[int]:
        return sorted(set(range(1, 4)) - match_paths(question, [Document(text)], [table]).excluded)

    assert rows("What does the Aurora 3 cost?") == [2]
    assert rows("Is the Borea or the Aurora 2 cheaper?") == [1, 3]
    assert rows("What is the cheapest oven?") == [1, 2, 3]


def test_equal_sentences_are_kept_where_title_or_heading_answers() -> None:
    price = "A ticket for an adult costs 14 crowns."
    texts: list[str | tuple[str, str]] = [(f"Prices {y}", f"{price} Dogs stay on a lead.") for y in (2023, 2024, 2025)]
    reading = reading_of("What does a ticket cost in 2024?", texts, "ticket")
    found = select(reading, CompressionConfig(), words, 9)
    assert ["14" in one.text for one in found] == [False, True, False]
    both = select(reading_of("What is the price in 2023 and in 2025?", texts, "ticket"), CompressionConfig(), words, 17)
    assert ["14" in one.text for one in both] == [True, False, True]
    hire = "# Hire\n\n## Boats\n\nThe fee is 5 euros.\n\n## Kayaks\n\nThe fee is 5 euros.\n\n## Tents\n\nFree."
    assert kept("What is the fee for kayaks?", [hire], 8, "fee") == "## Kayaks\n\nThe fee is 5 euros."


def test_sentences_that_differ_in_a_number_are_both_kept() -> None:
    texts: list[str | tuple[str, str]] = [f"A ticket for one adult costs {n} crowns." for n in (14, 15)]
    text = kept("What does a ticket cost?", texts, 16)
    assert "14" in text
    assert "15" in text


def test_pieces_of_different_places_are_joined_by_a_mark() -> None:
    text = "One is red. Two is blue. Three is red.\nFour is blue. Five is red."
    assert kept("?", [text], 11, "red") == "One is red. [...] Three is red. [...]\nFive is red."
    assert kept("?", [text], 9, "red", ellipsis="") == "One is red. Three is red.\nFive is red."


@pytest.mark.parametrize(
    ("text", "preferred", "expected"),
    [
        ("| A | B |\n|---|---|\n| x | 1 |\n| y | 2 |\n| z | 1 |", "1", "| A | B |\n|---|---|\n| x | 1 |\n| z | 1 |"),
        ("```py\na = 1\nb = 2\nc = 1\n```", "1", "```py\na = 1\n[...]\nc = 1\n```"),
        (json.dumps({"a": 1, "b": 2, "c": 1}, indent=0), "1", '"a": 1, [...]\n"c": 1'),
        ('{"a": 1,\n"b": 2}', "2", '"b": 2 [...]'),
    ],
)
def test_kept_parts_are_well_formed_or_marked_as_excerpts(text: str, preferred: str, expected: str) -> None:
    reading = reading_of("?", [text], preferred)
    config = CompressionConfig(threshold=0.5)
    found = select(reading, config, words, len(text))
    assert found[0].text == expected
    spans = original_spans(expected, found[0].spans, [(0, len(expected))])
    assert spans == [(a, b) for a, b in found[0].spans], "the places in the original are found again"


def test_structure_is_told_apart_counted_and_off_by_name() -> None:
    text = "## Kayaks\n\nThe fee is 5 euros.\n\n## Tents\n\nIt is 9 euros."
    reading = reading_of("?", [text], "9")
    one = select(reading, CompressionConfig(), words, 6)[0]
    assert one.reasons == [None, None, "structure", "score"]
    assert one.text == "## Tents\n\nIt is 9 euros."
    assert kept("?", [text], 6, "9", context="none") == "It is 9 euros."


def test_a_text_without_content_is_kept_by_its_headings() -> None:
    assert set(read_structure("# One\n\n# Two\n").kinds) == {"text"}
    assert Structure.plain([(0, 1)]).closure(0) == []


KINDS = {
    "markdown": "## Part {i}\n\nIt is {i}. It was old.\n\n- a {i}\n- b {i}\n\n",
    "table": "| {i} | a | b |\n",
    "csv": "{i},a,b\n",
    "aligned": "row {i}     a      b\n",
    "two columns": "a{i}  b\n",
    "yaml": "k{i}:\n  a: {i}\n  b:\n    - c\n",
    "ini": "[s{i}]\na = {i}\n",
    "json lines": '{{"a": {i}, "b": [1, 2]}}\n',
    "code": "def f{i}(a):\n    if a:\n        return {i}\n    return (a,\n        2)\n\n",
    "brackets": "f(\n",
    "quotes": 'x = """\n',
    "dialogue": "Ann: It is {i} o'clock now. Go.\nBob: No, it is not that late.\n",
    "questions": "Q: Is it {i}?\nA: It is {i}. It was.\n\n",
    "log": "2024-01-01 10:00:{i} INFO it is {i}\n  at x\n",
    "html": "<h2>H {i}</h2><p>It is {i}. It was.</p><table><tr><td>a</td></tr></table>\n",
    "fences": "```\na {i}\n```\n",
    "borders": "--- ---\n",
    "open cell": 'a,b,"c\n',
    "items": "- item {i}\n  goes on\n  - sub\n",
    "titles": "Title {i}\n\n",
}


@pytest.fixture
def without_collections() -> Iterator[None]:
    """No garbage collection: one over all objects of a test run takes longer than the reading."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_time_grows_with_the_length(kind: str, without_collections: None) -> None:
    def seconds(count: int) -> float:
        text = "".join(KINDS[kind].format(i=i) for i in range(count))
        read_structure.cache_clear()
        start = time.process_time()
        structure = read_structure(text)
        match_paths("What is part 7 of a?", [Document(text)], [structure])
        return time.process_time() - start

    small = max(min(seconds(150) for _ in range(3)), 0.02)
    assert min(seconds(1200) for _ in range(3)) < 24 * small, (
        "eight times the length; 64 times the time where it is quadratic"
    )


def test_names_that_speak_once_are_no_dialogue() -> None:
    turns = [f"{name}: It is open on Mondays." for name in ("Ann", "Bob", "Cid", "Ann", "Bob")]
    assert names_in(turns[:3]) == set()
    assert names_in(turns) == {"ann", "bob", "cid"}


def names_in(turns: list[str]) -> frozenset[str]:
    text, place, lines = "\n".join(turns), 0, []
    for turn in turns:
        lines.append((place, place + len(turn)))
        place += len(turn) + 1
    return speakers(text, lines)


def test_a_long_table_is_known_by_its_first_rows() -> None:
    rows = [f"part {i:02}     {i:02}     red" for i in range(22)] + [f"{i}  green  pear" for i in range(9)]
    assert list(read_structure("\n".join(["Part        Count  Colour", *rows, ""])).kinds) == ["header", *["row"] * 31]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (
            "<p>One.</p><script>a = 1;</script><p>Two.</p>",
            [("One.", "text"), ("a = 1;", "mark"), ("Two.", "text")],
        ),
        (
            "Open at these hours.\nMonday: 9 to 5\nFriday: closed\nIt is shut in May.",
            [
                ("Open at these hours.", "text"),
                ("Monday: 9 to 5", "field"),
                ("Friday: closed", "field"),
                ("It is shut in May.", "text"),
            ],
        ),
    ],
)
def test_each_part_of_a_text_is_a_unit_of_its_kind(text: str, units: list[tuple[str, str]]) -> None:
    structure = read_structure(text)
    assert [(text[a:b], kind) for (a, b), kind in zip(structure.spans, structure.kinds, strict=True)] == units
