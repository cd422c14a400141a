"""All Triton kernels on Triton's interpreter against float64, with random shapes from the run's seed.

Not collected directly: TRITON_INTERPRET must be set before triton is imported, so test_triton_interpreted.py runs this
file in its own process.
"""

import importlib

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import (
    Call,
    Draw,
    check_gather_kv,
    check_vertical_slash,
    check_window_scores,
    gather_kv_call,
    vertical_slash_call,
    window_scores_call,
)
from spec_rag_kernels.tiles import Tiles
from spec_rag_kernels.triton_common import soft_cap

CASES = range(66)
SMALL = Tiles(rows=16, keys=16, warps=4, stages=1)


def use_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    window = importlib.import_module("spec_rag_kernels.window_scores.triton")
    slash = importlib.import_module("spec_rag_kernels.vertical_slash_attention.triton")
    gather = importlib.import_module("spec_rag_kernels.gather_kv.triton")
    monkeypatch.setattr(window, "logsumexp_tiles", lambda dtype, dim: SMALL)
    monkeypatch.setattr(window, "reduce_tiles", lambda dtype, dim: SMALL)
    monkeypatch.setattr(slash, "attention_tiles", lambda dtype, dim: SMALL)
    monkeypatch.setattr(gather, "GATHER_TILES", SMALL)


@pytest.fixture
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Three of four cases use small tiles, so that short inputs have many blocks; the others the default tiles."""
    number: int = request.param
    if number % 4:
        use_small_tiles(monkeypatch)
    if number % 3 == 0:
        # Few programs mean few key ranges, each of several blocks.
        monkeypatch.setattr(importlib.import_module("spec_rag_kernels.tiles"), "MAX_PROGRAMS", 4)
    return number


@pytest.mark.parametrize("index", CASES, indirect=True)
def test_window_scores_agrees_with_float64(index: int, seed: int) -> None:
    check_window_scores(window_scores_call(Draw(seed, index, most_keys=70, most_window=30)), "triton")


@pytest.mark.parametrize("index", CASES, indirect=True)
def test_vertical_slash_attention_agrees_with_float64(index: int, seed: int) -> None:
    check_vertical_slash(vertical_slash_call(Draw(seed, index, most_keys=70)), "triton")


@pytest.mark.parametrize("index", CASES, indirect=True)
def test_gather_kv_gathers_exact_entries(index: int, seed: int) -> None:
    check_gather_kv(gather_kv_call(Draw(seed, index)), "triton")


def test_window_scores_with_every_window_offset_in_a_block(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    use_small_tiles(monkeypatch)
    draw = Draw(seed, 0)
    for keys in range(33, 50):
        query, key = draw.normal(1, 2, 5, 64), draw.normal(1, 1, keys, 64)
        for reduction in ("max", "sum"):
            check_window_scores(Call((query, key), {"scaling": 0.125, "reduce_queries": reduction}), "triton")


def test_vertical_slash_attention_with_every_band_offset_in_a_block(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    use_small_tiles(monkeypatch)
    draw = Draw(seed, 0)
    tensors = tuple(draw.normal(1, 1, 70, 64) for _ in range(3))
    for slash in range(1, 60):
        columns = torch.randperm(70, generator=draw.generator)[None, None, :40]
        check_vertical_slash(Call(tensors, {"scaling": 0.125, "columns": columns, "slash": slash}), "triton")


def test_window_scores_takes_a_window_of_2048_queries() -> None:
    query, key = torch.randn(1, 1, 2048, 64).bfloat16(), torch.randn(1, 1, 2100, 64).bfloat16()
    check_window_scores(Call((query, key), {"scaling": 0.125, "reduce_heads": "kv"}), "triton")


@triton.jit  # type: ignore[untyped-decorator]
def soft_cap_kernel(logits, out, COUNT: tl.constexpr, SOFTCAP: tl.constexpr):  # type: ignore[no-untyped-def]
    offsets = tl.arange(0, COUNT)
    tl.store(out + offsets, soft_cap(tl.load(logits + offsets), SOFTCAP))


@pytest.mark.parametrize("softcap", [5.0, 50.0, 72.134752])
def test_soft_cap_has_the_relative_precision_of_float32(softcap: float) -> None:
    """Relative error, from logits of a ten-thousandth of the cap to saturated ones."""
    size = softcap * torch.logspace(-4, 4, 4095).float()
    logits = torch.cat([-size, torch.zeros(2), size])
    capped = torch.empty_like(logits)
    soft_cap_kernel[(1,)](logits, capped, COUNT=logits.numel(), SOFTCAP=softcap)
    truth = softcap * torch.tanh(logits.double() / softcap)
    torch.testing.assert_close(capped.double(), truth, atol=0.0, rtol=4e-7)


def test_nan_in_padding_is_ignored() -> None:
    draw = Draw(0, 0)
    query, key, value = draw.normal(1, 2, 40, 64), draw.normal(1, 1, 40, 64), draw.normal(1, 1, 40, 64)
    key_mask = torch.arange(40)[None] >= 5
    for tensor in (query, key, value):
        tensor[:, :, :5] = float("nan")
    from spec_rag_kernels import vertical_slash_attention, window_scores

    columns = torch.tensor([[[2, 7, 11]]])
    out = vertical_slash_attention(
        query, key, value, columns=columns, slash=4, scaling=0.125, key_mask=key_mask, backend="triton"
    )
    assert not out[:, :, 5:].isnan().any()
    scores = window_scores(query, key, scaling=0.125, key_mask=key_mask, query_mask=key_mask, backend="triton")
    assert not scores.isnan().any()
    assert (scores[..., :5] == 0).all()
