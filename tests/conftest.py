"""Shared fixtures. The real model is loaded once per session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from spec_rag import ModelPair

with torch.device("meta"):
    # torch notes its constructors on the first use of a device context: do that before any test replaces torch.empty
    torch.empty(1)


@pytest.fixture(scope="session")
def smollm2() -> ModelPair:
    """SmolLM2-135M-Instruct as its own draft."""
    return ModelPair.load()
