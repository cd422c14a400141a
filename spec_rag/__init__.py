"""Draft-guided compression of retrieved documents and KV caches: SpecPC, SpecKV and SpecKV-PC for RAG.

Public names are imported on first use: `import spec_rag` alone loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_rag.cancellation import Cancellation as Cancellation
    from spec_rag.citations import Citation as Citation
    from spec_rag.compression.expand import Originals as Originals
    from spec_rag.compression.index import DocumentIndex as DocumentIndex
    from spec_rag.compression.pipeline import compress as compress
    from spec_rag.config import SpecKVConfig as SpecKVConfig
    from spec_rag.config import SpecPCConfig as SpecPCConfig
    from spec_rag.generation.context import ContextCache as ContextCache
    from spec_rag.generation.pipeline import generate as generate
    from spec_rag.generation.pipeline import generate_batch as generate_batch
    from spec_rag.generation.pipeline import score_prompt as score_prompt
    from spec_rag.generation.streaming import agenerate as agenerate
    from spec_rag.generation.streaming import stream as stream
    from spec_rag.models.options import LoadOptions as LoadOptions
    from spec_rag.models.pair import ModelPair as ModelPair
    from spec_rag.report import Compression as Compression
    from spec_rag.results import Answer as Answer
    from spec_rag.text.documents import Document as Document

__version__ = "0.1.0"

_ROOMS = {
    "Answer": "results",
    "Cancellation": "cancellation",
    "Citation": "citations",
    "Compression": "report",
    "ContextCache": "generation.context",
    "Document": "text.documents",
    "DocumentIndex": "compression.index",
    "LoadOptions": "models.options",
    "ModelPair": "models.pair",
    "Originals": "compression.expand",
    "SpecKVConfig": "config",
    "SpecPCConfig": "config",
    "agenerate": "generation.streaming",
    "compress": "compression.pipeline",
    "generate": "generation.pipeline",
    "generate_batch": "generation.pipeline",
    "score_prompt": "generation.pipeline",
    "stream": "generation.streaming",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'spec_rag' has no attribute {name!r}")
    value = getattr(import_module(f"spec_rag.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
