"""The compiled Triton kernels on a GPU against float64 on the same device; on a CPU Triton's interpreter runs them."""

from __future__ import annotations

import os

import pytest
import torch
from devices import DEVICE, ON_GPU, on_device, only_on_gpu
from kernel_cases import (
    DTYPES,
    Call,
    Draw,
    check_close,
    check_gather_kv,
    check_vertical_slash,
    check_window_scores,
    gather_kv_call,
    vertical_slash_call,
    window_scores_call,
)
from spec_rag_kernels import gather_kv, questions_attention, vertical_slash_attention, window_scores
from torch import Tensor

pytest.importorskip("triton")
pytestmark = on_device

# 40 cases cover all dtypes, head dimensions (64 to 256) and query heads per KV head (1 to 8).
CASES = range(40) if ON_GPU else range(int(os.environ.get("SPEC_RAG_TEST_CASES", "10")))
MOST_KEYS, MOST_WINDOW = (3000, 2048) if ON_GPU else (60, 20)


def drawn(seed: int, index: int) -> Draw:
    return Draw(seed, index, most_keys=MOST_KEYS, most_window=MOST_WINDOW)


@pytest.mark.parametrize("index", CASES)
def test_window_scores_agrees_with_float64(index: int, seed: int) -> None:
    check_window_scores(window_scores_call(drawn(seed, index)).on(DEVICE), "triton")


@pytest.mark.parametrize("index", CASES)
def test_vertical_slash_attention_agrees_with_float64(index: int, seed: int) -> None:
    check_vertical_slash(vertical_slash_call(drawn(seed, index)).on(DEVICE), "triton")


@pytest.mark.parametrize("index", CASES)
def test_gather_kv_gathers_exact_entries(index: int, seed: int) -> None:
    check_gather_kv(gather_kv_call(drawn(seed, index)).on(DEVICE), "triton")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 16, 64, 2048] if ON_GPU else [1, 16])
def test_windows_of_one_to_2048_queries(window: int, dtype: torch.dtype, seed: int) -> None:
    draw = Draw(seed, 0)
    draw.dtype, draw.dim = dtype, 64
    keys = window + draw.random.randint(1, 50)
    query, key = draw.normal(1, 2, window, 64), draw.normal(1, 1, keys, 64)
    call = Call((query, key), {"scaling": 0.125, "reduce_heads": "kv"})
    check_window_scores(call.on(DEVICE), "triton")


@pytest.mark.parametrize("dtype", DTYPES)
def test_questions_attention_agrees_with_float64(dtype: torch.dtype, seed: int) -> None:
    draw, lengths = Draw(seed, 0), [3, 1, 5]
    draw.dtype = dtype
    query, key, value = (draw.normal(1, heads, n, 64).to(DEVICE) for heads, n in ((6, 9), (2, 50), (2, 50)))
    own_key, own_value = (draw.normal(1, 2, 9, 64).to(DEVICE) for _ in range(2))
    call = Call((query, key, value, own_key, own_value), {"scaling": 0.125})
    wide = call.in_float64()
    got = questions_attention(*call.tensors, lengths, scaling=0.125, backend="triton")
    truth = questions_attention(*wide.tensors, lengths, scaling=0.125, backend="naive")
    for ours, exact in zip(got, truth, strict=True):
        check_close(ours, exact, dtype, call)


@pytest.mark.parametrize("operator", ["window_scores", "vertical_slash_attention"])
def test_a_left_padded_row_equals_the_unpadded_one(operator: str, seed: int) -> None:
    draw = Draw(seed, 0)
    alone = [draw.normal(1, heads, 90, 64).to(DEVICE) for heads in (4, 2, 2)]
    padded = [torch.cat([tensor.new_full((1, tensor.shape[1], 13, 64), float("nan")), tensor], 2) for tensor in alone]
    mask = (torch.arange(103) >= 13)[None].to(DEVICE)
    if operator == "window_scores":
        expected = window_scores(alone[0][:, :, -8:], alone[1], scaling=0.125, backend="triton")
        rows = window_scores(alone[0][:, :, -8:], padded[1], scaling=0.125, key_mask=mask, backend="triton")[..., 13:]
    else:
        columns = torch.tensor([[[3, 40, 8], [70, 0, 11]]], device=DEVICE)
        options = {"slash": 6, "scaling": 0.125, "backend": "triton"}
        expected = vertical_slash_attention(*alone, columns=columns, **options)
        rows = vertical_slash_attention(*padded, columns=columns + 13, key_mask=mask, **options)[:, :, 13:]
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def long_call() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = 5000 if ON_GPU else 70
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, tokens, 64, generator=generator) for heads in (4, 2, 2))
    positions = torch.stack([torch.randperm(tokens, generator=generator)[:50].sort().values for _ in range(2)])[None]
    return query.to(DEVICE), key.to(DEVICE), value.to(DEVICE), positions.to(DEVICE)


@pytest.mark.parametrize("operator", ["window_scores", "vertical_slash_attention", "gather_kv"])
def test_calls_are_deterministic(operator: str) -> None:
    query, key, value, positions = long_call()
    calls = {
        "window_scores": lambda: window_scores(query[:, :, -16:], key, scaling=0.125, backend="triton"),
        "vertical_slash_attention": lambda: vertical_slash_attention(
            query, key, value, columns=positions, slash=30, scaling=0.125, backend="triton"
        ),
        "gather_kv": lambda: torch.stack(gather_kv(key, value, positions, backend="triton")),
    }
    assert torch.equal(calls[operator](), calls[operator]())


@only_on_gpu
@pytest.mark.parametrize("operator", ["window_scores", "vertical_slash_attention", "gather_kv"])
def test_a_call_is_captured_in_a_cuda_graph(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # filling memory with NaN would be captured too
    query, key, value, positions = long_call()

    def call() -> Tensor:
        if operator == "window_scores":
            return window_scores(query[:, :, -16:], key, scaling=0.125)
        if operator == "gather_kv":
            return torch.stack(gather_kv(key, value, positions))
        return vertical_slash_attention(query, key, value, columns=positions, slash=30, scaling=0.125)

    expected = call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
