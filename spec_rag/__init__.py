"""Draft-guided compression of retrieved documents and KV caches: SpecPC, SpecKV and SpecKV-PC for RAG.

Public names are imported on first use: `import spec_rag` alone loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_rag.citations import Citation as Citation
    from spec_rag.compression.compress import compress as compress
    from spec_rag.compression.encoding_cache import DocumentIndex as DocumentIndex
    from spec_rag.compression.originals import Originals as Originals
    from spec_rag.generation.context_cache import ContextCache as ContextCache
    from spec_rag.generation.generate import generate as generate
    from spec_rag.generation.generate import generate_batch as generate_batch
    from spec_rag.generation.generate import score_prompt as score_prompt
    from spec_rag.generation.streaming import agenerate as agenerate
    from spec_rag.generation.streaming import stream as stream
    from spec_rag.models.model_pair import ModelPair as ModelPair
    from spec_rag.options.compression import SpecKVConfig as SpecKVConfig
    from spec_rag.options.compression import SpecPCConfig as SpecPCConfig
    from spec_rag.options.loading import LoadOptions as LoadOptions
    from spec_rag.report import Compression as Compression
    from spec_rag.results import Answer as Answer
    from spec_rag.text.documents import Document as Document
    from spec_rag.utils.cancellation import Cancellation as Cancellation

__version__ = "0.1.0"

_LAZY_EXPORTS = {
    "Answer": "results",
    "Cancellation": "utils.cancellation",
    "Citation": "citations",
    "Compression": "report",
    "ContextCache": "generation.context_cache",
    "Document": "text.documents",
    "DocumentIndex": "compression.encoding_cache",
    "LoadOptions": "options.loading",
    "ModelPair": "models.model_pair",
    "Originals": "compression.originals",
    "SpecKVConfig": "options.compression",
    "SpecPCConfig": "options.compression",
    "agenerate": "generation.streaming",
    "compress": "compression.compress",
    "generate": "generation.generate",
    "generate_batch": "generation.generate",
    "score_prompt": "generation.generate",
    "stream": "generation.streaming",
}

__all__ = sorted(_LAZY_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'spec_rag' has no attribute {name!r}")
    value = getattr(import_module(f"spec_rag.{_LAZY_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
