"""Fixtures of the LangChain adapters' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from integrations.langchain.helpers import (
    PLAIN_TEMPLATE,
    TOOL_TEMPLATE,
    documents,
    save_tiny_models,
    tiny_pair,
)
from langchain_core.documents import Document
from langchain_spec_rag import ChatSpecKV

from spec_rag import SpecKVConfig
from spec_rag.models.model_pair import ModelPair


@pytest.fixture(scope="session")
def pair() -> ModelPair:
    """A draft and a target whose chat template does not speak of tools."""
    return tiny_pair(PLAIN_TEMPLATE)


@pytest.fixture(scope="session")
def tool_pair() -> ModelPair:
    """A draft and a target whose chat template does."""
    return tiny_pair(TOOL_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def in_models_folder(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has the folders tiny-target, tiny-other and tiny-draft."""
    monkeypatch.chdir(tiny_models)
    return tiny_models


@pytest.fixture
def docs() -> list[Document]:
    return documents()


@pytest.fixture
def chat(pair: ModelPair, speckv: SpecKVConfig) -> ChatSpecKV:
    return ChatSpecKV(pair=pair, speckv=speckv, max_tokens=12)


@pytest.fixture
def tool_chat(tool_pair: ModelPair) -> ChatSpecKV:
    return ChatSpecKV(pair=tool_pair, max_tokens=200)
