"""Quotations with their places: in the document, and in the file where that is known."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_pair

from spec_rag import Document, compress
from spec_rag.answering.chunking import retrieve, split_chunks

FILE = "The house has rules. " + " ".join(
    f"Gate {i} opens at {i + 5}. Keeper {i} holds key {i * 17}." for i in range(40)
)
QUERY = "Who holds key 51?"


def shortened(documents: list[Any], **settings: Any) -> Any:
    return compress(documents, QUERY, draft=tiny_pair(), calibration=None, **{"ratio": 0.3, **settings})


def test_citations_are_the_kept_spans_with_title_and_text() -> None:
    found = shortened([("Rules", FILE), FILE[:400]], ellipsis=" … ")
    expected = [(i, one.title, span) for i, one in enumerate(found.documents) for span in one.spans]
    assert [(c.document, c.title, (c.start, c.end)) for c in found.citations()] == expected
    assert all(c.text == FILE[c.start : c.end] and not c.in_file for c in found.citations())


def test_pieces_of_a_file_are_cited_by_their_place_in_the_file() -> None:
    chunks = retrieve("key", split_chunks(Document(FILE, "Rules", metadata={"source": "rules.md"}), 300), 4)
    found = shortened(list(chunks)).citations()
    assert found
    for one in found:
        assert one.in_file
        assert (one.text, one.source, one.title) == (FILE[one.start : one.end], "rules.md", "Rules")


class TestLangChain:
    @pytest.fixture
    def split(self) -> list[Any]:
        documents = pytest.importorskip("langchain_core.documents")
        cuts = range(0, len(FILE), 300)
        metadata = [{"source": "rules.md", "start_index": start} for start in cuts]
        return [documents.Document(FILE[m["start_index"] :][:300], metadata=m) for m in metadata]

    def test_spans_are_of_the_file(self, split: list[Any]) -> None:
        found = shortened(split).citations()
        assert found
        assert all(one.in_file and one.text == FILE[one.start : one.end] for one in found)

    @pytest.mark.parametrize("metadata_format", ["nested", "flat"])
    def test_after_two_compressions_and_a_splitter(self, split: list[Any], metadata_format: str) -> None:
        adapter = pytest.importorskip("langchain_spec_rag")
        given = {"draft": tiny_pair(), "calibration": None, "metadata_format": metadata_format}
        compressor = adapter.SpecPCCompressor(**given, ratio=0.7)
        once = compressor.compress_documents(split, QUERY)
        twice = compressor.invoke({"documents": once, "query": QUERY}, ratio=0.5)
        pieces = [one.model_copy(update={"page_content": one.page_content[:60].rstrip()}) for one in twice]
        for documents in (once, twice, pieces):
            found = compressor.citations(documents)
            assert {one.document for one in found} == set(range(len(documents)))
            assert all(one.in_file and one.text == FILE[one.start : one.end] for one in found)
            assert all(one.text in documents[one.document].page_content for one in found)
        assert all(one.text == FILE[one.start : one.end] for one in shortened(once).citations())
        other = [one.model_copy(update={"page_content": "Something else."}) for one in once]
        assert compressor.citations([*other, *split]) == []


class TestLlamaIndex:
    def test_chunks_of_a_citation_engine(self) -> None:
        core = pytest.importorskip("llama_index.core")
        from llama_index.core.embeddings import MockEmbedding
        from llama_index.core.llms import MockLLM
        from llama_index.core.query_engine import CitationQueryEngine
        from llama_index.core.schema import TextNode
        from llama_index.postprocessor.spec_rag import SpecPCCompressor

        cuts = range(0, len(FILE), 300)
        nodes = [
            TextNode(text=FILE[at : at + 300], start_char_idx=at, end_char_idx=min(at + 300, len(FILE))) for at in cuts
        ]
        for node in nodes:
            node.metadata["file_name"] = "rules.md"
        compressor = SpecPCCompressor(draft=tiny_pair(), calibration=None, ratio=0.6)
        index = core.VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
        engine = CitationQueryEngine.from_args(
            index, llm=MockLLM(), similarity_top_k=4, citation_chunk_size=40, citation_chunk_overlap=0,
            node_postprocessors=[compressor],
        )  # fmt: skip
        sources = engine.query(QUERY).source_nodes
        found = compressor.citations(sources)
        assert len({one.document for one in found}) == len(sources) > 4
        for one in found:
            assert (one.in_file, one.source, one.text) == (True, "rules.md", FILE[one.start : one.end])
            assert one.text in sources[one.document].node.get_content()
