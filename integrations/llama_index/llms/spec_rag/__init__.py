"""LlamaIndex LLM with KV cache pruning (SpecKV) and prompt compression (SpecPC)."""

from spec_rag.errors import MissingDependencyError

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        'llama_index.llms.spec_rag needs llama-index-core: pip install "spec-rag[llama-index]"'
    ) from error

from llama_index.llms.spec_rag.events import KVDropEvent
from llama_index.llms.spec_rag.llm import SpecKVLLM

__all__ = ["KVDropEvent", "SpecKVLLM"]
