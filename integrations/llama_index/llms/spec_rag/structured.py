"""Structured prediction: answers are constrained to the schema of a pydantic class."""

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
    """Structured prediction. See SpecKVLLM."""

    def structured_predict(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """Request JSON of the class's schema, constrain the answer to it, and parse it.

        Raises:
            ValueError: the validation of the class fails.
            MissingDependencyError: llguidance is not installed.
        """
        answer = self.chat(
            self._instructed(output_cls, prompt, prompt_args), **_schema_arguments(output_cls, llm_kwargs)
        )
        return output_cls.model_validate(read_json(answer.message.content or ""))

    async def astructured_predict(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """`structured_predict`; cancelling the task stops the generation within two tokens."""
        answer = await self.achat(
            self._instructed(output_cls, prompt, prompt_args), **_schema_arguments(output_cls, llm_kwargs)
        )
        return output_cls.model_validate(read_json(answer.message.content or ""))

    def _structured_stream_call(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        parser = _PartialObjects(output_cls)
        pieces = self.stream_chat(
            self._instructed(output_cls, prompt, prompt_args), **_schema_arguments(output_cls, llm_kwargs)
        )
        return (parser.parse(response) for response in pieces)

    async def _structured_astream_call(
        self,
        output_cls: type[_Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        parser, messages = _PartialObjects(output_cls), self._instructed(output_cls, prompt, prompt_args)
        pieces = await self.astream_chat(messages, **_schema_arguments(output_cls, llm_kwargs))
        return (parser.parse(response) async for response in pieces)

    def _instructed(self, output_cls: type[BaseModel], prompt: BasePromptTemplate, values: Mapping[str, Any]) -> Any:
        instruction = ChatMessage(role=MessageRole.SYSTEM, content=schema_instruction(schema_of(output_cls)))
        return [instruction, *self._extend_messages(prompt.format_messages(**values))]


class _PartialObjects:
    """Parser of an object from incomplete JSON."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._current: Any = None

    def parse(self, response: ChatResponse) -> Any:
        """The object with the fields that are complete so far."""
        parsed = process_streaming_objects(response, self._output_cls, cur_objects=self._current, flexible_mode=True)
        self._current = parsed if isinstance(parsed, list) else [parsed]
        return parsed


def _schema_arguments(output_cls: type[BaseModel], llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a call with the constraint."""
    return {"constraint": Constraint.of(schema=output_cls), **(llm_kwargs or {})}
