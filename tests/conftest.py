"""Shared fixtures. The real model is loaded once per session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from spec_rag import ModelPair


@pytest.fixture(scope="session")
def smollm2() -> ModelPair:
    """SmolLM2-135M-Instruct as its own draft."""
    return ModelPair.load()


@pytest.fixture(autouse=True)
def _poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may rely on what torch.empty happens to hold."""
    import torch

    def poisoned(empty):  # type: ignore[no-untyped-def]
        def make(*args, **kwargs):  # type: ignore[no-untyped-def]
            tensor = empty(*args, **kwargs)
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.device.type == "cpu":
                tensor.fill_(float("nan"))
            return tensor

        return make

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
