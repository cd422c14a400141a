"""What is promised about the kept text beside the score: what is held, what comes along, what must go."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from readings import reading_of, words
from tiny import tiny_pair

from spec_rag import Document, compress
from spec_rag.compression.packing import ScoredDocuments, select
from spec_rag.errors import BudgetTooSmallError, ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.patterns import PATTERNS, inline_flags, named_spans
from spec_rag.text.units import unit_spans

BAKERY = "Bread is warm. The oven came in 1871. She said “bake it slowly.” Order BK-204 is late. Snow fell. It ended."
HARBOUR = "Boats are blue. Tickets cost 4 crowns. Gulls scream. Dogs travel free. The pier is old. Waves break."
TEXTS = [BAKERY, HARBOUR]
SCORES = [0.5, -1.0, -0.9, -0.8, 2.0, -0.2, 0.3, -0.6, 1.5, -0.3, 0.1, -1.2]


def kept(budget: int, texts: list[str] = TEXTS, scores: list[float] = SCORES, **settings: Any) -> dict[str, str]:
    """Kept units and why."""
    reading = reading_of(texts, scores, settings.get("unit", "sentence"))
    found = select(reading, CompressionConfig(**{"ellipsis": "", **settings}), words, budget)
    return {
        texts[d][a:b]: reason
        for d, one in enumerate(found)
        for (a, b), reason in zip(reading.units[d], one.reasons, strict=True)
        if reason
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("numbers", "1. It cost $4.50 [3], 3,000 crowns or 28km in 1871.[12]", ["4.50", "3", "3,000", "28", "1871"]),
        ("numbers", "COVID-19 and the A380 of room B2 are none", []),
        ("dates", "On 3 May 1871 or May 4th, 1872 or 2024-05-03", ["3 May 1871", "May 4th, 1872", "2024-05-03"]),
        (
            "dates",
            "am 3. März 1871, le 14 juillet 1789, 2024年5月3日",
            ["3. März 1871", "14 juillet 1789", "2024年5月3日"],
        ),
        ("dates", "It was in 1871, she may come, 1500 people", ["in 1871"]),
        ("identifiers", "COVID-19, ISO 9001, BK-204 and A380", ["COVID-19", "ISO 9001", "BK-204", "A380"]),
        ("identifiers", "run_it() on /usr/lib/x.so v1.2.3 a@b.org", ["run_it", "/usr/lib/x.so", "v1.2.3", "a@b.org"]),
        ("identifiers", "The 3rd of 28km in the 1990s was 4.50 or McDonald", []),
        ("quotes", '“It is.” and "so be it" and «oui, oui» but don\'t', ["“It is.”", '"so be it"', "«oui, oui»"]),
        ("quotes", 'a 5" pipe and the dogs\' 6" bowl', []),
    ],
)
def test_what_is_found_under_a_name(name: str, text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in named_spans(text, name)] == expected


@pytest.mark.parametrize("name", PATTERNS)
def test_names_are_looked_for_in_linear_time_also_in_hostile_text(name: str) -> None:
    for hostile in ('"' + "a" * 20_000, "“" * 20_000, "a." * 20_000, "1" * 20_000, "a_" * 9_000, "/a" * 9_000):
        named_spans(hostile, name)  # a quadratic expression would take minutes


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("numbers", {"The oven came in 1871.", "Tickets cost 4 crowns."}),
        ("dates", {"The oven came in 1871."}),
        ("identifiers", {"Order BK-204 is late."}),
        ("quotes", {"She said “bake it slowly.”"}),
        (r"(?i)^gulls", {"Gulls scream."}),
        (re.compile("waves", re.IGNORECASE), {"Waves break."}),
        (lambda text: "pier" in text, {"The pier is old."}),
        (["quotes", "^Snow"], {"She said “bake it slowly.”", "Snow fell."}),
    ],
)
def test_what_keep_matches_stays_whatever_it_scores(keep: Any, expected: set[str]) -> None:
    found = kept(14, keep=keep)
    assert {unit for unit, reason in found.items() if reason == "keep"} == expected
    assert "score" in found.values()


def test_first_and_last_units_of_each_document_stay() -> None:
    found = kept(16, keep_first=1, keep_last=2)
    assert {unit for unit, why in found.items() if why == "first"} == {"Bread is warm.", "Boats are blue."}
    assert {unit for unit, why in found.items() if why == "last"} == {
        *("Snow fell.", "It ended."),
        *("The pier is old.", "Waves break."),
    }


def test_a_quotation_over_two_sentences_is_held_whole() -> None:
    texts = ["It rained. He said “Go home now.\n\nCome back later.” We slept."]
    assert len(unit_spans(texts[0], "sentence")) == 4
    found = kept(8, texts, [1.0, -1.0, -1.0, 0.0], keep="quotes")
    assert found == {"He said “Go home now.": "keep", "Come back later.”": "keep"}


def test_a_single_word_that_is_held_keeps_no_more_than_itself() -> None:
    found = kept(3, ["Snow fell in 1871 again"], [0.3, 0.2, 0.1, 0.0, 0.5], unit="token", keep="numbers")
    assert found == {"1871": "keep", "again": "score", "Snow": "score"}


def test_neighbours_join_a_kept_unit_nearest_first_as_far_as_they_fit() -> None:
    assert list(kept(2)) == ["Snow fell."]
    assert kept(4, context_after=2, threshold=1) == {"Snow fell.": "score", "It ended.": "context"}
    assert kept(8, context_before=1, context_after=1, threshold=2) == {
        "Order BK-204 is late.": "context",
        "Snow fell.": "score",
        "It ended.": "context",
    }
    far = kept(6, context_before=3, threshold=1)
    assert far["Order BK-204 is late."] == "context"
    assert "She said “bake it slowly.”" not in far, "the nearest comes first, and the next does not fit"


def test_held_units_bring_their_neighbours_too_and_neighbours_bring_none() -> None:
    found = kept(9, keep="identifiers", context_after=1, threshold=9)
    assert found == {"Order BK-204 is late.": "keep", "Snow fell.": "context"}


def test_below_the_threshold_units_are_dropped_though_there_is_room() -> None:
    found = kept(1000, threshold=0.4)
    assert list(found) == ["Bread is warm.", "Snow fell.", "Gulls scream."]
    assert kept(1000, threshold=9) == {}
    assert kept(1000, threshold=9, keep_last=1) == {"It ended.": "last", "Waves break.": "last"}
    assert sum(map(words, kept(1000, threshold=9, min_tokens=5))) >= 5


def test_a_floor_keeps_the_best_units_of_a_document_that_would_get_nothing() -> None:
    texts, scores = [BAKERY, HARBOUR], [5.0 + s for s in SCORES[:6]] + SCORES[6:]
    assert not any(unit in HARBOUR for unit in kept(8, texts, scores))
    found = kept(12, texts, scores, document_min_tokens=4)
    assert {unit: why for unit, why in found.items() if unit in HARBOUR} == {
        "Boats are blue.": "floor",
        "Gulls scream.": "floor",
    }


def test_a_cap_leaves_room_for_other_documents() -> None:
    texts, scores = [BAKERY, HARBOUR], [5.0 + s for s in SCORES[:6]] + SCORES[6:]
    found = select(reading_of(texts, scores), CompressionConfig(document_max_tokens=7), words, 14)
    assert [words(one.text) <= 7 for one in found] == [True, True]
    assert all(one.text for one in found)


@pytest.mark.parametrize(
    ("settings", "budget", "message"),
    [
        ({"keep": "numbers", "keep_first": 2}, 9, "keep=('numbers',) and keep_first=2 needs 15 tokens of 2 documents"),
        ({"keep_last": 3}, 5, "the budget allows 5: raise max_tokens or ratio"),
        ({"keep_first": 6, "document_max_tokens": 10}, 30, "document_max_tokens=10 allows 10"),
        ({"document_min_tokens": 8}, 9, "document_min_tokens=8 needs"),
        ({"document_min_tokens": 8, "keep_first": 1}, 9, "document_min_tokens=8 beside keep_first=1 needs"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_it_needs(settings: dict[str, Any], budget: int, message: str) -> None:
    with pytest.raises(BudgetTooSmallError) as caught:
        kept(budget, **settings)
    assert message in str(caught.value)
    needed = int(re.search(r"needs (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    if "document_max_tokens" not in settings:
        assert kept(needed, **settings), "exactly what is said to be needed is enough"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": "number"}, "did you mean 'numbers'"),
        ({"keep": "(unclosed"}, "no regular expression"),
        ({"keep": ".*"}, "matches everything"),
        ({"keep": 3}, "keep=3"),
        ({"keep": (None,)}, "keep=None"),
        ({"keep": re.compile(b"x")}, "bytes"),
        ({"keep_first": -1}, "keep_first=-1"),
        ({"context_after": 1.5}, "context_after=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"threshold": True}, "threshold=True"),
        ({"document_max_tokens": 0}, "document_max_tokens=0"),
        ({"document_min_tokens": 9, "document_max_tokens": 8}, "document_min_tokens=9 is above document_max_tokens=8"),
        ({"order": "best"}, "order='best'"),
    ],
)
def test_a_bad_promise_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompressionConfig(**settings)


def test_a_function_that_does_not_answer_yes_or_no_is_named() -> None:
    def shouts(text: str) -> str:
        return text.upper()

    with pytest.raises(ConfigError, match="keep=shouts returned 'BREAD"):
        kept(20, keep=shouts)


def test_a_repeated_sentence_is_held_and_paid_for_once_where_it_stands_first() -> None:
    again = "The mule carried the lens up in 1871."
    texts = [f"{again} Snow fell.", f"Waves break. {again}", again]
    found = select(reading_of(texts, [0.0, 1.0, 0.5, 0.0, 0.0]), CompressionConfig(keep="dates"), words, 10)
    assert [one.text for one in found] == [texts[0], "", ""]
    assert found[0].reasons == ["keep", "score"]


def random_case(seed: int) -> tuple[ScoredDocuments, list[str], dict[str, Any]]:
    """Documents of random sentences with random scores, and random promises."""
    rng = random.Random(seed)
    vocabulary = ["snow", "1871", "gulls", "BK-7", "pier", "oven", "“so it is”", "old", "the", "lens"]
    texts = [
        " ".join(
            f"Unit{d}x{i} {' '.join(rng.choices(vocabulary, k=rng.randint(0, 9)))}." for i in range(rng.randint(0, 9))
        )
        for d in range(rng.randint(1, 6))
    ]
    units = sum(len(unit_spans(text, "sentence")) for text in texts)
    settings: dict[str, Any] = {
        "keep": rng.sample(["numbers", "identifiers", "quotes", "gulls"], rng.randint(0, 2)),
        "keep_first": rng.choice([0, 0, 1, 2]),
        "keep_last": rng.choice([0, 0, 1]),
        "context_before": rng.choice([0, 1, 2]),
        "context_after": rng.choice([0, 1, 2]),
        "threshold": rng.choice([None, None, 0.0, 0.5]),
        "document_min_tokens": rng.choice([0, 0, 5]),
        "document_max_tokens": rng.choice([None, None, 40, 60]),
        "ellipsis": rng.choice(["", " [ … ] "]),
        "cut_units": rng.random() < 0.3,
    }
    return reading_of(texts, [rng.gauss(0, 1) for _ in range(units)]), texts, settings


@pytest.mark.parametrize("seed", range(150))
def test_promises_hold_together_for_every_budget_that_has_room_for_them(seed: int) -> None:
    reading, texts, settings = random_case(seed)
    config = CompressionConfig(**settings)
    held: list[set[int]] = []
    for budget in range(0, 140, 7):
        try:
            found = select(reading, config, words, budget)
        except BudgetTooSmallError:
            assert not held, "what fitted a smaller budget fits a larger one, too"
            continue
        reasons = [reason for one in found for reason in one.reasons]
        best = int(reading.scores.argmax()) if len(reading.scores) else -1  # type: ignore[union-attr, arg-type]
        is_best_alone = [i for i, why in enumerate(reasons) if why] == [best]
        assert sum(words(one.text) for one in found) <= budget or is_best_alone
        held.append({i for i, why in enumerate(reasons) if why in ("keep", "first", "last", "floor")})
        assert held[-1] == held[0], "a larger budget loses nothing that is held"
        for one, text, own in zip(found, texts, reading.units, strict=True):
            if config.document_max_tokens is not None:
                assert words(one.text) <= config.document_max_tokens or is_best_alone
            for (a, b), why in zip(own, one.reasons, strict=True):
                inside = any(s < b and a < e for s, e in one.spans)
                assert inside == (why is not None), "each unit that is kept says why, and no other"
                if why not in (None, "cut"):
                    assert text[a:b] in one.text
                if any(s < b and a < e for k in config.keep for s, e in named_or(text, k)) and not config.cut_units:
                    assert why == "keep" or config.unit != "sentence"
            reachable = min(config.document_min_tokens, words(text))
            if config.document_max_tokens is None:
                assert words(one.text) >= reachable
        if config.threshold is not None:
            below = [i for i, s in enumerate(reading.scores.tolist()) if s < config.threshold]  # type: ignore[union-attr]
            assert all(reasons[i] in (None, "keep", "first", "last", "floor", "context") for i in below)


def named_or(text: str, keep: Any) -> list[tuple[int, int]]:
    return named_spans(text, keep) if keep in PATTERNS else [match.span() for match in re.finditer(keep, text)]


LAMP = "The lighthouse was built in 1871. Its lamp is visible for 28 kilometres. Dr. Vane lit it first. It is white."
FERRY = "The ferry leaves at 9:40 from pier three. Tickets cost four crowns. Dogs travel free of charge."


def test_a_compression_says_why_each_unit_stayed() -> None:
    result = compress([LAMP, FERRY], "Who lit it?", draft=tiny_pair(), ratio=0.75, keep="dates", keep_last=1)
    why = {d.original_text[u.start : u.end]: u.reason for d in result.documents for u in d.units}
    assert why["The lighthouse was built in 1871."] == "keep"
    assert why["It is white."] == "last"
    assert None in why.values()
    assert all(u.kept == (u.reason is not None) for d in result.documents for u in d.units)
    assert result.tokens_after <= result.budget_tokens
    whole = compress([LAMP], "Who lit it?", draft=tiny_pair(), ratio=1.0)
    assert {u.reason for u in whole.documents[0].units} == {"whole"}


def test_a_threshold_reads_and_drops_though_everything_would_fit() -> None:
    result = compress(
        [LAMP, FERRY], "Who lit it?", draft=tiny_pair(), calibration=None, max_tokens=10_000, threshold=0.0
    )
    units = [u for d in result.documents for u in d.units]
    assert {u.kept for u in units} == {True, False}
    assert all(u.kept == (u.importance >= 0.0) for u in units)


def test_a_cap_per_document_holds_though_everything_would_fit() -> None:
    result = compress(
        [LAMP, "It is white."], "Who lit it?", draft=tiny_pair(), max_tokens=10_000, document_max_tokens=60
    )
    assert 0 < result.documents[0].tokens_after <= 60
    assert result.documents[1].text == "It is white."


def test_by_relevance_the_document_with_the_best_kept_unit_comes_first() -> None:
    documents = [Document(text, score=score) for text, score in ((FERRY, 0.0), (LAMP, 0.0), ("Dr. Vane sleeps.", 90.0))]
    given = compress(documents, "Who lit it?", draft=tiny_pair(), ratio=0.5)
    sorted_ = compress(documents, "Who lit it?", draft=tiny_pair(), ratio=0.5, order="relevance")
    best = [max((u.importance for u in d.units if u.kept), default=-99.0) for d in sorted_.documents]
    assert best == sorted(best, reverse=True)
    assert best != [max((u.importance for u in d.units if u.kept), default=-99.0) for d in given.documents]
    assert {d.text for d in sorted_.documents} == {d.text for d in given.documents}
    fits = compress(documents, "Who lit it?", draft=tiny_pair(), ratio=1.0, order="relevance")
    assert sorted(d.text for d in fits.documents) == sorted(d.text for d in documents)
    assert fits.documents[0].text != FERRY


def test_context_ends_at_a_neighbour_that_does_not_fit() -> None:
    before = "Cats sat. A long unit of so many words. Best."
    assert kept(4, [before], [0.0, 0.0, 5.0], context_before=2, threshold=1) == {"Best.": "score"}
    after = "Best. A long unit of so many words. Cats sat."
    assert kept(4, [after], [5.0, 0.0, 0.0], context_after=2, threshold=1) == {"Best.": "score"}
    assert len(kept(10, [after], [5.0, 0.0, 0.0], context_after=2, threshold=1)) == 3


def test_each_side_of_the_context_ends_by_itself() -> None:
    text = "A long unit of so many words. Best. Cats sat. Dogs ran."
    found = kept(5, [text], [0.0, 5.0, 0.0, 0.0], context_before=1, context_after=2, threshold=1)
    assert list(found) == ["Best.", "Cats sat.", "Dogs ran."]


def test_a_floor_that_is_met_exactly_holds_nothing_more() -> None:
    texts = ["One two. Three four. Five six.", "Best unit here now."]
    for floor, held in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 3)):
        found = kept(100, texts, [3.0, 2.0, 1.0, 9.0], document_min_tokens=floor, threshold=8.0)
        assert sum(unit in ("One two.", "Three four.", "Five six.") for unit in found) == held, floor


def test_a_floor_does_not_go_beyond_the_cap_of_its_document() -> None:
    texts = ["One two three. Four five. Six."]
    settings = {"document_min_tokens": 4, "threshold": 8.0}
    for cap, expected in (
        (4, ["One two three.", "Six."]),  # the second would be one too many, and the third fits
        (5, ["One two three.", "Four five."]),
    ):
        assert list(kept(100, texts, [3.0, 2.0, 1.0], document_max_tokens=cap, **settings)) == expected


def test_a_cap_that_is_met_exactly_is_used() -> None:
    texts = ["One two three. Four five. Six."]
    for cap, expected in ((5, 2), (6, 3), (4, 2)):
        assert len(kept(100, texts, [3.0, 2.0, 1.0], document_max_tokens=cap)) == expected


def test_importance_at_the_threshold_is_enough() -> None:
    assert len(kept(100, ["One two. Three four."], [0.5, 0.25], threshold=0.5)) == 1
    assert len(kept(100, ["One two. Three four."], [0.5, 0.25], threshold=0.25)) == 2


@pytest.mark.parametrize("flag", ["", "IGNORECASE", "MULTILINE", "DOTALL", "VERBOSE", "ASCII"])
def test_an_expression_that_is_written_to_a_file_keeps_its_flags(flag: str) -> None:
    expression = re.compile("a.b", getattr(re, flag) if flag else 0)
    assert re.compile(inline_flags(expression)).flags == expression.flags
