"""Base class of SpecKVLLM: LlamaIndex's serialization of the model settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.bridge.pydantic import ConfigDict, Field
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.llms.spec_rag.load_options import PlainLoadOptions, refuse_remote_code

from spec_rag.generation.model_settings import ModelSettings
from spec_rag.options.loading import LoadOptions

if TYPE_CHECKING:
    from spec_rag.models.model_pair import ModelPair


class DraftedLLM(ModelSettings, FunctionCallingLLM):
    """Settings of a target that answers with the help of a draft. See SpecKVLLM."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    target_options: PlainLoadOptions = Field(default_factory=LoadOptions)
    """How the target is loaded: LoadOptions or a dict of its fields."""
    draft_options: PlainLoadOptions | None = None
    """How the draft is loaded; None is target_options if both models have the same name, else the defaults."""
    context_window: int | None = Field(default=None, gt=0)
    """Maximum tokens of prompt and answer; None is the limit of the models."""

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Build the LLM from `to_dict()`. Nothing is loaded; loaded models are given as `pair=`.

        Raises:
            ValueError: the data would run code from a checkpoint, or a setting is out of range or unknown.
        """
        refuse_remote_code({**data, **dict.fromkeys(kwargs)}, "target_options", "draft_options")
        return super().from_dict(data, **kwargs)

    async def _aload(self) -> ModelPair:
        return self.load() if self.is_loaded else await asyncio.to_thread(self.load)

    def _context_tokens(self) -> int:
        return self.context_window or self._prompt_limit() or DEFAULT_CONTEXT_WINDOW
