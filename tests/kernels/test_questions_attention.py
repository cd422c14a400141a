"""questions_attention on a CPU and on Triton's interpreter: output and scores of each question."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import INTERPRETER_SINCE
from spec_rag_kernels import questions_attention

chunked = importlib.import_module("spec_rag_kernels.questions_attention.chunked")


def drawn(seed: int, index: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A call with one to five questions of one to nine tokens."""
    chance = torch.Generator().manual_seed(1000 * seed + index)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=chance))

    lengths = [number(1, 9) for _ in range(number(1, 5))]
    kv, group, n, dim = number(1, 3), number(1, 4), number(1, 90), 2 ** number(4, 6)
    width = sum(lengths)

    def tensor(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, dim, generator=chance).to(dtype)

    hidden = torch.rand(width, n, generator=chance) < 0.4 if index % 3 == 0 else None
    return {
        "hidden": hidden,
        "query": 3 * tensor(kv * group, width),
        "key": tensor(kv, n),
        "value": tensor(kv, n),
        "own_key": tensor(kv, width),
        "own_value": tensor(kv, width),
        "lengths": lengths,
        "scaling": dim**-0.5,
    }


def check(call: dict[str, Any], backend: str, tolerance: float) -> None:
    exact = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in call.items()
    }
    output, scores = questions_attention(**call, backend=backend)
    true_output, true_scores = questions_attention(**exact, backend="naive")
    assert scores is not None
    assert true_scores is not None
    assert output.dtype == call["query"].dtype
    torch.testing.assert_close(output.double(), true_output, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(scores.double(), true_scores, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("index", range(60))
def test_the_torch_path_agrees_with_float64(index: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if index % 2:  # a few queries at a time, across question boundaries
        monkeypatch.setattr(chunked, "CHUNK_BYTES", 1)
        monkeypatch.setattr(chunked, "MIN_CHUNK_QUERIES", 1 + index % 5)
    dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float16)[index % 4]
    check(drawn(seed, index, dtype), "torch", 1e-5 if dtype == torch.float32 else 2e-2)


def test_a_question_attends_like_a_single_question(seed: int) -> None:
    call = drawn(seed, 3)
    lengths = call["lengths"]
    output, scores = questions_attention(**call)
    assert scores is not None
    start = 0
    for question, length in enumerate(lengths):
        own = {name: call[name][:, :, start : start + length] for name in ("query", "own_key", "own_value")}
        own["hidden"] = call["hidden"][start : start + length]
        alone, seen = questions_attention(**{**call, **own, "lengths": [length]})
        assert seen is not None
        torch.testing.assert_close(output[:, :, start : start + length], alone)
        torch.testing.assert_close(scores[question], seen[0])
        start += length


def test_without_scores_the_output_is_the_same(seed: int) -> None:
    call = drawn(seed, 4)
    output, scores = questions_attention(**call, with_scores=False)
    assert scores is None
    torch.testing.assert_close(output, questions_attention(**call)[0])


def test_the_gpu_path_agrees_under_the_interpreter() -> None:
    pytest.importorskip("triton", minversion=INTERPRETER_SINCE)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_questions_attention import check, drawn\n"
        "for index in range(4): check(drawn(7, index), 'triton', 1e-5)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("query", {"query": torch.zeros(2, 4, 5, 16)}),
        ("key", {"key": torch.zeros(1, 2, 7, 8)}),
        ("query has 4 heads and key has 3", {"key": torch.zeros(1, 3, 7, 16)}),
        ("value", {"value": torch.zeros(1, 2, 6, 16)}),
        ("own_key", {"own_key": torch.zeros(1, 2, 4, 16)}),
        ("own_value", {"own_value": torch.zeros(1, 2, 5, 16).half()}),
        (r"lengths is \[2, 2\]", {"lengths": [2, 2]}),
        (r"lengths is \[5, 0\]", {"lengths": [5, 0]}),
        ("hidden", {"hidden": torch.zeros(5, 6, dtype=torch.bool)}),
        ("backend='fast'", {"backend": "fast"}),
    ],
)
def test_invalid_arguments_are_refused_by_name(named: str, changes: dict[str, Any]) -> None:
    shared, own = torch.zeros(1, 2, 7, 16), torch.zeros(1, 2, 5, 16)
    call = {"query": torch.zeros(1, 4, 5, 16), "key": shared, "value": shared, "own_key": own, "own_value": own}
    with pytest.raises(ValueError, match=named):
        questions_attention(**{**call, "lengths": [2, 3], "scaling": 0.25, **changes})
