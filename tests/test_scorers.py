"""Scorers of the user's own: each kind, by stand-ins of its shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_pair

from spec_rag import compress
from spec_rag.compression.external_scorers import scorer_scores
from spec_rag.compression.scoring import shared_reciprocal_rank
from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document

DOCUMENTS = [
    Document("Boats are blue. Gulls scream at noon.", "Harbour"),
    Document("Bread is warm. The baker is Odalys Fenn.", "Bakery", metadata={"relevance_score": 0.1, "page": 3}),
    Document("Snow fell. The road is closed."),
]
UNITS = ["Boats are blue.", "Gulls scream at noon.", "Bread is warm.", "The baker is Odalys Fenn.", "Snow fell."]
OWNERS = [0, 0, 1, 1, 2]
QUESTION = "Who is the baker?"


def scores(scorer: Any) -> list[float]:
    titles = [DOCUMENTS[d].title for d in OWNERS]
    found = scorer_scores(scorer, QUESTION, UNITS, titles, DOCUMENTS, OWNERS)
    assert found.shape == (5,)
    assert found.dtype == torch.float64
    return found.tolist()  # type: ignore[no-any-return]


def shared_words(question: str, text: str) -> float:
    return float(len(set(question.lower().strip("?").split()) & set(text.lower().strip(".").split())))


EXPECTED = [0.0, 0.0, 1.0, 3.0, 0.0]  # of "who is the baker" in each unit, without titles


class CrossEncoder:
    """As sentence-transformers has it: an array of one score per pair."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def predict(self, sentences: list[tuple[str, str]], batch_size: int = 32) -> torch.Tensor:
        self.seen = list(sentences)
        return torch.tensor([[shared_words(*pair)] for pair in sentences], dtype=torch.float64)

    def rank(self, query: str, documents: list[str]) -> list[dict[str, Any]]:
        raise AssertionError("predict is asked")


class LangChainCrossEncoder:
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [shared_words(*pair) for pair in text_pairs]


class PyLate:
    """Vectors per token; those of a question are asked for as such."""

    def encode(self, sentences: list[str], is_query: bool = True) -> list[torch.Tensor]:
        vocabulary = ["who", "is", "the", "baker"]
        words = [text.lower().replace(".", "").replace("?", "").split() for text in sentences]
        assert is_query == (len(sentences) == 1)
        return [torch.tensor([[float(w == v) for v in vocabulary] for w in own]) for own in words]


class Ragatouille:
    def rerank(self, query: str, documents: list[str], k: int = 10) -> list[dict[str, Any]]:
        found = [{"content": t, "score": shared_words(query, t), "result_index": i} for i, t in enumerate(documents)]
        return sorted(found, key=lambda one: -one["score"])[:k]


class Ranker:
    """As the rerankers package has it."""

    def rank(self, query: str, docs: list[str], doc_ids: list[int]) -> Any:
        found = [
            SimpleNamespace(document=SimpleNamespace(doc_id=i), score=shared_words(query, text))
            for i, text in zip(doc_ids, docs, strict=True)
        ]
        return SimpleNamespace(results=sorted(found, key=lambda one: -one.score))


@pytest.mark.parametrize(
    "scorer",
    [
        lambda question, texts: [shared_words(question, text) for text in texts],
        CrossEncoder(),
        LangChainCrossEncoder(),
        PyLate(),
        Ragatouille(),
        Ranker(),
    ],
    ids=["function", "CrossEncoder", "LangChain", "PyLate", "RAGatouille", "rerankers"],
)
def test_what_reads_a_question_and_a_text_is_asked_about_each_unit(scorer: Any) -> None:
    assert scores(scorer) == EXPECTED


def test_titles_are_read_before_the_units() -> None:
    scorer = CrossEncoder()
    scores(scorer)
    assert scorer.seen[0] == (QUESTION, "Harbour. Boats are blue.")
    assert scorer.seen[4] == (QUESTION, "Snow fell.")


class Provence:
    """Keeps the sentences that share a word with the question, and says how relevant the whole is."""

    def process(self, question: str, context: str, threshold: float = 0.1) -> dict[str, Any]:
        left = [one for one in context.split(". ") if shared_words(question, one) > 1]
        return {"pruned_context": ". ".join(left), "reranking_score": shared_words(question, context)}


def test_what_a_pruner_keeps_comes_first_and_its_relevance_decides_among_the_rest() -> None:
    found = scores(Provence())
    assert max(found) == found[3]
    assert found[2] > found[0] == found[1], "dropped, but of a relevant document"
    assert found[3] - found[2] == pytest.approx(1.0)

    class Silent:
        def process(self, question: str, context: str) -> list[str]:
            return [context]

    with pytest.raises(ConfigError, match="must return a dict with 'pruned_context'"):
        scores(Silent())


def test_a_pruner_that_answers_with_lists_of_one_is_understood() -> None:
    class Nested(Provence):
        def process(self, question: str, context: str, threshold: float = 0.1) -> dict[str, Any]:
            whole = super().process(question, context)
            return {name: [[value]] for name, value in whole.items()}

    assert scores(Nested()) == scores(Provence())


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (3, "scorer of type int: give a function"),
        (lambda question, texts: [1.0], "returned 1 for 5 texts"),
        (lambda question, texts: torch.zeros(5, 3), "returned 5 x 3 for 5 texts"),
        (lambda question, texts: ["a"] * 5, "must return one number for each text"),
        (lambda question, texts: None, "must return one number for each text"),
        (lambda question, texts: [float("nan")] * 5, "no score that is a finite number"),
    ],
)
def test_what_is_no_scorer_is_refused(scorer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scores(scorer)


def test_a_langchain_reranker_orders_documents_by_its_scores_or_by_its_order() -> None:
    documents = pytest.importorskip("langchain_core.documents")

    class ByOrder(documents.BaseDocumentCompressor):  # type: ignore[name-defined, misc]
        def compress_documents(self, given: Any, query: str, callbacks: Any = None) -> Any:
            assert not any("relevance_score" in one.metadata for one in given), "the retriever's is not its own"
            return sorted(given, key=lambda one: -shared_words(query, one.page_content))[:2]

    class ByScore(ByOrder):
        def compress_documents(self, given: Any, query: str, callbacks: Any = None) -> Any:
            return [
                documents.Document(
                    page_content=one.page_content, metadata={"relevance_score": shared_words(query, one.page_content)}
                )
                for one in given
            ]

    found = scores(ByOrder())
    assert found == [-2.0, -2.0, 0.0, 0.0, -1.0], "the one that was left out comes last"
    assert scores(ByScore()) == [0.0, 0.0, 4.0 - 1.0, 3.0, 2.0]
    assert "page" in DOCUMENTS[1].metadata

    class Twice(ByOrder):
        def compress_documents(self, given: Any, query: str, callbacks: Any = None) -> Any:
            best = super().compress_documents(given, query)
            return [*best, best[0]]

    assert scores(Twice()) == [-3.0, -3.0, 0.0, 0.0, -1.0], "the better place of a document that comes twice counts"

    class Inventing(ByOrder):
        def compress_documents(self, given: Any, query: str, callbacks: Any = None) -> Any:
            return [documents.Document(page_content="made up")]

    with pytest.raises(ConfigError, match="was not given, 'made up'"):
        scores(Inventing())


def test_a_llama_index_reranker_orders_documents() -> None:
    types = pytest.importorskip("llama_index.core.postprocessor.types")

    class Reranker(types.BaseNodePostprocessor):  # type: ignore[name-defined, misc]
        def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
            for node in nodes:
                assert "spec_rag_document" not in node.node.get_content(metadata_mode="llm")
                node.score = shared_words(query_bundle.query_str, node.node.get_content())
            return sorted(nodes, key=lambda node: -node.score)[:2]

    found = scores(Reranker())
    assert found[2] == found[3] == max(found)
    assert found[0] == found[1] == min(found)


def test_nothing_is_asked_about_nothing() -> None:
    assert scorer_scores(object(), QUESTION, [], [], [], []).shape == (0,)


def test_a_scorer_joins_the_score_by_its_order_alone() -> None:
    pair, texts = tiny_pair(), [document.text for document in DOCUMENTS]

    def importance(scorer: Any) -> list[float]:
        result = compress(texts, QUESTION, draft=pair, ratio=0.5, scorer=scorer)
        return [unit.importance for document in result.documents for unit in document.units]

    def favouring(wanted: str, scale: float) -> Any:
        return lambda question, units: [scale if wanted in unit else 0.0 for unit in units]

    plain = importance(None)
    small, large = importance(favouring("road", 1e-3)), importance(favouring("road", 1e6))
    assert small == large, "whatever its scale"
    gains = [
        after - before for before, after in zip(importance(lambda q, units: [0.0] * len(units)), small, strict=True)
    ]
    assert max(range(len(gains)), key=gains.__getitem__) == 5
    assert small != pytest.approx(plain)


def test_equal_scores_share_their_rank() -> None:
    assert shared_reciprocal_rank(torch.tensor([1.0, 3.0, 1.0, 2.0])).tolist() == pytest.approx(
        [1 / 7, 1 / 5, 1 / 7, 1 / 6]
    )


def test_passages_that_the_draft_does_not_read_are_those_that_the_scorer_puts_last() -> None:
    texts = [f"Hut {i} is red. It stands on hill {i}." for i in range(12)]
    documents = [Document(text, score=1.0 - i / 100) for i, text in enumerate(texts)]

    def scorer(question: str, units: list[str]) -> list[float]:
        return [1000.0 if "11" in unit else 0.0 for unit in units]

    result = compress(documents, "Which hut?", draft=tiny_pair(), ratio=0.15, scorer=scorer, cascade="always")
    assert result.documents[11].text, "the last by retrieval, the first by the scorer"
