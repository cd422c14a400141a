"""Reranking with the requests of Cohere's, Jina's and litellm's clients, under the server's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving.fake_upstream import Fake
from serving.helpers import MODEL, engine, served, settings

from spec_rag.options.compression import CompressionConfig

TEXTS = ["Ships sail on water.", "Tank 3 holds 300 litres of water.", "Soup is served hot at noon.", "Bread is baked."]
QUERY = "How much water does tank 3 hold?"
PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
COHERE_2 = {"model": MODEL, "query": QUERY, "documents": TEXTS, "top_n": 2, "max_tokens_per_doc": 4096, "priority": 0}
COHERE_1 = {
    "model": MODEL,
    "query": QUERY,
    "documents": [{"text": text, "id": str(i)} for i, text in enumerate(TEXTS)],
    "top_n": 2,
    "return_documents": True,
    "max_chunks_per_doc": 10,
    "rank_fields": ["text"],
}
JINA = {
    "model": MODEL,
    "query": {"text": QUERY},
    "documents": [{"text": text} for text in TEXTS],
    "top_n": 2,
    "return_documents": True,
    "truncation": True,
}
LITELLM = {
    "model": MODEL,
    "query": QUERY,
    "documents": [*TEXTS[:2], {"text": TEXTS[2], "title": None}, TEXTS[3]],
    "top_n": 2,
    "rank_fields": None,
    "return_documents": True,
    "max_chunks_per_doc": None,
    "user": None,
}


def rerank(url: str, path: str = "/v2/rerank", status: int = 200, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}{path}", json=body, timeout=60)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.fixture(scope="module")
def own_url() -> Iterator[str]:
    with served() as base:
        yield base


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [COHERE_2, COHERE_1, JINA, LITELLM], ids=["cohere 2", "cohere 1", "jina", "litellm"])
def test_the_clients_forms_are_answered_alike(own_url: str, path: str, body: dict[str, Any]) -> None:
    found = rerank(own_url, path, **body)
    plain = rerank(own_url, query=QUERY, documents=TEXTS, top_n=2)
    scores = [(one["index"], one["relevance_score"]) for one in found["results"]]
    assert scores == [(one["index"], one["relevance_score"]) for one in plain["results"]]
    assert found["meta"]["api_version"]["version"] == "2"
    assert found["usage"]["total_tokens"] > 20
    for one in found["results"]:
        if body.get("return_documents"):
            assert one["document"] == {"text": TEXTS[one["index"]]}
        else:
            assert "document" not in one


def test_every_listed_model_may_be_named(own_url: str) -> None:
    listed = [one["id"] for one in httpx.get(f"{own_url}/v1/models").json()["data"]]
    for name in (*listed, "tiny-draft"):
        assert rerank(own_url, model=name, query=QUERY, documents=TEXTS)["results"]
    assert rerank(own_url, status=404, model="other", query=QUERY, documents=TEXTS)["error"]["param"] == "model"


def test_in_front_of_an_upstream_its_models_may_be_named() -> None:
    fake = Fake()
    with fake.running() as upstream, served(settings(target=None, upstream=upstream), engine()) as url:
        for path in PATHS:
            assert rerank(url, path, model="big", query=QUERY, documents=TEXTS)["results"]


def test_documents_are_cut_after_max_tokens_per_doc(own_url: str) -> None:
    long = [f"{TEXTS[1]} {' '.join(TEXTS)}" for _ in range(2)]
    whole = rerank(own_url, query=QUERY, documents=long)["usage"]["total_tokens"]
    cut = rerank(own_url, query=QUERY, documents=long, max_tokens_per_doc=5, return_documents=True)
    assert cut["usage"]["total_tokens"] < whole - 50
    assert {one["document"]["text"] for one in cut["results"]} == set(long)  # as they were given


def test_the_servers_own_settings_hold() -> None:
    def scores(**given: Any) -> list[float]:
        with served(settings(compression=CompressionConfig(**given)), engine()) as url:
            found = sorted(rerank(url, query=QUERY, documents=TEXTS)["results"], key=lambda one: one["index"])
            return [one["relevance_score"] for one in found]

    plain = scores(calibration=None, ratio=0.1)
    assert plain != scores()
    assert plain == scores(calibration=None, max_tokens=7)
