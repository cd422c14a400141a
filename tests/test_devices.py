"""Precisions and placements. There is one device here: what is tested is that nothing assumes where a layer is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, compress, generate

SPECPC = SpecPCConfig(max_capacity_prompt=80, window_size=16, kernel_size=8, starting_layer_index=1)
SPECKV = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_half_the_bytes(dtype: torch.dtype) -> None:
    full = ModelPair(draft=tiny_model(seed=1), target=tiny_model(seed=2))
    half = ModelPair(draft=tiny_model(seed=1).to(dtype), target=tiny_model(seed=2).to(dtype))
    a, b = (generate(pair, random_ids(150), SPECPC, SPECKV, max_new_tokens=6) for pair in (full, half))
    assert b.kv_bytes_kept * 2 == a.kv_bytes_kept
    assert [len(head) for layer in b.kept_positions for head in layer] == [40] * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_documents_are_read_in_half_precision(dtype: torch.dtype) -> None:
    pair = ModelPair(draft=tiny_model().to(dtype), tokenizer=tiny_tokenizer())
    result = compress(["One. Two. Three.", "Four. Five. Six."], "Which?", draft=pair, ratio=0.5)
    assert 0 < result.tokens_after <= result.budget_tokens


def test_draft_and_target_may_differ_in_precision() -> None:
    pair = ModelPair(draft=tiny_model(seed=1).to(torch.bfloat16), target=tiny_model(seed=2))
    assert generate(pair, random_ids(150), SPECPC, SPECKV, max_new_tokens=6).completion_tokens == 6


def test_a_target_whose_layers_are_placed_apart_answers_as_when_together(tmp_path: Path) -> None:
    tiny_model(seed=2).save_pretrained(tmp_path / "target")
    together = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    places = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    apart = AutoModelForCausalLM.from_pretrained(
        tmp_path / "target",
        device_map={
            "model.embed_tokens": "cpu",
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "cpu",
            **places,
        },
        offload_folder=tmp_path / "offload",
    )
    assert set(apart.hf_device_map.values()) == {"cpu", "disk"}
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead="none")
    answers = [
        generate(ModelPair(target=m), random_ids(150), speckv=config, max_new_tokens=6) for m in (together, apart)
    ]
    assert answers[0].output_ids == answers[1].output_ids
    assert answers[0].kept_positions == answers[1].kept_positions


def test_a_quantised_target_is_asked_for_through_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from spec_rag import LoadOptions

    arguments = LoadOptions(quantization_config="config", device_map="auto").from_pretrained_arguments()
    assert arguments["quantization_config"] == "config"
    assert arguments["device_map"] == "auto"
    assert arguments["dtype"] == "auto"
