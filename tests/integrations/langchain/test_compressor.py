"""SpecPCCompressor as a document compressor, as a Runnable, and as a retriever's wrapper."""

from __future__ import annotations

import asyncio
import copy
import threading
from pathlib import Path
from typing import Any

import pytest
from integrations.langchain.helpers import Watching, documents
from integrations.tiny_llamas import held
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tracers.context import collect_runs
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor, SpecPCRetriever
from pydantic import BaseModel, ValidationError
from threads import wait_for_no_stream_threads

import spec_rag
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.errors import ConfigError
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig

QUERY = "Who was the mule?"


@pytest.fixture
def compressor(pair: ModelPair) -> SpecPCCompressor:
    return SpecPCCompressor(draft=pair, ratio=0.4)


class TestAsADocumentCompressor:
    def test_is_one(self, compressor: SpecPCCompressor) -> None:
        assert isinstance(compressor, BaseDocumentCompressor)

    def test_shortens_to_the_budget(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        kept = compressor.compress_documents(docs, QUERY)
        figures = [document.metadata["spec_pc"] for document in kept]
        assert 0 < sum(one["compressed_tokens"] for one in figures) <= 0.4 * sum(len(d.page_content) for d in docs)

    def test_no_documents_give_no_documents(self, compressor: SpecPCCompressor) -> None:
        assert compressor.compress_documents([], QUERY) == []
        assert compressor.compress_documents([], "") == []

    def test_ids_metadata_and_order_stay(self, pair: ModelPair, docs: list[Document]) -> None:
        kept = SpecPCCompressor(draft=pair, ratio=0.4, keep_empty=True).compress_documents(docs, QUERY)
        assert [document.id for document in kept] == ["doc-0", "doc-1", "doc-2"]
        for given, document in zip(docs, kept, strict=True):
            assert {k: v for k, v in document.metadata.items() if k != "spec_pc"} == given.metadata

    def test_inputs_are_untouched(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        before = copy.deepcopy(docs)
        compressor.compress_documents(docs, QUERY)
        assert docs == before

    def test_kept_spans_are_the_text_of_the_original(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        originals = {document.id: document.page_content for document in docs}
        kept = compressor.compress_documents(docs, QUERY)
        assert kept
        for document in kept:
            pieces = [originals[document.id][a:b] for a, b in document.metadata["spec_pc"]["kept_spans"]]
            assert pieces
            assert all(piece in document.page_content for piece in pieces)

    def test_figures_say_what_was_done(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        (figures, *_) = [document.metadata["spec_pc"] for document in compressor.compress_documents(docs, QUERY)]
        assert set(figures) == {"original_tokens", "compressed_tokens", "ratio", "draft_model", "kept_spans", "handle"}
        assert figures["ratio"] == pytest.approx(figures["compressed_tokens"] / figures["original_tokens"])
        assert figures["draft_model"] == "tiny-draft"

    def test_documents_without_kept_text_are_left_out_unless_asked_for(
        self, pair: ModelPair, docs: list[Document]
    ) -> None:
        few = SpecPCCompressor(draft=pair, max_tokens=30).compress_documents(docs, QUERY)
        every = SpecPCCompressor(draft=pair, max_tokens=30, keep_empty=True).compress_documents(docs, QUERY)
        assert len(few) < len(every) == 3
        assert [document.id for document in every if document.page_content] == [document.id for document in few]

    def test_what_fits_passes_through_whole(self, pair: ModelPair, docs: list[Document]) -> None:
        kept = SpecPCCompressor(draft=pair, max_tokens=10_000).compress_documents(docs, QUERY)
        assert [document.page_content for document in kept] == [document.page_content for document in docs]
        assert kept[0].metadata["spec_pc"]["ratio"] == 1.0

    async def test_async_gives_the_same(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        assert await compressor.acompress_documents(docs, QUERY) == compressor.compress_documents(docs, QUERY)

    async def test_async_does_not_run_on_the_event_loop(
        self, compressor: SpecPCCompressor, docs: list[Document], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads, original = [], spec_rag.compress

        def watched(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.current_thread())
            return original(*args, **kwargs)

        monkeypatch.setattr(spec_rag, "compress", watched)
        await compressor.acompress_documents(docs, QUERY)
        assert threads
        assert threading.main_thread() not in threads

    def test_a_chat_history_is_a_query(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        history = [HumanMessage("Tell me of the gate."), AIMessage("It is closed."), HumanMessage(QUERY)]
        assert compressor.compress_documents(docs, history)  # type: ignore[arg-type]


class TestRetention:
    def test_what_keep_matches_stays_and_what_does_not_fit_is_said(self, pair: ModelPair, docs: list[Document]) -> None:
        word = docs[-1].page_content.split()[-1]
        held = SpecPCCompressor(draft=pair, ratio=0.5, keep=word).compress_documents(docs, QUERY)
        assert word in held[-1].page_content
        with pytest.raises(ValueError, match=r"keep_first=9 needs \d+ tokens of 3 documents, and the budget allows"):
            SpecPCCompressor(draft=pair, ratio=0.5, keep_first=9).compress_documents(docs, QUERY)

    def test_documents_come_by_relevance_where_that_is_asked_for(self, pair: ModelPair, docs: list[Document]) -> None:
        def found(given: list[Document], **settings: Any) -> list[tuple[str | None, str]]:
            compressor = SpecPCCompressor(draft=pair, ratio=0.6, keep_empty=True, **settings)
            return [(one.id, one.page_content) for one in compressor.compress_documents(given, QUERY)]

        forth, back = found(docs, order="relevance"), found(docs[::-1], order="relevance")
        assert forth == back, "whatever order they come in"
        assert sorted(forth) == sorted(found(docs)) == sorted(found(docs[::-1]))
        assert found(docs) != found(docs[::-1])


class TestSettings:
    def test_are_those_of_compress(self) -> None:
        assert set(CompressionConfig.model_fields) <= set(SpecPCCompressor.model_fields)
        own = {
            "draft",
            "draft_options",
            "index",
            "embedder",
            "scorer",
            "count_with",
            "keep_empty",
            "metadata_format",
            "on_error",
            "deadline_seconds",
            "name",
            "originals",
            "preset",
        }
        assert set(SpecPCCompressor.model_fields) - own <= set(CompressionConfig.model_fields)

    def test_have_the_core_s_defaults(self) -> None:
        own = SpecPCCompressor()
        assert CompressionConfig() == CompressionConfig(
            **{name: getattr(own, name) for name in CompressionConfig.model_fields}
        )

    def test_all_reach_compress(self, docs: list[Document], monkeypatch: pytest.MonkeyPatch, pair: ModelPair) -> None:
        called: dict[str, Any] = {}

        def noted(given: Any, query: Any, **kwargs: Any) -> Any:
            called.update(kwargs)
            return original(given, query, draft=pair)

        original = spec_rag.compress
        monkeypatch.setattr(spec_rag, "compress", noted)
        embeddings, index = DeterministicFakeEmbedding(size=4), DocumentIndex()
        settings = {"coverage": 0.5, "max_tokens": 40, "scoring": "joint", "unit": "token"}
        settings |= {"title_links": False, "ellipsis": "..."}
        SpecPCCompressor(
            draft=Path("folder"),
            draft_options={"dtype": "float32"},
            index=index,
            embeddings=embeddings,
            count_with=len,
            **settings,
        ).compress_documents(docs, QUERY)
        assert {name: called[name] for name in settings} == settings
        assert called["draft"] == "folder"
        assert called["draft_options"].dtype == "float32"
        assert (called["index"], called["embedder"], called["count_with"]) == (index, embeddings, len)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"ratio": 0},
            {"ratio": 0.5, "max_tokens": 5},
            {"unit": "page"},
            {"rate": 0.5},
            {"draft": 7},
            {"index": 7},
            {"draft_options": {"devise": "cpu"}},
        ],
    )
    def test_wrong_ones_are_refused_at_once(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            SpecPCCompressor(**wrong)

    def test_configurable_fields_change_one_run(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        configurable = compressor.configurable_fields(ratio=ConfigurableField(id="share"))
        given = {"documents": docs, "query": QUERY}
        whole = configurable.invoke(given, {"configurable": {"share": 1.0}})
        assert [document.page_content for document in whole] == [document.page_content for document in docs]
        assert configurable.invoke(given) == compressor.invoke(given)

    def test_a_call_may_have_settings_of_its_own(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        assert len(compressor.invoke({"documents": docs, "query": QUERY}, ratio=1.0)) == 3
        with pytest.raises(ValidationError):
            compressor.invoke({"documents": docs, "query": QUERY}, share=1.0)

    def test_embeddings_take_part(self, pair: ModelPair, docs: list[Document]) -> None:
        class Near(Embeddings):
            """Everything with that word is near the question, and nothing else."""

            def __init__(self, word: str) -> None:
                self.word = word

            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[1.0, 0.0] if self.word in text else [0.0, 1.0] for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return [1.0, 0.0]

        def kept(word: str) -> list[Document]:
            return SpecPCCompressor(draft=pair, ratio=0.4, embeddings=Near(word)).compress_documents(docs, QUERY)

        assert kept("Saffron") != kept("copper")


class TestInAChain:
    def test_after_a_parallel_of_retriever_and_question(
        self, compressor: SpecPCCompressor, docs: list[Document]
    ) -> None:
        retriever = RunnableLambda(lambda query: docs)
        chain = RunnableParallel(documents=retriever, query=RunnablePassthrough()) | compressor
        assert chain.invoke(QUERY) == compressor.compress_documents(docs, QUERY)

    @pytest.mark.parametrize("documents_key", ["documents", "context", "docs"])
    @pytest.mark.parametrize("query_key", ["query", "question", "input"])
    def test_aliases(
        self, compressor: SpecPCCompressor, docs: list[Document], documents_key: str, query_key: str
    ) -> None:
        given = {documents_key: docs, query_key: QUERY, "user": "me"}
        assert compressor.invoke(given) == compressor.compress_documents(docs, QUERY)

    def test_in_an_assignment(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        out = RunnablePassthrough.assign(context=compressor).invoke({"context": docs, "question": QUERY})
        assert out["question"] == QUERY
        assert all("spec_pc" in document.metadata for document in out["context"])

    def test_a_prompt_is_a_query(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        prompt = ChatPromptTemplate.from_messages([("human", "{q}")]).invoke({"q": QUERY})
        given = {"documents": docs, "query": QUERY}
        assert compressor.invoke({"documents": docs, "query": prompt}) == compressor.invoke(given)

    @pytest.mark.parametrize("given", [{"query": QUERY}, {"documents": []}, {}])
    def test_missing_input_is_named(self, compressor: SpecPCCompressor, given: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"'documents', 'context', 'docs'|'query', 'question', 'input'"):
            compressor.invoke(given)

    def test_other_input_is_refused_with_the_way_out(self, compressor: SpecPCCompressor) -> None:
        with pytest.raises(ValueError, match="RunnablePassthrough"):
            compressor.invoke("Who?")  # type: ignore[arg-type]

    async def test_async_stream_and_batch_give_the_same(
        self, compressor: SpecPCCompressor, docs: list[Document]
    ) -> None:
        given = {"documents": docs, "query": QUERY}
        once = compressor.invoke(given)
        assert await compressor.ainvoke(given) == once
        assert list(compressor.stream(given)) == [once]
        assert compressor.batch([given, given]) == [once, once]
        assert await compressor.abatch([given, given]) == [once, once]


class TestWatched:
    def test_is_a_span_with_an_event(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        watching = Watching()
        compressor.compress_documents(docs, QUERY, callbacks=[watching])
        assert watching.started == ["SpecPCCompressor"]
        ((name, data),) = watching.events
        assert name == "spec_pc"
        assert data["tokens_after"] < data["tokens_before"] == sum(len(d.page_content) for d in docs)
        assert data["draft_seconds"] > 0

    def test_is_one_span_inside_its_chain(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        with collect_runs() as runs:
            (RunnableLambda(lambda q: {"documents": docs, "query": q}) | compressor).invoke(QUERY)
        (run,) = runs.traced_runs
        assert [child.name for child in run.child_runs] == ["RunnableLambda", "SpecPCCompressor"]

    async def test_async_handlers_are_told(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        class Handler(AsyncCallbackHandler):
            names: list[str] = []  # noqa: RUF012

            async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
                self.names.append(name)

        handler = Handler()
        await compressor.ainvoke({"documents": docs, "query": QUERY}, {"callbacks": [handler]})
        assert handler.names == ["spec_pc"]

    async def test_the_event_is_in_the_event_stream(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        given = {"documents": docs, "query": QUERY}
        events = [event async for event in compressor.astream_events(given, version="v2")]
        assert [e["name"] for e in events if e["event"] == "on_custom_event"] == ["spec_pc"]


def test_documents_keep_their_own_class(compressor: SpecPCCompressor) -> None:
    class Page(Document):
        number: int = 0

    page = Page(documents()[2].page_content, number=7)
    (kept,) = compressor.compress_documents([page], QUERY)
    assert isinstance(kept, Page)
    assert kept.number == 7


def own_fields(of: type[BaseModel]) -> list[str]:
    """The fields that the adapters add to those of LangChain's base classes."""
    inherited = {name for base in of.__mro__ if "langchain_core" in base.__module__ for name in base.__annotations__}
    return [name for name in of.model_fields if name not in inherited]


@pytest.mark.parametrize("of", [SpecPCCompressor, SpecPCRetriever, ChatSpecKV, SpecKVLLM])
def test_every_field_is_described(of: type[BaseModel]) -> None:
    names = own_fields(of)
    assert names
    assert [name for name in names if not of.model_fields[name].description] == []


class TestMetadata:
    def test_flat_metadata_holds_plain_values_alone(self, pair: ModelPair, docs: list[Document]) -> None:
        """As vector stores such as Chroma take it."""
        plain = [Document(d.page_content, metadata={"source": "x"}) for d in docs]
        kept = SpecPCCompressor(draft=pair, ratio=0.4, metadata_format="flat").compress_documents(plain, QUERY)
        nested = SpecPCCompressor(draft=pair, ratio=0.4).compress_documents(plain, QUERY)
        for document, other in zip(kept, nested, strict=True):
            figures = other.metadata["spec_pc"]
            assert all(isinstance(value, str | int | float | bool) for value in document.metadata.values())
            spans = ",".join(f"{a}-{b}" for a, b in figures["kept_spans"])
            expected = {f"spec_pc_{name}": value for name, value in {**figures, "kept_spans": spans}.items()}
            assert document.metadata == {"source": "x", **expected}

    def test_none_leaves_the_metadata_as_it_was(self, pair: ModelPair, docs: list[Document]) -> None:
        kept = SpecPCCompressor(draft=pair, ratio=0.4, metadata_format="none").compress_documents(docs, QUERY)
        by_id = {document.id: document.metadata for document in docs}
        assert kept
        assert all(document.metadata == by_id[document.id] for document in kept)

    def test_an_unknown_format_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="metadata_format"):
            SpecPCCompressor(metadata_format="json")

    @pytest.mark.parametrize("first_format", ["nested", "flat"])
    @pytest.mark.parametrize("ellipsis", ["", " … "])
    def test_spans_lead_back_to_the_first_text_after_a_second_compression(
        self, pair: ModelPair, docs: list[Document], first_format: str, ellipsis: str
    ) -> None:
        settings = {"draft": pair, "ellipsis": ellipsis}
        first = SpecPCCompressor(**settings, ratio=0.8, metadata_format=first_format).compress_documents(docs, QUERY)
        second = SpecPCCompressor(**settings, ratio=0.4).compress_documents(first, QUERY)
        whole = {document.id: document.page_content for document in docs}
        between = {document.id: document.page_content for document in first}
        assert any(document.page_content != between[document.id] for document in second)
        for document in second:
            figures = document.metadata["spec_pc"]
            pieces = [whole[document.id][a:b] for a, b in figures["kept_spans"]]
            assert "".join(document.page_content.replace("…", "").split()) == "".join("".join(pieces).split())
            assert figures["original_tokens"] == len(whole[document.id])
            assert figures["ratio"] == pytest.approx(figures["compressed_tokens"] / figures["original_tokens"])

    def test_spans_of_a_text_that_was_replaced_meanwhile_are_those_of_the_new_one(self, pair: ModelPair) -> None:
        stale = {"spec_pc": {"kept_spans": [[300, 310]], "original_tokens": 999}}
        (document,) = documents()[:1]
        replaced = document.model_copy(update={"metadata": stale})
        (kept,) = SpecPCCompressor(draft=pair, ratio=0.5).compress_documents([replaced], QUERY)
        figures = kept.metadata["spec_pc"]
        assert all(document.page_content[a:b] in kept.page_content for a, b in figures["kept_spans"])
        assert figures["original_tokens"] == len(document.page_content)


class TestMistakes:
    def test_swapped_arguments_are_named(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        with pytest.raises(ConfigError, match="give the documents first"):
            compressor.compress_documents(QUERY, docs)  # type: ignore[arg-type]

    def test_a_lone_document_is_named(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        with pytest.raises(ConfigError, match="a single Document: put it into a list"):
            compressor.compress_documents(docs[0], QUERY)  # type: ignore[arg-type]

    def test_a_query_of_another_kind_is_named(self, compressor: SpecPCCompressor, docs: list[Document]) -> None:
        with pytest.raises(ConfigError, match="query=5 of type int"):
            compressor.compress_documents(docs, 5)  # type: ignore[arg-type]

    def test_what_is_no_retriever_cannot_be_wrapped(self, compressor: SpecPCCompressor) -> None:
        with pytest.raises(ConfigError, match=r"retriever='x' of type str: give a retriever"):
            compressor.wrap("x")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("of", "wrong", "meant"),
        [
            (SpecPCCompressor, "ratios", "ratio"),
            (ChatSpecKV, "temprature", "temperature"),
            (SpecKVLLM, "max_token", "max_tokens"),
        ],
    )
    def test_a_misspelt_setting_is_answered_with_the_near_one(self, of: Any, wrong: str, meant: str) -> None:
        with pytest.raises(ValidationError, match=f"no field '{wrong}': did you mean '{meant}'"):
            of(**{wrong: 1})

    @pytest.mark.parametrize("name", ["embedder", "embeddings", "embed_model"])
    def test_an_embedding_model_has_one_name_and_takes_the_frameworks(self, name: str) -> None:
        model = DeterministicFakeEmbedding(size=4)
        assert SpecPCCompressor(**{name: model}).embedder is model


def test_traces_show_documents_and_query(compressor: SpecPCCompressor, docs: list[Document]) -> None:
    with collect_runs() as runs:
        compressor.compress_documents(docs, QUERY)
        compressor.invoke({"context": docs, "question": QUERY})
    assert [run.inputs for run in runs.traced_runs] == [{"documents": docs, "query": QUERY}] * 2


async def test_a_cancelled_task_leaves_the_draft_to_the_next_call(pair: ModelPair, docs: list[Document]) -> None:
    long = [Document(f"Hut {i} is red. " + "Its stove burns oak. " * 30 + f"Hut {i} is old.") for i in range(12)]
    compressor = SpecPCCompressor(draft=pair, ratio=0.4)
    expected = compressor.compress_documents(docs, QUERY)
    with held(pair.draft) as reading:
        task = asyncio.create_task(compressor.acompress_documents(long, QUERY))
        await asyncio.to_thread(reading.begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reading.may_go_on.set()
        await asyncio.to_thread(wait_for_no_stream_threads)
        assert reading.passes == 1, "nothing more is read for a question that nobody asks any more"
    assert await compressor.acompress_documents(docs, QUERY) == expected
