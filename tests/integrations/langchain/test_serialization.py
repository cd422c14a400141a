"""dumpd and load: names and settings go into the file, weights do not, and nothing in it is executed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.runnables import RunnableLambda
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor

from spec_rag import LoadOptions, ModelPair, SpecPCConfig
from spec_rag.compression.encoding_cache import DocumentIndex

CLASSES = [SpecPCCompressor, SpecKVLLM, ChatSpecKV]
MODEL_SETTINGS = {
    "target": "a/target",
    "draft": "a/draft",
    "target_options": LoadOptions(dtype=torch.bfloat16, revision="v1", device_map={"": 0}),
    "draft_options": LoadOptions(dtype="float16"),
    "specpc": SpecPCConfig(max_capacity_prompt=512),
    "speckv": None,
    "max_tokens": 9,
    "temperature": 0.0,
    "repetition_penalty": 1.5,
    "seed": 0,
    "stop": ["x"],
    "timeout": 3.0,
    "max_retries": 0,
    "streaming": True,
    "generation_kwargs": {"num_beams": 2},
}


def revived(one: Any) -> Any:
    return loads(dumps(one), valid_namespaces=["langchain_spec_rag"], allowed_objects=CLASSES)


@pytest.mark.parametrize("of", [SpecKVLLM, ChatSpecKV])
def test_models_come_back_with_every_setting(of: Any) -> None:
    model = of(**MODEL_SETTINGS)
    assert revived(model)._identifying_params == model._identifying_params
    assert revived(of())._identifying_params == of()._identifying_params


def test_the_llm_s_own_setting_comes_back() -> None:
    assert revived(SpecKVLLM(use_chat_template=False)).use_chat_template is False


def test_compressor_comes_back_with_every_setting() -> None:
    settings = {"draft": "a/draft", "draft_options": {"dtype": "float16"}, "max_tokens": 9, "coverage": 0.5}
    settings |= {"scoring": "joint", "unit": "token", "title_links": False}
    settings |= {
        "retrieval": False,
        "language": "de",
        "calibration": "shipped",
        "keep": ("numbers", "^Note"),
        "keep_last": 1,
    }
    settings |= {"threshold": 0.5, "context_before": 1, "document_max_tokens": 50, "order": "relevance"}
    compressor = SpecPCCompressor(**settings, ellipsis="", keep_empty=True, count_with="gpt-4o")
    assert revived(compressor) == compressor
    assert revived(SpecPCCompressor()) == SpecPCCompressor()
    matching = revived(SpecPCCompressor(keep=[re.compile("numbers", re.IGNORECASE)])).keep
    assert [bool(re.search(one, "NUMBERS")) for one in matching] == [True]
    assert "numbers" not in matching


def test_a_function_in_keep_is_not_written_to_a_file() -> None:
    written = dumpd(SpecPCCompressor(keep=str.isupper))
    assert written["type"] == "not_implemented"
    assert "a function in keep" in written["repr"]


def test_nothing_is_loaded_by_writing_or_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(ModelPair, "load", refuse)
    for of in CLASSES:
        assert not getattr(revived(of()), "is_loaded", False)


def test_weights_are_not_written_and_named_pairs_come_back_by_name(pair: ModelPair) -> None:
    text = dumps(ChatSpecKV(pair=pair))
    assert len(text) < 2000
    assert loads(text, valid_namespaces=["langchain_spec_rag"], allowed_objects=CLASSES).target == "tiny-target"


@pytest.mark.parametrize("of", [SpecKVLLM, ChatSpecKV])
def test_loaded_models_without_names_are_refused_on_reading(of: Any, pair: ModelPair) -> None:
    nameless = of(pair=ModelPair(draft=pair.draft, target=pair.target, tokenizer=pair.tokenizer))
    assert dumpd(nameless)["type"] == "not_implemented"
    with pytest.raises(NotImplementedError):
        revived(nameless)


@pytest.mark.parametrize("name", ["draft", "index", "count_with"])
def test_loaded_objects_of_the_compressor_are_refused_on_reading(name: str, pair: ModelPair) -> None:
    values = {"draft": pair.draft, "index": DocumentIndex(), "count_with": len}
    with pytest.raises(NotImplementedError):
        revived(SpecPCCompressor(**{name: values[name]}))


def test_a_named_pair_of_the_compressor_comes_back_by_name(pair: ModelPair) -> None:
    assert revived(SpecPCCompressor(draft=pair)).draft == "tiny-draft"


@pytest.mark.parametrize("of", CLASSES)
def test_a_file_cannot_switch_on_code_from_a_checkpoint(of: Any) -> None:
    written = dumpd(of())
    written["kwargs"]["draft_options"] = {"trust_remote_code": True}
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(written, valid_namespaces=["langchain_spec_rag"], allowed_objects=CLASSES)


def test_who_writes_the_program_can(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = LoadOptions(trust_remote_code=True)
    assert ChatSpecKV(target_options=trusting).for_call(None, {"seed": 1}).target_options == trusting
    with pytest.raises(ValueError, match="trust_remote_code"):
        revived(ChatSpecKV(target_options=trusting))


def test_unknown_settings_in_a_file_are_refused() -> None:
    written = dumpd(SpecKVLLM())
    written["kwargs"]["callback"] = "os.system"
    with pytest.raises(ValueError, match="callback"):
        load(written, valid_namespaces=["langchain_spec_rag"], allowed_objects=CLASSES)


def test_what_is_written_is_json(pair: ModelPair) -> None:
    for one in (ChatSpecKV(**MODEL_SETTINGS), SpecKVLLM(**MODEL_SETTINGS), SpecPCCompressor(ratio=0.5)):
        assert json.loads(json.dumps(dumpd(one))) == dumpd(one)


def test_a_wrapped_retriever_is_written_as_far_as_its_retriever_is(pair: ModelPair) -> None:
    found: list[Document] = []
    wrapped = SpecPCCompressor().wrap(RunnableLambda(lambda query: found))
    written = dumpd(wrapped)
    assert written["kwargs"]["compressor"]["id"][-1] == "SpecPCCompressor"
    assert written["kwargs"]["retriever"]["type"] == "not_implemented"
