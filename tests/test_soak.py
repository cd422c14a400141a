"""Requests leave nothing behind: the soak of `make nightly` in short, and that it sees what is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("langchain_core", reason="the extra `langchain` is not installed")
pytest.importorskip("llama_index.core", reason="the extra `llama-index` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from soak import Measured, grown, measured, soak, variables_set
from tiny import tiny_model

import spec_rag.utils.progress
from spec_rag import Cancellation


def test_mixed_requests_leave_nothing_behind() -> None:
    measures = soak(45, every=15)
    # so few do not fill what is kept on purpose: contexts, passages, views of documents
    left = [replace(one, tensor_kib=0.0, resident_mib=0.0, own={}) for one in measures]
    assert grown(left) == []


def test_what_is_left_is_seen() -> None:
    model = tiny_model(layers=1)
    before = measured(0, [model], variables_set())
    hook = model.register_forward_hook(lambda *_: None)
    kept = [Cancellation() for _ in range(3)], torch.zeros(2**20), open(__file__)  # noqa: SIM115
    token = spec_rag.utils.progress._listener._variable.set(None)
    after = measured(1, [model], variables_set())
    spec_rag.utils.progress._listener._variable.reset(token)
    hook.remove()
    kept[2].close()
    found = " ".join(grown([before, after]))
    for name in ("hooks", "files", "variables", "tensor_kib", "Cancellation"):
        assert name in found
    assert grown([after, before]) == []


def test_memory_may_grow_by_a_fiftieth() -> None:
    def at(*resident: float) -> list[Measured]:
        return [Measured(i, mib, 0, 1, 1, 0, 0, 0) for i, mib in enumerate(resident)]

    assert grown(at(100, 100, 101, 101, 101.9, 101.9)) == []
    assert "resident memory" in grown(at(100, 100, 101, 101, 102.5, 102.5))[0]
