"""SpecPCCompressor by itself: what it keeps of nodes besides their text, and how it is told what to do."""

from __future__ import annotations

import asyncio
import copy
import json
import multiprocessing
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from integrations.llama_index.helpers import Observed, strict_tokenizer
from integrations.tiny_llamas import held
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.node_parser import SentenceWindowNodeParser
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.schema import (
    Document,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import CompressionEvent, SpecPCCompressor
from threads import wait_for_no_stream_threads

import spec_rag
from spec_rag import DocumentIndex
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig

QUERY = "What was the mule called?"


def compressor_of(pair: ModelPair, **settings: Any) -> SpecPCCompressor:
    return SpecPCCompressor(draft=pair, **settings)


def _tokens(nodes: list[NodeWithScore], mode: MetadataMode = MetadataMode.NONE) -> int:
    return sum(len(node.node.get_content(metadata_mode=mode).encode()) for node in nodes)


def test_each_node_keeps_its_identity_and_only_its_own_text(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressed = compressor_of(pair, ratio=0.6).postprocess_nodes(nodes, query_str=QUERY)
    originals = {node.node_id: node for node in nodes}
    assert compressed
    assert [node.node_id for node in compressed] == [i for i in originals if i in {n.node_id for n in compressed}]
    assert _tokens(compressed) <= 0.6 * _tokens(nodes)
    for node in compressed:
        original = originals[node.node_id]
        spans = node.metadata["spec_pc"]["kept_spans"]
        assert node.score == original.score
        assert node.node.relationships == original.node.relationships
        assert {k: v for k, v in node.metadata.items() if k != "spec_pc"} == original.metadata
        assert spans
        assert all(original.text[start:end] in node.text for start, end in spans)
        assert node.node.start_char_idx == original.node.start_char_idx + spans[0][0]
        assert node.node.end_char_idx == original.node.start_char_idx + spans[-1][1]


@pytest.mark.parametrize("whole", [False, True])
def test_only_a_node_with_its_whole_text_keeps_its_embedding(pair: ModelPair, whole: bool) -> None:
    text = "The dome was opened in 1931. It is painted copper green. The mule was called Saffron."
    resource = MediaResource(text=text, mimetype="text/markdown", embeddings={"dense": [1.0, 2.0]})
    own = {"embedding": [0.5, 0.25], "metadata": {"vector": [1, 2], "title": "Dome"}, "text_template": "{content}!"}
    given = [
        NodeWithScore(node=TextNode(text=f"{text} It is node 0.", mimetype="text/markdown", **own)),
        NodeWithScore(node=Node(text_resource=resource, **own)),
        NodeWithScore(node=Document(text=f"{text} It is node 2.", **own)),
    ]
    before = [one.node.model_copy(deep=True) for one in given]
    compressor = compressor_of(pair, document_max_tokens=200 if whole else 60, ratio=1.0, keep_empty=True)
    compressed = compressor.postprocess_nodes(given, query_str=QUERY)
    for one, original in zip(compressed, given, strict=True):
        assert (one.get_content() == original.get_content()) is whole
        assert one.node.embedding == ([0.5, 0.25] if whole else None)
        assert ("vector" in one.metadata) is whole
        assert one.node.get_content(MetadataMode.LLM).endswith("!")
    for one in compressed[:2]:
        resource = getattr(one.node, "text_resource", one.node)
        assert resource.mimetype == "text/markdown"
        assert getattr(resource, "embeddings", None) == (
            before[1].text_resource.embeddings if whole and resource is not one.node else None
        )
    assert [one.node for one in given] == before


@pytest.mark.parametrize(
    "query",
    [
        QueryBundle(QUERY),
        QUERY,
        [ChatMessage(role="user", blocks=[TextBlock(text=QUERY), ImageBlock(url="http://127.0.0.1/x.png")])],
        [{"role": "user", "content": [{"type": "text", "text": QUERY}]}],
        QueryBundle([{"type": "text", "text": QUERY}]),  # type: ignore[arg-type]
    ],
)
def test_a_query_of_content_parts_is_its_text(
    pair: ModelPair, nodes: list[NodeWithScore], observed: Observed, query: Any
) -> None:
    compressor_of(pair).postprocess_nodes(nodes, query_bundle=query)
    (event,) = [one for one in observed.events.seen if isinstance(one, CompressionEvent)]
    assert event.query == QUERY


def test_the_nodes_that_came_in_are_not_changed(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    before = [node.to_dict() for node in nodes]
    compressed = compressor_of(pair).postprocess_nodes(nodes, query_str=QUERY)
    for node in compressed:
        node.metadata["note"] = "mine"
        node.node.relationships.pop(NodeRelationship.SOURCE)
        node.node.excluded_llm_metadata_keys.append("note")
    assert [node.to_dict() for node in nodes] == before


def test_paragraphs_and_reference_like_text_survive_in_their_place(pair: ModelPair) -> None:
    text = "# Accounts\n\n<#ref1#> 2023 revenue rose to 14.\n\n[2] 2024 revenue fell to 9.\n\nThe end."
    node = NodeWithScore(node=TextNode(text=text), score=None)
    compressed = compressor_of(pair, max_tokens=1000).postprocess_nodes([node], query_str="revenue")
    assert [n.text for n in compressed] == [text], "what fits is not touched: no first or last piece is lost"
    [cut] = compressor_of(pair, ratio=0.6).postprocess_nodes([node], query_str="revenue")
    assert all(text[start:end] in cut.text for start, end in cut.metadata["spec_pc"]["kept_spans"])


def test_the_figures_are_under_one_key_that_neither_llm_nor_embedder_sees(
    pair: ModelPair, nodes: list[NodeWithScore]
) -> None:
    for node in compressor_of(pair, ratio=0.6).postprocess_nodes(nodes, query_str=QUERY):
        figures = node.metadata["spec_pc"]
        assert set(figures) == {"original_tokens", "compressed_tokens", "ratio", "draft_model", "kept_spans", "handle"}
        assert figures["compressed_tokens"] == len(node.text.encode())
        assert figures["ratio"] == pytest.approx(figures["compressed_tokens"] / figures["original_tokens"])
        assert figures["draft_model"] == "tiny-draft"
        assert json.loads(json.dumps(figures)) == figures
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "spec_pc" not in node.node.get_content(metadata_mode=mode)
            assert "file_name" in node.node.get_content(metadata_mode=mode)


def test_compressing_twice_hides_the_figures_still(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressor = compressor_of(pair, ratio=0.7)
    twice = compressor.postprocess_nodes(compressor.postprocess_nodes(nodes, query_str=QUERY), query_str=QUERY)
    assert all(node.node.excluded_llm_metadata_keys == ["spec_pc"] for node in twice)


def test_nodes_with_nothing_kept_are_dropped_unless_asked_for(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    tight = {"max_tokens": 30}
    kept = compressor_of(pair, **tight).postprocess_nodes(nodes, query_str=QUERY)
    assert 0 < len(kept) < len(nodes)
    everyone = compressor_of(pair, **tight, keep_empty=True).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node_id for node in everyone] == [node.node_id for node in nodes]
    assert [node.text for node in everyone if node.text] == [node.text for node in kept]
    empty = next(node for node in everyone if not node.text)
    assert empty.metadata["spec_pc"]["kept_spans"] == []


def test_nodes_without_text_go_on_as_they_are(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    image = NodeWithScore(node=ImageNode(image_path="dome.png", text="a caption"), score=0.4)
    picture = NodeWithScore(node=Node(image_resource=MediaResource(data=b"x")), score=0.3)
    mixed = [image, *nodes, picture]
    compressed = compressor_of(pair, max_tokens=60).postprocess_nodes(mixed, query_str=QUERY)
    assert compressed[0] is image
    assert compressed[-1] is picture
    assert compressor_of(pair).postprocess_nodes([image], query_str=QUERY) == [image]


def test_documents_are_compressed_as_text_nodes_are(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    given = [
        NodeWithScore(node=Document(text=n.text, id_=n.node_id, metadata=n.metadata), score=n.score) for n in nodes
    ]
    texts = [node.text for node in compressor_of(pair).postprocess_nodes(nodes, query_str=QUERY)]
    compressed = compressor_of(pair).postprocess_nodes(given, query_str=QUERY)
    assert [node.node.get_content() for node in compressed] == texts
    assert "spec_pc" not in compressed[0].node.get_content(metadata_mode=MetadataMode.LLM)


@pytest.mark.parametrize("query", [{}, {"query_bundle": QueryBundle("  ")}, {"query_str": ""}])
def test_a_missing_query_is_a_clear_error(pair: ModelPair, nodes: list[NodeWithScore], query: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="query_str"):
        compressor_of(pair).postprocess_nodes(nodes, **query)


async def test_no_nodes_give_no_nodes_and_load_nothing() -> None:
    compressor = SpecPCCompressor(draft="/no/such/model")
    assert compressor.postprocess_nodes([], query_str=QUERY) == []
    assert await compressor.apostprocess_nodes([]) == []


def test_metadata_can_count_towards_the_budget(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    budget = 130
    alone = compressor_of(pair, max_tokens=budget).postprocess_nodes(nodes, query_str=QUERY)
    assert _tokens(alone) <= budget
    counted = compressor_of(pair, max_tokens=budget, metadata_mode="llm").postprocess_nodes(nodes, query_str=QUERY)
    assert 0 < _tokens(counted, MetadataMode.LLM) <= budget
    for node in counted:
        figures = node.metadata["spec_pc"]
        assert figures["compressed_tokens"] == len(node.node.get_content(metadata_mode=MetadataMode.LLM).encode())
    with pytest.raises(ValueError, match="metadata of 3 nodes takes 51 tokens of a budget of 40"):
        compressor_of(pair, max_tokens=40, metadata_mode=MetadataMode.LLM).postprocess_nodes(nodes, query_str=QUERY)


def test_the_budget_is_counted_as_asked(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    words = compressor_of(pair, max_tokens=12, count_with=lambda text: len(text.split()))
    compressed = words.postprocess_nodes(nodes, query_str=QUERY)
    assert 0 < sum(len(node.text.split()) for node in compressed) <= 12
    assert sum(node.metadata["spec_pc"]["compressed_tokens"] for node in compressed) <= 12
    by_tokenizer = compressor_of(pair, max_tokens=60, count_with=strict_tokenizer())
    assert 0 < _tokens(by_tokenizer.postprocess_nodes(nodes, query_str=QUERY)) <= 60


def test_index_and_embedding_model_take_part(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    asked: list[str] = []

    class Watched(MockEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return super()._get_text_embeddings(texts)

    index = DocumentIndex()
    compressor = compressor_of(pair, index=index, embed_model=Watched(embed_dim=4))
    first = compressor.postprocess_nodes(nodes, query_str=QUERY)
    held = index.held_bytes
    assert held > 0
    assert any("mule" in text for text in asked)
    again = compressor.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.text for node in again] == [node.text for node in first]
    assert index.held_bytes == held


async def test_the_event_loop_goes_on_and_the_result_is_the_same(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    threads = set()

    def count(text: str) -> int:
        threads.add(threading.current_thread())
        return len(text.encode())

    compressor = compressor_of(pair, count_with=count)
    compressed = await compressor.apostprocess_nodes(nodes, query_str=QUERY)
    assert threading.main_thread() not in threads
    expected = compressor_of(pair).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.text for node in compressed] == [node.text for node in expected]
    many = await asyncio.gather(*(compressor.apostprocess_nodes(nodes, query_str=QUERY) for _ in range(6)))
    assert all([node.text for node in each] == [node.text for node in expected] for each in many)


async def test_instrumentation_sees_a_span_and_the_figures(
    pair: ModelPair, nodes: list[NodeWithScore], observed: Observed
) -> None:
    await compressor_of(pair, ratio=0.25).apostprocess_nodes(nodes, query_str=QUERY)
    spans = {span.id_: span for span in observed.completed_spans}
    names = [name.split("-")[0] for name in spans]
    assert names == ["SpecPCCompressor._postprocess_nodes", "SpecPCCompressor._apostprocess_nodes"]
    [event] = observed.of(CompressionEvent)
    assert event.span_id in spans
    assert event.tokens_before == _tokens(nodes)
    assert 0 < event.tokens_after <= event.budget_tokens == event.tokens_before // 4
    assert (event.nodes_before, event.draft, event.query) == (3, "tiny-draft", QUERY)
    assert 0 < event.draft_seconds <= event.seconds
    assert json.dumps(event.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratios": 0.5}, "ratios"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({"max_tokens": 10, "ratio": 0.5}, "both set the size"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"unit": "paragraph"}, "sentence"),
        ({"draft": 3}, "draft of type int"),
        ({"draft_options": {"device": "cpu", "device_map": "auto"}}, "contradict"),
    ],
)
def test_a_bad_setting_is_refused_where_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecPCCompressor(**settings)


def test_every_setting_of_the_core_is_a_field_with_the_same_default() -> None:
    compressor = SpecPCCompressor()
    assert {name: getattr(compressor, name) for name in CompressionConfig.model_fields} == dict(CompressionConfig())


def test_what_is_held_survives_serialisation_and_functions_say_that_they_do_not() -> None:
    compressor = SpecPCCompressor(keep=["dates", re.compile("dates", re.IGNORECASE)], keep_first=2, order="relevance")
    back = SpecPCCompressor.from_dict(json.loads(compressor.to_json()))
    assert (back.keep, back.keep_first, back.order) == (("dates", "(?i)(?:dates)"), 2, "relevance")
    with pytest.raises(ValueError, match="keep='isupper' is a function"):
        SpecPCCompressor(keep=str.isupper).to_dict()


def test_by_relevance_nodes_change_places_and_images_stay_in_theirs(
    pair: ModelPair, nodes: list[NodeWithScore]
) -> None:
    scored = [NodeWithScore(node=one.node, score=score) for one, score in zip(nodes, (0.0, 0.0, 90.0), strict=False)]
    image = NodeWithScore(node=ImageNode(image="aGk="), score=0.1)
    given = [scored[0], image, *scored[1:]]
    plain = compressor_of(pair, ratio=0.6, keep_empty=True, metadata_mode="llm")
    found = plain.postprocess_nodes(given, query_str=QUERY)
    moved = plain.model_copy(update={"order": "relevance"}).postprocess_nodes(given, query_str=QUERY)
    assert moved[1].node_id == image.node_id
    assert [one.node_id for one in moved] != [one.node_id for one in found]
    # text, score and figures went along
    assert {n.node_id: (n.score, n.metadata) for n in moved} == {n.node_id: (n.score, n.metadata) for n in found}


def test_settings_survive_serialisation_without_weights(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    compressor = compressor_of(
        pair, max_tokens=64, coverage=0.9, unit="token", metadata_mode="llm", index=DocumentIndex()
    )
    data = json.loads(compressor.to_json())
    back = SpecPCCompressor.from_dict(data)
    assert back.to_dict() == compressor.to_dict()
    assert (back.draft, back.max_tokens, back.unit, back.metadata_mode) == ("tiny-draft", 64, "token", MetadataMode.LLM)
    assert data["class_name"] == "SpecPCCompressor"
    with_models = SpecPCCompressor.from_dict({**data, "metadata_mode": "none"}, draft=pair)
    same = compressor_of(pair, max_tokens=64, coverage=0.9, unit="token")
    expected = [node.text for node in same.postprocess_nodes(nodes, query_str=QUERY)]
    assert [node.text for node in with_models.postprocess_nodes(nodes, query_str=QUERY)] == expected


def test_what_cannot_be_serialised_says_so() -> None:
    with pytest.raises(ValueError, match="count_with"):
        SpecPCCompressor(count_with=len).to_dict()
    data = SpecPCCompressor(draft_options={"trust_remote_code": True}).to_dict()
    with pytest.raises(ValueError, match="trust_remote_code"):
        SpecPCCompressor.from_dict(data)


def test_compressors_of_the_same_name_share_their_weights_and_keep_them(pair: ModelPair, tmp_path: Any) -> None:
    assert pair.draft is not None
    assert pair.tokenizer is not None
    pair.draft.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    first, second = SpecPCCompressor(draft=tmp_path), SpecPCCompressor(draft=str(tmp_path), ratio=0.5)
    assert first.load() is first.load()
    assert first.load().model is second.load().model


@pytest.mark.parametrize("ellipsis", ["", " … "])
def test_spans_lead_back_to_the_first_text_after_a_second_compression(
    pair: ModelPair, nodes: list[NodeWithScore], ellipsis: str
) -> None:
    first = compressor_of(pair, ratio=0.8, ellipsis=ellipsis).postprocess_nodes(nodes, query_str=QUERY)
    second = compressor_of(pair, ratio=0.6, ellipsis=ellipsis).postprocess_nodes(first, query_str=QUERY)
    whole = {node.node_id: node.text for node in nodes}
    assert [node.text for node in second] != [node.text for node in first]
    for node in second:
        figures = node.metadata["spec_pc"]
        pieces = [whole[node.node_id][a:b] for a, b in figures["kept_spans"]]
        assert "".join(node.text.replace("…", "").split()) == "".join("".join(pieces).split())
        assert figures["original_tokens"] == len(whole[node.node_id])
        assert figures["ratio"] == pytest.approx(figures["compressed_tokens"] / figures["original_tokens"])


def test_a_sentence_that_was_replaced_by_its_window_keeps_its_offsets(pair: ModelPair) -> None:
    """SentenceWindowNodeParser and MetadataReplacementPostProcessor, as LlamaIndex's own guide has them."""
    text = "The dome was opened in 1931. It is painted copper green. The mule was called Saffron. Soup is served."
    parser = SentenceWindowNodeParser.from_defaults(window_size=2, sentence_splitter=lambda t: re.split(r"(?<=\.) ", t))
    sentences = parser.get_nodes_from_documents([Document(text=text)])
    given = [NodeWithScore(node=node, score=1.0) for node in sentences]
    replaced = MetadataReplacementPostProcessor(target_metadata_key="window").postprocess_nodes(given)
    windows = {node.node_id: node.text for node in replaced}
    offsets = {node.node_id: (node.node.start_char_idx, node.node.end_char_idx) for node in replaced}
    for node in compressor_of(pair, ratio=0.5).postprocess_nodes(replaced, query_str=QUERY):
        assert len(windows[node.node_id]) > offsets[node.node_id][1] - offsets[node.node_id][0]
        assert (node.node.start_char_idx, node.node.end_char_idx) == offsets[node.node_id]
        for start, end in node.metadata["spec_pc"]["kept_spans"]:
            assert windows[node.node_id][start:end] in node.text


def test_used_compressors_travel_as_settings_and_share_their_draft_with_copies(
    pair: ModelPair, nodes: list[NodeWithScore], tmp_path: Path
) -> None:
    assert pair.draft is not None
    assert pair.tokenizer is not None
    pair.draft.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    compressor = SpecPCCompressor(draft=tmp_path, ratio=0.5, index=DocumentIndex())
    expected = [node.text for node in compressor.postprocess_nodes(nodes, query_str=QUERY)]
    data = pickle.dumps(compressor)
    assert len(data) < 5000
    copies = [pickle.loads(data), copy.deepcopy(compressor)]
    for one in copies:
        assert [node.text for node in one.postprocess_nodes(nodes, query_str=QUERY)] == expected
        assert one.load().model is compressor.load().model
    assert copies[1].index is compressor.index


def answer_there(data: bytes, nodes: list[NodeWithScore], queue: Any) -> None:
    compressor, llm = pickle.loads(data)
    queue.put(([n.text for n in compressor.postprocess_nodes(nodes, query_str=QUERY)], llm.complete(QUERY).text))


def test_used_adapters_work_in_another_process(pair: ModelPair, nodes: list[NodeWithScore], tmp_path: Path) -> None:
    assert pair.draft is not None
    assert pair.tokenizer is not None
    pair.draft.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    compressor = SpecPCCompressor(draft=tmp_path, ratio=0.5)
    llm = SpecKVLLM(target=tmp_path, draft=tmp_path, max_tokens=6, speckv={"max_capacity_prompt": 40, "window_size": 8})
    expected = [n.text for n in compressor.postprocess_nodes(nodes, query_str=QUERY)], llm.complete(QUERY).text
    assert copy.deepcopy(llm).load().target is llm.load().target
    data = pickle.dumps((compressor, llm))
    assert len(data) < 10_000
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=answer_there, args=(data, nodes, queue))
    worker.start()
    try:
        assert queue.get(timeout=120) == expected
    finally:
        worker.join()


async def test_a_cancelled_task_leaves_the_draft_to_the_next_call(pair: ModelPair, nodes: list[NodeWithScore]) -> None:
    assert pair.draft is not None
    text = "Its stove burns oak. " * 30
    long = [NodeWithScore(node=TextNode(text=f"Hut {i} is red. {text}Hut {i} is old.")) for i in range(12)]
    compressor = compressor_of(pair)
    expected = [node.text for node in compressor.postprocess_nodes(nodes, query_str=QUERY)]
    with held(pair.draft) as reading:
        task = asyncio.create_task(compressor.apostprocess_nodes(long, query_str=QUERY))
        await asyncio.to_thread(reading.begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reading.may_go_on.set()
        await asyncio.to_thread(wait_for_no_stream_threads)
        assert reading.passes == 1, "nothing more is read for a question that nobody asks any more"
    assert [node.text for node in await compressor.apostprocess_nodes(nodes, query_str=QUERY)] == expected


@pytest.mark.parametrize("name", ["embedder", "embed_model", "embeddings"])
def test_an_embedding_model_has_one_name_and_takes_the_frameworks(name: str) -> None:
    model = MockEmbedding(embed_dim=4)
    assert SpecPCCompressor(**{name: model}).embedder is model


def test_a_misspelt_setting_is_answered_with_the_near_one() -> None:
    with pytest.raises(ValueError, match="no field 'ratios': did you mean 'ratio'"):
        SpecPCCompressor(ratios=0.5)


def test_every_field_is_described() -> None:
    own = [name for name in SpecPCCompressor.model_fields if name != "callback_manager"]
    assert {"ratio", "draft", "embedder"} <= set(own)
    assert [name for name in own if not SpecPCCompressor.model_fields[name].description] == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(MemoryError("full"), "out of memory"), (OSError("gone"), "error OSError"), (None, "deadline")],
)
def test_after_a_fault_nodes_go_on_whole(
    fault: Exception | None, reason: str, pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        if fault is None:
            assert kwargs["cancelled"].wait(20)
        raise fault or AssertionError

    monkeypatch.setattr(spec_rag, "compress", failing)
    seconds = 0.3 if fault is None else 60
    nodes = [NodeWithScore(node=TextNode(text="One. Two."), score=0.5), NodeWithScore(node=TextNode(text="Three."))]
    found = SpecPCCompressor(draft=pair, deadline_seconds=seconds).postprocess_nodes(nodes, query_str="Who?")
    assert [(one.text, one.score, one.node_id) for one in found] == [
        (one.text, one.score, one.node_id) for one in nodes
    ]
    assert found[0].metadata["spec_pc"] == {"not_shortened": reason}
    assert "spec_pc" not in nodes[0].metadata
    strict = SpecPCCompressor(draft=pair, deadline_seconds=seconds, on_error="raise")
    with pytest.raises(type(fault) if fault else TimeoutError):
        strict.postprocess_nodes(nodes, query_str="Who?")


def test_no_validator_of_a_field_is_a_class_whose_signature_differs_between_versions_of_python() -> None:
    """On Python 3.13 pydantic 2.14 refuses an enum as a validator: its signature is (*values)."""
    for name, field in SpecPCCompressor.model_fields.items():
        assert not any(isinstance(getattr(one, "func", None), type) for one in field.metadata), name
