"""window_scores on a CPU: the torch path against float64, options, working memory and argument checks."""

import importlib
from typing import Any

import pytest
import torch
from kernel_cases import Call, Draw, check_window_scores, load_benchmark, window_scores_call
from spec_rag_kernels import window_scores

chunked = importlib.import_module("spec_rag_kernels.window_scores.chunked")
parallel = importlib.import_module("spec_rag_kernels.parallel")


@pytest.mark.parametrize("index", range(90))
def test_the_torch_path_agrees_with_float64(index: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small chunks, so that a short window has several; threads in some cases despite the small work.
    monkeypatch.setattr(chunked, "CHUNK_BYTES", (500, 20_000, 2**21)[index % 3])
    monkeypatch.setattr(chunked, "MIN_CHUNK_ROWS", (1, 16)[index % 2])
    monkeypatch.setattr(chunked, "KEYS_PER_CAST", 50)
    monkeypatch.setattr(parallel, "SMALL_WORK", 0 if index % 5 == 0 else 2**22)
    check_window_scores(window_scores_call(Draw(seed, index)), "torch")


def test_a_window_of_2048_queries() -> None:
    call = Call((torch.randn(1, 2, 2048, 64), torch.randn(1, 1, 2300, 64)), {"scaling": 0.125, "reduce_heads": "kv"})
    check_window_scores(call, "torch")


def test_a_left_padded_row_scores_like_an_unpadded_one(seed: int) -> None:
    draw = Draw(seed, 0)
    query, keys = draw.normal(1, 4, 6, 64), draw.normal(1, 2, 20, 64)
    padded = torch.cat([torch.full((1, 2, 11, 64), float("nan")), keys], dim=2)
    mask = torch.arange(31)[None] >= 11
    scores = window_scores(query, padded, scaling=0.125, key_mask=mask)
    torch.testing.assert_close(scores[..., 11:], window_scores(query, keys, scaling=0.125), atol=1e-6, rtol=1e-5)
    assert (scores[..., :11] == 0).all()


def test_probabilities_of_one_query_sum_to_one_and_a_sink_takes_its_share() -> None:
    query, keys = torch.zeros(1, 1, 1, 64), torch.randn(1, 1, 3, 64)
    assert window_scores(query, keys, scaling=1.0).sum().item() == pytest.approx(1.0)
    with_sink = window_scores(query, keys, scaling=1.0, sinks=torch.zeros(1))
    torch.testing.assert_close(with_sink, torch.full((1, 1, 3), 0.25))


def test_it_works_under_inference_mode_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SMALL_WORK", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            query, keys = torch.randn(2, 4, 3, 64), torch.randn(2, 2, 9, 64)
            scores = window_scores(query, keys, scaling=0.125, reduce_queries="sum")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(scores.sum(-1), torch.full((2, 4), 3.0))


def test_it_needs_an_eighth_of_the_memory_of_the_materialized_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    benchmark, measure = load_benchmark("window_scores"), load_benchmark("measure")
    query, key = torch.randn(1, 9, 64, 64), torch.randn(1, 3, 8192, 64)
    base = measure.working_bytes(lambda: benchmark.materialized(query, key, 0.125))
    held = measure.working_bytes(lambda: window_scores(query, key, scaling=0.125, reduce_heads="kv"))
    # The probabilities alone are 9 x 64 x 8,192 floats.
    assert base > 4 * 9 * 64 * 8192
    assert base / held >= 8


QUERY, KEY = torch.zeros(2, 4, 3, 64), torch.zeros(2, 2, 9, 64)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("query", {"query": torch.zeros(4, 3, 64)}),
        ("query", {"query": QUERY.long()}),
        ("key", {"key": torch.zeros(2, 2, 9, 80)}),
        ("key", {"key": KEY.half()}),
        ("key", {"key": torch.zeros(1, 2, 9, 64)}),
        ("key", {"key": torch.zeros(3, 2, 9, 64)}),
        ("heads", {"key": torch.zeros(2, 3, 9, 64)}),
        ("rows", {"query": torch.zeros(2, 4, 10, 64)}),
        ("sliding_window", {"sliding_window": 0}),
        ("reduce_queries", {"reduce_queries": "mean"}),
        ("reduce_heads", {"reduce_heads": "layer"}),
        ("head_reduction", {"head_reduction": "mean"}),
        ("query_weights", {"query_weights": torch.ones(4)}),
        ("query_weights", {"query_weights": torch.tensor([1.0, -1.0, 0.0])}),
        ("query_mask", {"query_mask": torch.ones(2, 3)}),
        ("key_mask", {"key_mask": torch.ones(2, 3, dtype=torch.bool)}),
        ("softcap", {"softcap": -1.0}),
        ("sinks", {"sinks": torch.zeros(2)}),
    ],
)
def test_invalid_arguments_are_refused_by_name(named: str, changes: dict[str, Any]) -> None:
    arguments = {"query": QUERY, "key": KEY, "scaling": 1.0} | changes
    with pytest.raises(ValueError, match=named):
        window_scores(**arguments)
