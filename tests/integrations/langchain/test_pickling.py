"""Adapters that have been used travel as settings and names, and their copies share the weights."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
from integrations.langchain.helpers import documents
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor

from spec_rag import LoadOptions, ModelPair
from spec_rag.compression.encoding_cache import DocumentIndex

QUERY = "Who was the mule?"


def used_by_name(index_folder: Path) -> tuple[list[Any], list[Any]]:
    """The three adapters after a call each, and what they answered."""
    names: dict[str, Any] = {"target": "tiny-target", "draft": "tiny-draft", "max_tokens": 8}
    chat, llm = ChatSpecKV(**names, speckv={"max_capacity_prompt": 64}), SpecKVLLM(**names, temperature=2.0, seed=1)
    compressor = SpecPCCompressor(draft="tiny-draft", ratio=0.4, index=DocumentIndex(index_folder))
    return [chat, llm, compressor], answers(chat, llm, compressor)


def answers(chat: ChatSpecKV, llm: SpecKVLLM, compressor: SpecPCCompressor) -> list[Any]:
    return [
        chat.invoke(QUERY * 9).text,
        llm.invoke(QUERY),
        [document.page_content for document in compressor.compress_documents(documents(), QUERY)],
    ]


def answer_there(data: bytes, queue: Any) -> None:
    adapters = pickle.loads(data)
    queue.put((answers(*adapters), adapters[2].index.hits))


@pytest.mark.usefixtures("in_models_folder")
def test_used_adapters_work_in_another_process_and_carry_no_weights(tmp_path: Path) -> None:
    adapters, expected = used_by_name(tmp_path)
    data = pickle.dumps(adapters)
    assert len(data) < 20_000
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=answer_there, args=(data, queue))
    worker.start()
    try:
        assert queue.get(timeout=120) == (expected, 3)
    finally:
        worker.join()


@pytest.mark.usefixtures("in_models_folder")
def test_copies_of_used_adapters_share_weights_and_settings(tmp_path: Path) -> None:
    adapters, expected = used_by_name(tmp_path)
    chat, llm, compressor = copies = [copy.deepcopy(adapter) for adapter in adapters]
    assert chat.load().target is llm.load().target is adapters[0].load().target
    assert compressor.index is adapters[2].index
    assert answers(*copies) == expected


def test_copies_of_adapters_with_loaded_models_share_them(pair: ModelPair) -> None:
    for adapter in (ChatSpecKV(pair=pair), SpecKVLLM(pair=pair)):
        assert copy.deepcopy(adapter).pair is adapter.model_copy(deep=True).pair is pair
    assert copy.deepcopy(SpecPCCompressor(draft=pair)).draft is pair


@pytest.mark.usefixtures("in_models_folder")
@pytest.mark.parametrize("of", [ChatSpecKV, SpecKVLLM])
def test_a_model_that_is_its_own_draft_is_loaded_once_whatever_its_options(of: Any) -> None:
    model = of(target="tiny-target", draft="tiny-target", target_options=LoadOptions(dtype="bfloat16"))
    pair = model.load()
    assert pair.draft is pair.target
    apart = of(target="tiny-target", draft="tiny-target", target_options={"dtype": "bfloat16"}, draft_options={})
    assert apart.load().draft is not apart.load().target
