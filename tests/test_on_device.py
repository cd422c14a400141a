"""Whole methods on a GPU: the paper's numbers, rows of batches, graphs, flash attention; on a CPU what can be had."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from devices import DEVICE, ON_GPU, on_device, only_on_gpu
from tiny import random_ids, tiny_model
from transformers import AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, generate_batch, score_prompt
from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.request import GenerationRequest

pytestmark = on_device

FOLDER = Path(__file__).parent / "golden"
CASES = json.loads(gzip.decompress((FOLDER / "cases.json.gz").read_bytes()))
CASES = CASES if ON_GPU else CASES[:2]
SPECPC = SpecPCConfig(max_capacity_prompt=80, window_size=16, kernel_size=8, starting_layer_index=1)
SPECKV = SpecKVConfig(max_capacity_prompt=40, lookahead_tokens=4)
PAPER = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return ModelPair(draft=tiny_model(seed=1).to(DEVICE), target=tiny_model(seed=2, layers=3).to(DEVICE))


@pytest.mark.parametrize("case", CASES, ids=[f"{case['model']}-{case['case']}" for case in CASES])
def test_the_paper_s_importance_selection_and_answers(case: dict) -> None:
    draft, target = (
        AutoModelForCausalLM.from_pretrained(FOLDER / "models" / f"{case['model']}-{role}", dtype=torch.float32)
        for role in ("draft", "target")
    )
    pair = ModelPair(draft=draft.to(DEVICE), target=target.to(DEVICE))
    prompt, specpc = torch.tensor(case["input_ids"]), SpecPCConfig(**case["specpc_config"])
    score = score_prompt(pair, prompt, specpc)
    # a GPU adds in another order than the CPU that made the reference
    assert (score.importance.cpu() - torch.tensor(case["specpc"]["importance"])).abs().max() < 1e-4
    assert score.selected.tolist() == case["specpc"]["selected"]
    budget = case["max_new_tokens"]
    assert generate(pair, prompt, max_new_tokens=budget).output_ids == case["dense_output_ids"]
    answer = generate(pair, prompt, specpc=specpc, max_new_tokens=budget)
    assert answer.output_ids == case["specpc"]["output_ids"]
    answer = generate(pair, prompt, speckv=SpecKVConfig(**case["speckv_config"]), max_new_tokens=budget)
    assert answer.output_ids == case["speckv"]["output_ids"]


@pytest.mark.parametrize("specpc", [None, SPECPC], ids=["", "specpc"])
@pytest.mark.parametrize("speckv", [None, SPECKV, PAPER], ids=["", "speckv", "paper"])
def test_a_row_of_a_batch_answers_as_alone(
    pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None
) -> None:
    prompts = [random_ids(150, 1), random_ids(90, 2), random_ids(30, 3)]
    together = generate_batch(pair, prompts, specpc, speckv, 8)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = generate(pair, prompt, specpc, speckv, 8)
        assert answer.output_ids == alone.output_ids
        assert not alone.kept_positions or answer.kept_positions == alone.kept_positions  # 30 tokens pass whole


def test_a_cpu_and_the_device_answer_alike(pair: ModelPair) -> None:
    on_cpu = ModelPair(draft=tiny_model(seed=1), target=tiny_model(seed=2, layers=3))
    ours, theirs = (generate(one, random_ids(200), SPECPC, SPECKV, 8) for one in (pair, on_cpu))
    assert ours.output_ids == theirs.output_ids
    assert ours.selected_positions == theirs.selected_positions
    assert ours.kept_positions == theirs.kept_positions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers(dtype: torch.dtype) -> None:
    half = ModelPair(draft=tiny_model(seed=1).to(DEVICE, dtype), target=tiny_model(seed=2).to(DEVICE, dtype))
    answer = generate(half, random_ids(150), SPECPC, SPECKV, 6)
    assert 1 <= answer.completion_tokens <= 6
    assert len(answer.kept_positions) == 4


@only_on_gpu
def test_a_step_of_decoding_is_captured_in_a_graph(pair: ModelPair) -> None:
    target = pair.require_target()
    batch = Batch.of([random_ids(150)])
    prompts = PaddedPrompts.of(target, batch)
    none = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead="none")
    last, place = prompts.ids[:, -1:], prompts.positions[:, -1:]

    def step(cache: object) -> torch.Tensor:
        return target(input_ids=last, position_ids=place, past_key_values=cache, use_cache=True).logits

    def fresh() -> object:
        return pruned_cache(GenerationRequest(pair, speckv=none), batch, prompts)

    with torch.no_grad():
        expected = step(fresh())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(fresh())
        torch.cuda.current_stream().wait_stream(side)
        cache = fresh()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(cache)
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
    torch.testing.assert_close(captured, expected)


@only_on_gpu
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed")
def test_flash_attention_is_what_a_model_asked_for_runs() -> None:
    sdpa, flash = (tiny_model(seed=2, head_dim=64).to(DEVICE, torch.bfloat16) for _ in range(2))
    flash.set_attn_implementation("flash_attention_2")
    answers = [generate(ModelPair(target=m), random_ids(150), speckv=PAPER, max_new_tokens=4) for m in (sdpa, flash)]
    kept = [torch.stack(answer.layer_positions) for answer in answers]
    assert kept[0].shape == kept[1].shape
    assert (kept[0] == kept[1]).float().mean() > 0.8  # bfloat16 rounds otherwise in each
