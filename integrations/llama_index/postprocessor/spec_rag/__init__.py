"""LlamaIndex node postprocessor that compresses retrieved nodes."""

from spec_rag.errors import MissingDependencyError

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        'llama_index.postprocessor.spec_rag needs llama-index-core: pip install "spec-rag[llama-index]"'
    ) from error

from llama_index.postprocessor.spec_rag.compressor import SpecPCCompressor
from llama_index.postprocessor.spec_rag.events import CompressionEvent

__all__ = ["CompressionEvent", "SpecPCCompressor"]
