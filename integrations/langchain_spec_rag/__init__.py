"""LangChain adapters of spec-rag: a document compressor, an LLM, a chat model and an agent middleware.

Names are imported on first use, because the adapters have different dependencies.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from spec_rag.errors import MissingDependencyError

if find_spec("langchain_core") is None:
    raise MissingDependencyError('langchain_spec_rag needs langchain-core: pip install "spec-rag[langchain]"')

if TYPE_CHECKING:
    from langchain_spec_rag.chat_model import ChatSpecKV as ChatSpecKV
    from langchain_spec_rag.compressor import SpecPCCompressor as SpecPCCompressor
    from langchain_spec_rag.llm import SpecKVLLM as SpecKVLLM
    from langchain_spec_rag.middleware import SpecPCMiddleware as SpecPCMiddleware
    from langchain_spec_rag.retriever import SpecPCRetriever as SpecPCRetriever

_LAZY_EXPORTS = {
    "ChatSpecKV": "chat_model",
    "SpecKVLLM": "llm",
    "SpecPCCompressor": "compressor",
    "SpecPCMiddleware": "middleware",
    "SpecPCRetriever": "retriever",
}

__all__ = ["ChatSpecKV", "SpecKVLLM", "SpecPCCompressor", "SpecPCMiddleware", "SpecPCRetriever"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'langchain_spec_rag' has no attribute {name!r}")
    value = getattr(import_module(f"langchain_spec_rag.{_LAZY_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
