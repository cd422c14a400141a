"""Answers that are objects of a pydantic class: asked for in a system message, and held to the class's schema.

This module does not know how an answer is held to a schema, or how one is computed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.prompts import BasePromptTemplate
from llama_index.llms.spec_rag.settings import DraftedLLM

from spec_rag.generation.structured_output import Constraint, read_json, schema_instruction, schema_of

_Model = TypeVar("_Model", bound=BaseModel)


class StructuredLLM(DraftedLLM):
    """What LlamaIndex calls structured prediction. See SpecKVLLM."""

    def structured_predict(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """Ask for JSON of the class's schema, hold the answer to it, and read it as such.

        Raises:
            ValueError: the answer does not fit what the class checks beyond its schema.
            MissingDependencyError: llguidance is not installed.
        """
        answer = self.chat(self._instructed(output_cls, prompt, prompt_args), **_held(output_cls, llm_kwargs))
        return output_cls.model_validate(read_json(answer.message.content or ""))

    async def astructured_predict(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """`structured_predict`; cancelling the task stops the generation within two tokens."""
        answer = await self.achat(self._instructed(output_cls, prompt, prompt_args), **_held(output_cls, llm_kwargs))
        return output_cls.model_validate(read_json(answer.message.content or ""))

    def _structured_stream_call(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        grown = _Growing(output_cls)
        pieces = self.stream_chat(self._instructed(output_cls, prompt, prompt_args), **_held(output_cls, llm_kwargs))
        return (grown.with_(response) for response in pieces)

    async def _structured_astream_call(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        grown, messages = _Growing(output_cls), self._instructed(output_cls, prompt, prompt_args)
        pieces = await self.astream_chat(messages, **_held(output_cls, llm_kwargs))
        return (grown.with_(response) async for response in pieces)

    def _instructed(self, output_cls: type[BaseModel], prompt: BasePromptTemplate, given: Mapping[str, Any]) -> Any:
        instruction = ChatMessage(role=MessageRole.SYSTEM, content=schema_instruction(schema_of(output_cls)))
        return [instruction, *self._extend_messages(prompt.format_messages(**given))]


class _Growing:
    """An object that is read from more and more of its JSON."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._current: Any = None

    def with_(self, response: ChatResponse) -> Any:
        """The object as far as it can be read, the whole one at the end."""
        found = process_streaming_objects(response, self._output_cls, cur_objects=self._current, flexible_mode=True)
        self._current = found if isinstance(found, list) else [found]
        return found


def _held(output_cls: type[BaseModel], llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """One call's arguments, with what its answer is held to."""
    return {"constraint": Constraint.of(schema=output_cls), **(llm_kwargs or {})}
