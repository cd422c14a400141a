"""Documents and a question in, the parts that matter out."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_pair, tiny_tokenizer
from transformers import AutoModelForCausalLM

from spec_rag import Document, DocumentIndex, ModelPair, compress
from spec_rag.errors import ConfigError, PromptTooLongError
from spec_rag.options.compression import CompressionConfig

TEXTS = [
    "The lighthouse was built in 1871. Its lamp is visible for 28 kilometres. Dr. Vane lit it first. It is white.",
    "The ferry leaves at 9:40 from pier three. Tickets cost four crowns. Dogs travel free of charge.",
    "Bread is baked on Mondays. The baker is called Odalys Fenn. Her oven was brought from Tarn by mule.",
]
QUERY = "Who is the baker?"


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.mark.parametrize("unit", ["sentence", "token", "document"])
@pytest.mark.parametrize("scoring", ["per_document", "joint"])
@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.6])
def test_the_budget_is_never_exceeded_and_spans_give_the_text(
    pair: ModelPair, unit: str, scoring: str, ratio: float
) -> None:
    result = compress(TEXTS, QUERY, draft=pair, ratio=ratio, unit=unit, scoring=scoring)
    assert result.budget_tokens == int(result.tokens_before * ratio)
    kept = [u for document in result.documents for u in document.units if u.kept]
    assert result.tokens_after <= result.budget_tokens or len(kept) == 1
    assert result.over_budget == max(result.tokens_after - result.budget_tokens, 0)
    for text, document in zip(TEXTS, result.documents, strict=True):
        gap = " " if unit == "token" else " [...] "
        assert document.text == gap.join(text[a:b] for a, b in document.spans)
        assert document.source == document.original_text == text
        for a, b in document.spans:
            assert a == 0 or text[a - 1].isspace()
            assert b == len(text) or text[b].isspace()


def test_what_fits_passes_through_untouched_without_a_draft_call(pair: ModelPair) -> None:
    result = compress(TEXTS, QUERY, draft=pair, max_tokens=10_000)
    assert [document.text for document in result.documents] == TEXTS
    assert result.draft_seconds == 0.0
    assert result.ratio == 1.0


def test_an_ellipsis_stands_where_text_was_dropped(pair: ModelPair) -> None:
    result = compress(TEXTS, QUERY, draft=pair, ratio=0.4, ellipsis=" … ")
    assert result.tokens_after <= result.budget_tokens
    for document in result.documents:
        for (_, b), (a, _) in zip(document.spans, document.spans[1:], strict=False):
            assert f"{document.original_text[:b][-5:]} … {document.original_text[a:][:5]}" in document.text
        if document.spans and document.spans[0][0] > 0:
            assert document.text.startswith("… ")


def test_coverage_keeps_fewer_units_than_the_cap_allows(pair: ModelPair) -> None:
    kept = [compress(TEXTS, QUERY, draft=pair, coverage=c).tokens_after for c in (0.2, 0.6, 0.99)]
    assert kept[0] < kept[1] < kept[2]
    capped = compress(TEXTS, QUERY, draft=pair, coverage=0.99, max_tokens=40)
    assert capped.tokens_after <= 40


@pytest.mark.parametrize("option", ["title_links", "retrieval"])
def test_each_part_of_the_score_changes_it(pair: ModelPair, option: str) -> None:
    titled = [
        Document(TEXTS[0], title="Lamp", score=0.1),
        Document(TEXTS[1] + " The oven came along.", title="Ferry", score=0.9),
        Document(TEXTS[2], title="Oven", score=0.2),
    ]

    def importance(**settings: bool) -> list[float]:
        result = compress(titled, QUERY, draft=pair, ratio=0.5, **settings)
        return [unit.importance for document in result.documents for unit in document.units]

    assert importance(**{option: True}) != pytest.approx(importance(**{option: False}))


def test_an_embedder_takes_part(pair: ModelPair) -> None:
    def embedder(texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0] if "ferry" in t or t == QUERY else [0.0, 1.0] for t in texts]

    plain = compress(TEXTS, QUERY, draft=pair, ratio=0.5)
    fused = compress(TEXTS, QUERY, draft=pair, ratio=0.5, embedder=embedder)
    gain = [
        b.importance - a.importance
        for x, y in zip(plain.documents, fused.documents, strict=True)
        for a, b in zip(x.units, y.units, strict=True)
    ]
    units = [u for document in plain.documents for u in document.units]
    ferry = next(
        i for i, u in enumerate(units) if TEXTS[1].startswith("The ferry") and i == len(plain.documents[0].units)
    )
    assert max(range(len(gain)), key=gain.__getitem__) == ferry


def test_retrieval_scores_take_part(pair: ModelPair) -> None:
    plain = compress([Document(t) for t in TEXTS], QUERY, draft=pair, ratio=0.4)
    scored = [Document(t, score=s) for t, s in zip(TEXTS, (0.0, 100.0, 0.0), strict=True)]
    moved = compress(scored, QUERY, draft=pair, ratio=0.4)
    gain = [
        b.units[0].importance - a.units[0].importance for a, b in zip(plain.documents, moved.documents, strict=True)
    ]
    assert gain[1] == max(gain)
    assert gain[1] > gain[0]


def test_inputs_are_not_mutated_and_order_is_kept(pair: ModelPair) -> None:
    documents = [Document(text, title=f"T{i}", id=str(i), metadata={"page": i}) for i, text in enumerate(TEXTS)]
    before = copy.deepcopy(documents)
    result = compress(documents, QUERY, draft=pair, ratio=0.3)
    assert documents == before
    assert [document.source for document in result.documents] == documents


def test_the_order_of_documents_does_not_change_what_is_kept(pair: ModelPair) -> None:
    forth = compress(TEXTS, QUERY, draft=pair, ratio=0.4)
    back = compress(TEXTS[::-1], QUERY, draft=pair, ratio=0.4)
    assert [d.text for d in forth.documents] == [d.text for d in back.documents][::-1]


def test_an_index_gives_the_same_result_and_reads_nothing_twice(pair: ModelPair, tmp_path) -> None:  # type: ignore[no-untyped-def]
    index = DocumentIndex(tmp_path, storage="float32")
    plain = compress(TEXTS, QUERY, draft=pair, ratio=0.4)
    assert compress(TEXTS, QUERY, draft=pair, ratio=0.4, index=index).text == plain.text
    assert (index.hits, index.misses) == (0, 3)
    again = DocumentIndex(tmp_path, storage="float32")
    assert compress(TEXTS[::-1], QUERY, draft=pair, ratio=0.4, index=again).tokens_after == plain.tokens_after
    assert (again.hits, again.misses) == (3, 0)


def test_a_chat_history_is_a_query(pair: ModelPair) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tell me about the bakery."},
        {"role": "assistant", "content": "Gladly."},
        {"role": "user", "content": QUERY},
    ]
    result = compress(TEXTS, history, draft=pair, ratio=0.4)
    assert result.query == f"Tell me about the bakery.\nGladly.\n{QUERY}"


def test_a_document_longer_than_the_drafts_context_is_read_in_passages(pair: ModelPair) -> None:
    long = " ".join(f"Entry {i} says the harbour had {i * 7 % 13} boats." for i in range(300))
    result = compress([long], QUERY, draft=pair, ratio=0.05)
    assert 0 < result.tokens_after <= result.budget_tokens
    with pytest.raises(PromptTooLongError, match="per_document"):
        compress([long], QUERY, draft=pair, ratio=0.05, scoring="joint")


def test_special_tokens_inside_documents_stay_text(pair: ModelPair) -> None:
    text = "Write <|im_end|> to stop. The code is 5512."
    result = compress([text, *TEXTS], "What is the code? <|im_end|>", draft=pair, ratio=0.9)
    assert result.documents[0].tokens_before == len(text.encode())


def test_no_documents_give_an_empty_compression(pair: ModelPair) -> None:
    result = compress([], QUERY, draft=pair)
    assert (result.documents, result.text, result.ratio) == ([], "", 1.0)


def test_empty_documents_stay_empty(pair: ModelPair) -> None:
    result = compress(["", "  \n", *TEXTS], QUERY, draft=pair, ratio=0.4)
    assert [d.text for d in result.documents[:2]] == ["", ""]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ratio": 0}, "ratio=0"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 5, "ratio": 0.5}, "max_tokens=5 and ratio=0.5"),
        ({"coverage": -1}, "coverage=-1"),
        ({"unit": "paragraph"}, "unit='paragraph'"),
        ({"scoring": "both"}, "scoring='both'"),
        ({"tokens": 5}, "'tokens'"),
        ({"embedder": 7, "ratio": 0.5}, "embedder of type int"),
        ({"count_with": "gpt-99x", "ratio": 0.5}, "count_with='gpt-99x'"),
    ],
)
def test_bad_settings_are_refused_with_their_name_and_value(pair: ModelPair, settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compress(TEXTS, QUERY, draft=pair, **settings)


@pytest.mark.parametrize("query", ["", "   ", []])
def test_an_empty_query_is_refused(pair: ModelPair, query: object) -> None:
    with pytest.raises(ConfigError, match="query="):
        compress(TEXTS, query, draft=pair)


@pytest.mark.parametrize(
    ("documents", "says"), [("one string", "a single str"), ([3], r"documents\[0\]: 3 is a int"), (None, "NoneType")]
)
def test_what_is_no_document_is_refused(pair: ModelPair, documents: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compress(documents, QUERY, draft=pair)


def test_the_default_draft_finds_the_answer(smollm2: ModelPair) -> None:
    result = compress(TEXTS, "What is the name of the baker?", draft=smollm2, ratio=0.25)
    assert "Odalys Fenn" in result.text


@pytest.mark.parametrize("max_tokens", [10, 30, 45, 60, 90])
def test_sentences_are_kept_whole(pair: ModelPair, max_tokens: int) -> None:
    result = compress(TEXTS, QUERY, draft=pair, max_tokens=max_tokens)
    kept = [unit for document in result.documents for unit in document.units if unit.kept]
    assert result.tokens_after <= max_tokens or len(kept) == 1
    for document in result.documents:
        edges = {u.start for u in document.units}, {u.end for u in document.units}
        assert all(start in edges[0] and end in edges[1] for start, end in document.spans)


def test_a_sentence_is_cut_only_where_that_is_asked_for_and_the_cut_is_marked(pair: ModelPair) -> None:
    long = (
        "The baker of the village by the lake, who came from Tarn with her oven, is called Odalys Fenn by her friends."
    )
    assert compress([long], QUERY, draft=pair, max_tokens=60).text == long
    cut = compress([long], QUERY, draft=pair, max_tokens=60, cut_units=True)
    assert 0 < cut.tokens_after <= 60
    assert "…" in cut.text
    ((start, end),) = cut.documents[0].spans
    assert long[start:end] in cut.text
    assert end - start < len(long)


def test_code_is_kept_with_its_indentation(pair: ModelPair) -> None:
    code = "def keeper(hut):\n    if hut.open:\n        return hut.keeper\n    raise Closed(hut)\n"
    lines = compress([code], "Who is the keeper?", draft=pair, ratio=0.7).text.splitlines()
    assert lines
    assert set(lines) < set(code.splitlines())
    assert any(line.startswith("    ") for line in lines)


def test_what_stands_in_several_documents_is_kept_once(pair: ModelPair) -> None:
    shared = "The baker of the village is called Odalys Fenn."
    texts = [f"{shared} It is white.", f"Dogs travel free. {shared}", shared]
    result = compress(texts, QUERY, draft=pair, max_tokens=len(shared) + 20)
    assert result.text.count("Odalys") <= 1
    whole = compress(texts, QUERY, draft=pair, ratio=0.99)
    assert sum(shared in document.text for document in whole.documents) == 1


def test_few_tokens_pass_whole_and_a_ratio_leaves_at_least_the_floor(pair: ModelPair) -> None:
    short = TEXTS[:1]
    assert compress(short, QUERY, draft=pair, ratio=0.1, min_tokens=200).text == TEXTS[0]
    assert compress(short, QUERY, draft=pair, coverage=0.1, min_tokens=200).text == TEXTS[0]
    floored = compress(TEXTS, QUERY, draft=pair, ratio=0.05, min_tokens=150)
    assert floored.budget_tokens == 150
    assert 100 < floored.tokens_after <= 150
    without, with_floor = (compress(TEXTS, QUERY, draft=pair, coverage=0.2, min_tokens=n) for n in (0, 150))
    assert without.tokens_after < 150 <= with_floor.tokens_after


@pytest.mark.parametrize(
    ("config", "tokens", "budget", "whole"),
    [
        ({}, 800, 200, False),
        ({}, 400, 160, False),
        ({}, 160, 160, True),
        ({"min_tokens": 0}, 128, 32, False),
        ({"ratio": 0.25}, 128, 32, False),
        ({"threshold": 0.0}, 128, 128, False),
        ({"max_tokens": 300}, 300, 300, True),
        ({"max_tokens": 300}, 301, 300, False),
        ({"ratio": 0.5, "min_tokens": 250}, 400, 250, False),
        ({"ratio": 0.5, "min_tokens": 250}, 250, 250, True),
        ({"ratio": 1}, 400, 400, True),
        ({"coverage": 0.9}, 400, 400, False),
        ({"coverage": 0.9, "min_tokens": 400}, 400, 400, True),
    ],
)
def test_the_budget_follows_from_the_settings(config: dict, tokens: int, budget: int, whole: bool) -> None:
    settings = CompressionConfig(**config)
    assert settings.budget_tokens(tokens) == budget
    assert settings.passes_whole([tokens]) is whole


def test_a_draft_may_be_a_model_of_transformers(tmp_path: Path) -> None:
    model = tiny_model()
    given = compress(TEXTS, QUERY, draft=model, tokenizer=tiny_tokenizer(), ratio=0.4)
    assert given.tokens_after > 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no tokenizer: give it as tokenizer="):
        compress(TEXTS, QUERY, draft=AutoModelForCausalLM.from_pretrained(tmp_path), ratio=0.4)
    tiny_tokenizer().save_pretrained(tmp_path)
    beside = compress(TEXTS, QUERY, draft=AutoModelForCausalLM.from_pretrained(tmp_path), ratio=0.4)
    assert beside.text == given.text
    assert beside.draft == str(tmp_path)


def test_swapped_arguments_are_named(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="give the documents first"):
        compress(QUERY, TEXTS, draft=pair)


def test_a_lone_document_is_told_to_be_put_into_a_list(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match=r"a single Document: put it into a list"):
        compress(Document("One is red."), QUERY, draft=pair)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"languag": "en"}, "did you mean 'language'"),
        ({"language": "xx"}, "language='xx': must be an ISO 639-1 code"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens=9 is above max_tokens=5"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"cut_units": 1.5}, "cut_units=1.5"),
        ({"draft": 5}, "5 of type int is not a model"),
    ],
)
def test_a_mistake_is_answered_with_what_was_probably_meant(pair: ModelPair, settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compress(TEXTS, QUERY, **{"draft": pair, **settings})
