"""Shared fixtures. The real model is loaded once per session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from spec_rag import ModelPair
from spec_rag.models import loading
from spec_rag.models.loading import LoadedModel
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions

with torch.device("meta"):
    # torch notes its constructors on the first use of a device context: do that before any test replaces torch.empty
    torch.empty(1)


@pytest.fixture(scope="session")
def smollm2() -> ModelPair:
    """SmolLM2-135M-Instruct as its own draft."""
    return ModelPair.load()


@pytest.fixture
def tiny_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model under the default model's name."""
    model = tiny_model(max_position_embeddings=65536)

    def load(name: str, options: LoadOptions, layers: int | None) -> LoadedModel:
        assert name == DEFAULT_DRAFT, "no other model than the default one is there"
        return LoadedModel(model, tiny_tokenizer(), name)

    monkeypatch.setattr(loading, "_load", load)
    monkeypatch.setattr(loading, "_loaded", {})
