"""gather_kv on a CPU: exact entries and argument checks."""

from typing import Any

import pytest
import torch
from kernel_cases import Draw, check_gather_kv, gather_kv_call
from spec_rag_kernels import gather_kv


@pytest.mark.parametrize("index", range(70))
def test_the_torch_path_gathers_exact_entries(index: int, seed: int) -> None:
    check_gather_kv(gather_kv_call(Draw(seed, index)), "torch")


def test_the_inputs_are_not_mutated() -> None:
    key, value = torch.randn(1, 2, 9, 64), torch.randn(1, 2, 9, 64)
    before = key.clone(), value.clone()
    gather_kv(key, value, torch.tensor([[[2, 5], [0, 8]]]))
    assert torch.equal(key, before[0])
    assert torch.equal(value, before[1])


TENSOR = torch.zeros(1, 2, 9, 64)
POSITIONS = torch.tensor([[[1, 5], [0, 8]]])


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("key", {"key": TENSOR[0]}),
        ("value", {"value": TENSOR[:, :, :8]}),
        ("value", {"value": TENSOR.half()}),
        ("positions", {"positions": POSITIONS[0]}),
        ("positions", {"positions": POSITIONS.int()}),
        (r"positions has entries from 1 to 9; they must be in \[0, 9\)", {"positions": POSITIONS + 1}),
        ("ascending", {"positions": POSITIONS.flip(2)}),
        ("ascending", {"positions": torch.tensor([[[1, 1], [0, 8]]])}),
    ],
)
def test_invalid_arguments_are_refused_by_name(named: str, changes: dict[str, Any]) -> None:
    arguments = {"key": TENSOR, "value": TENSOR.clone(), "positions": POSITIONS} | changes
    with pytest.raises(ValueError, match=named):
        gather_kv(**arguments)
