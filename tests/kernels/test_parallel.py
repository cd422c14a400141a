"""Pieces run side by side, each in one thread, and the process keeps its thread counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from spec_rag_kernels.parallel import SMALL_WORK, run_pieces

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def count_of_new_thread() -> int:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_a_thread_that_is_born_while_pieces_run_has_the_count_of_the_process() -> None:
    born: list[int] = []
    own: list[int] = []

    def piece() -> None:
        own.append(torch.get_num_threads())
        born.append(count_of_new_thread())

    run_pieces([piece] * 4, SMALL_WORK + 1, CPU)
    assert born == [2] * 4
    assert own == [1] * 4
    assert torch.get_num_threads() == count_of_new_thread() == 2


def test_an_error_in_a_piece_is_raised_and_leaves_the_counts() -> None:
    def fails() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        run_pieces([fails, lambda: None], SMALL_WORK + 1, CPU)
    assert torch.get_num_threads() == count_of_new_thread() == 2


def test_pieces_side_by_side_give_what_they_give_one_after_the_other() -> None:
    matrices = [torch.randn(64, 64, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    found = [torch.empty(64, 64) for _ in matrices]

    def piece(i: int) -> None:
        torch.mm(matrices[i], matrices[i], out=found[i])

    run_pieces([lambda i=i: piece(i) for i in range(6)], SMALL_WORK + 1, CPU)
    for matrix, one in zip(matrices, found, strict=True):
        torch.testing.assert_close(one, matrix @ matrix)
