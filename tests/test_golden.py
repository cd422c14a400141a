"""The paper's numbers: what the authors' code computed on tiny models of three architectures."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, score_prompt
from spec_rag.attention.capture import capture
from spec_rag.attention.importance import kv_scores
from spec_rag.attention.token_selection import smooth
from spec_rag.results import Answer

FOLDER = Path(__file__).parent / "golden"
CASES = json.loads(gzip.decompress((FOLDER / "cases.json.gz").read_bytes()))
IDS = [f"{case['model']}-{case['case']}" for case in CASES]
TIE = 1e-6


@cache
def golden_pair(name: str, dtype: torch.dtype = torch.float32) -> ModelPair:
    draft, target = (
        AutoModelForCausalLM.from_pretrained(FOLDER / "models" / f"{name}-{role}", dtype=dtype)
        for role in ("draft", "target")
    )
    return ModelPair(draft=draft, target=target)


def prefix(answer: Answer, window: int) -> list[list[list[int]]]:
    """Kept positions before the observation window."""
    last = answer.target_prompt_tokens - 1 - window
    return [[[p for p in head if p < last] for head in layer] for layer in answer.kept_positions]


def assert_same_positions(case: dict, answer: Answer, expected: list, config: SpecKVConfig, pair: ModelPair) -> None:
    """Identical, but for keys whose smoothed scores differ by less than 1e-6 and may stand in for each other."""
    found = prefix(answer, config.window_size)
    if found == expected:
        return
    row = torch.tensor(case["input_ids"])
    if answer.selected_positions is not None:
        row = row[answer.selected_positions]
    scores: list[torch.Tensor] = []

    def observer(call):  # type: ignore[no-untyped-def]
        scores.append(smooth(kv_scores(call, config, len(row), None), config.kernel_size, config.pool_type)[0])

    ids = torch.cat([row, torch.tensor(answer.lookahead_ids)])[None]
    with capture(pair.target, observer), torch.no_grad():
        pair.target(input_ids=ids)
    for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for head, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            swapped_in = sorted(float(scores[layer][head, p]) for p in set(a) - set(b))
            swapped_out = sorted(float(scores[layer][head, p]) for p in set(b) - set(a))
            assert len(a) == len(b)
            assert swapped_in == pytest.approx(swapped_out, abs=TIE), f"layer {layer}, KV head {head}"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_specpc_scores_and_selects_as_the_paper(case: dict) -> None:
    config = SpecPCConfig(**case["specpc_config"])
    prompt = torch.tensor(case["input_ids"])
    score = score_prompt(golden_pair(case["model"]), prompt, config)
    expected = torch.tensor(case["specpc"]["importance"])
    # the reference is float32 too: where its own rounding, seen from float64, is above 1e-5, that is the yardstick
    exact = score_prompt(golden_pair(case["model"], torch.float64), prompt, config).importance
    rounding = float((expected - exact).abs().max())
    assert float((score.importance - expected).abs().max()) <= max(1e-5, rounding)
    assert score.selected.tolist() == case["specpc"]["selected"]
    assert score.lookahead_ids.tolist() == case["specpc"]["lookahead_ids"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_dense_and_specpc_answer_as_the_paper(case: dict) -> None:
    pair, prompt = golden_pair(case["model"]), torch.tensor(case["input_ids"])
    budget = case["max_new_tokens"]
    assert generate(pair, prompt, max_new_tokens=budget).output_ids == case["dense_output_ids"]
    answer = generate(pair, prompt, specpc=SpecPCConfig(**case["specpc_config"]), max_new_tokens=budget)
    assert answer.output_ids == case["specpc"]["output_ids"]
    assert answer.selected_positions == case["specpc"]["selected"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_speckv_keeps_and_answers_as_the_paper(case: dict) -> None:
    pair = golden_pair(case["model"])
    config = SpecKVConfig(**case["speckv_config"])
    answer = generate(pair, torch.tensor(case["input_ids"]), speckv=config, max_new_tokens=case["max_new_tokens"])
    assert answer.lookahead_ids == case["speckv"]["lookahead_ids"]
    assert_same_positions(case, answer, case["speckv"]["kept_prefix_positions"], config, pair)
    assert answer.output_ids == case["speckv"]["output_ids"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_speckvpc_keeps_and_answers_as_the_paper(case: dict) -> None:
    pair = golden_pair(case["model"])
    specpc = SpecPCConfig(**case["speckvpc_config"]["specpc"])
    speckv = SpecKVConfig(**case["speckvpc_config"]["speckv"])
    answer = generate(
        pair, torch.tensor(case["input_ids"]), specpc=specpc, speckv=speckv, max_new_tokens=case["max_new_tokens"]
    )
    assert answer.target_prompt_tokens == case["speckvpc"]["prompt_tokens_after_specpc"]
    assert_same_positions(case, answer, case["speckvpc"]["kept_prefix_positions"], speckv, pair)
    assert answer.output_ids == case["speckvpc"]["output_ids"]
