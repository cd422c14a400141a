"""vertical_slash_attention on a CPU: the torch path against float64 and dense attention, and argument checks."""

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import Draw, check_vertical_slash, load_benchmark, vertical_slash_call
from spec_rag_kernels import vertical_slash_attention

chunked = importlib.import_module("spec_rag_kernels.vertical_slash_attention.chunked")
parallel = importlib.import_module("spec_rag_kernels.parallel")


@pytest.mark.parametrize("index", range(90))
def test_the_torch_path_agrees_with_float64(index: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS_PER_BLOCK", (1, 100, 768)[index % 3])
    monkeypatch.setattr(chunked, "MIN_QUERIES_PER_BLOCK", (7, 64)[index % 2])
    monkeypatch.setattr(parallel, "SMALL_WORK", 0 if index % 5 == 0 else 2**22)
    check_vertical_slash(vertical_slash_call(Draw(seed, index)), "torch")


@pytest.mark.parametrize("whole", ["slash", "columns"])
def test_a_band_or_columns_over_everything_are_dense_causal_attention(whole: str, seed: int) -> None:
    draw = Draw(seed, 0)
    query, key, value = draw.normal(2, 4, 150, 64), draw.normal(2, 2, 150, 64), draw.normal(2, 2, 150, 64)
    columns = torch.arange(150).flip(0).expand(2, 2, -1)
    out = vertical_slash_attention(
        query, key, value, columns=columns, slash=150 if whole == "slash" else 1, scaling=0.125
    )
    dense = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out, dense, atol=1e-5, rtol=1e-5)


def test_a_left_padded_row_attends_like_an_unpadded_one_and_its_padding_gives_zeros(seed: int) -> None:
    draw = Draw(seed, 0)
    tensors = [draw.normal(1, heads, 90, 64) for heads in (4, 2, 2)]
    columns = torch.tensor([[[3, 40, 8], [70, 0, 11]]])
    alone = vertical_slash_attention(*tensors, columns=columns, slash=6, scaling=0.125)
    padded = [torch.cat([torch.full((1, t.shape[1], 13, 64), float("nan")), t], dim=2) for t in tensors]
    mask = torch.arange(103)[None] >= 13
    out = vertical_slash_attention(*padded, columns=columns + 13, slash=6, scaling=0.125, key_mask=mask)
    torch.testing.assert_close(out[:, :, 13:], alone, atol=1e-5, rtol=1e-5)
    assert (out[:, :, :13] == 0).all()


def test_no_n_by_n_tensor_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tokens = 6000
    query, key, value = torch.randn(1, 1, tokens, 64), torch.randn(1, 1, tokens, 64), torch.randn(1, 1, tokens, 64)
    columns = torch.arange(100).expand(1, 1, -1)
    held = load_benchmark("measure").working_bytes(
        lambda: vertical_slash_attention(query, key, value, columns=columns, slash=100, scaling=0.125)
    )
    assert held < 4 * tokens * tokens / 10


TENSOR = torch.zeros(1, 2, 9, 64)
COLUMNS = torch.tensor([[[1, 5], [0, 8]]])


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("query", {"query": TENSOR[0]}),
        ("key", {"key": TENSOR[:, :, :8]}),
        ("value", {"value": TENSOR.half()}),
        ("heads", {"key": torch.zeros(1, 3, 9, 64), "value": torch.zeros(1, 3, 9, 64)}),
        ("columns", {"columns": COLUMNS[0]}),
        ("columns", {"columns": COLUMNS.int()}),
        (r"columns has positions from 1 to 9; they must be in \[0, 9\)", {"columns": COLUMNS + 1}),
        ("columns", {"columns": COLUMNS - 1}),
        ("columns has a position twice", {"columns": torch.tensor([[[1, 5], [8, 8]]])}),
        ("slash", {"slash": 0}),
        ("softcap", {"softcap": 0.0}),
        ("sliding_window", {"sliding_window": -3}),
        ("sinks", {"sinks": torch.zeros(3)}),
        ("key_mask", {"key_mask": torch.ones(1, 9)}),
    ],
)
def test_invalid_arguments_are_refused_by_name(named: str, changes: dict[str, Any]) -> None:
    arguments = {"query": TENSOR, "key": TENSOR, "value": TENSOR, "columns": COLUMNS, "slash": 3, "scaling": 1.0}
    with pytest.raises(ValueError, match=named):
        vertical_slash_attention(**(arguments | changes))
