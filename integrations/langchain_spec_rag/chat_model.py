"""ChatSpecKV: a LangChain chat model with SpecKV and SpecPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ConfigDict

from langchain_spec_rag.messages import plain_messages, tool_call_chunks, tool_calls
from langchain_spec_rag.settings import DraftedModel, own_token_ids
from spec_rag.generation.structured_output import Constraint, answer_format, schema_instruction
from spec_rag.generation.tool_calls import ReadCalls, ToolCallStreamParser, ToolChoice
from spec_rag.generation.tool_grammars import OPENING
from spec_rag.results import Answer
from spec_rag.utils.validation import check_depth

if TYPE_CHECKING:
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.text.prompts import Prompt

_CALL_ARGUMENTS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")


class ChatSpecKV(DraftedModel, BaseChatModel):
    """A local chat model with KV cache pruning (SpecKV) and prompt compression (SpecPC) by a draft model.

    Without arguments, target and draft are the default draft model. Models are loaded on first use or by `load()`, and
    shared in the process by equal names and options. Requests of threads and event loops are queued (FIFO). Closing or
    dropping a stream and cancelling a task stop the generation within two tokens.

    The fields are those of DraftedModel. A call may override them and add fields of transformers' GenerationConfig:
    `chat.invoke("...", max_tokens=20, specpc=None)`.

    Messages are tokenized inside the chat template, so special tokens come only from the template. `usage_metadata`
    counts the uncompressed prompt; `response_metadata["speckv"]` has the dropped tokens and bytes, and seconds.

    Raises:
        ValidationError: (a ValueError) a setting is out of range or unknown.

    Calls also raise ModelNotFoundError, IncompatibleModelsError (draft and target have different tokens),
    PromptTooLongError, UnsupportedModelError, TimeoutError, ConfigError (the tokenizer has no chat template),
    ValueError (a message carries an image, audio, video or file).
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    @property
    def _llm_type(self) -> str:
        return "chat-spec-kv"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing_params("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        tools: dict[str, Any] = {name: kwargs.pop(name) for name in _CALL_ARGUMENTS if name in kwargs}
        called = self.for_call(stop, kwargs)
        key = {**called._identifying_params, **tools, "_type": self._llm_type}
        return json.dumps(key, sort_keys=True, default=repr)

    def _resolve_model_profile(self) -> Any:
        limit = self._context_tokens()
        known = {"text_inputs": True, "image_inputs": False, "audio_inputs": False, "structured_output": True}
        return {**known, **({"max_input_tokens": limit} if limit else {}), "max_output_tokens": self.max_tokens}

    def load(self) -> ModelPair:
        """Load the models, and complete the profile.

        Raises:
            ModelNotFoundError: a name is not found.
        """
        pair = super().load()
        if self.profile is not None and "max_input_tokens" not in self.profile:
            self.profile = self._resolve_model_profile()
        return pair

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids by the target's tokenizer; loads the models."""
        return own_token_ids(self, text)

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Any = None, **kwargs: Any) -> int:
        """Tokens of the prompt of these messages, including the generation prompt; loads the models."""
        from spec_rag.text.context_prompts import question_ids
        from spec_rag.text.prompts import prompt_ids

        prompt = self._prompt(list(messages), ToolChoice([convert_to_openai_tool(tool) for tool in tools or []]))
        if self.context is not None:
            return int(self.context.tokens) + len(question_ids(self.load().tokenizer, prompt))
        return len(prompt_ids(self.load().tokenizer, prompt))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools, which the chat template describes to the model.

        Args:
            tools: anything that LangChain converts to a tool.
            tool_choice: "auto", "none", "any" ("required", True), the name of a tool, or OpenAI's dict of a function or
                of `allowed_tools`. "any" and a name force a call.
            strict: True constrains the arguments of every call to the schema of the tool. Otherwise only forced calls
                are constrained, and a call with wrong arguments is returned as invalid.
            parallel_tool_calls: False returns only the first call of an answer.
            **kwargs: settings of the calls, and OpenAI's `response_format` for answers that are not calls.

        Raises:
            NotImplementedError: the chat template does not support tools, or forced calls.
            ValueError: tool_choice names an unknown tool.
        """
        from spec_rag.text.prompts import speaks_of_tools, template_text

        check_depth("tools", [tool for tool in tools if isinstance(tool, Mapping)])
        schemas = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        choice = ToolChoice.of(schemas, tool_choice, parallel_tool_calls)
        if schemas and not speaks_of_tools(self.load().require_tokenizer()):
            raise NotImplementedError(
                f"target={self.target!r}: its chat template does not support tools. Use a target whose template does "
                "(such as Qwen2.5-Instruct), or call the tools yourself and put their results into the messages."
            )
        if choice.assistant_prefix and OPENING not in template_text(self.load().require_tokenizer()):
            raise NotImplementedError(
                f"tool_choice={tool_choice!r}: the chat template of target={self.target!r} has no known "
                "tool-call format, so no call can be forced. Leave tool_choice out."
            )
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=schemas, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Request JSON of a schema in a system message, constrain the answer to it, and parse it.

        Args:
            schema: a pydantic class, a TypedDict class or a JSON schema.
            include_raw: return {"raw", "parsed", "parsing_error"} instead of raising parsing errors.
            method: "json_schema" and its synonym "function_calling" constrain the answer to the schema; "json_mode"
                constrains it to any JSON object.
            strict: True refuses schemas with unsupported keywords, False ignores such keywords. None is False for a
                pydantic class, which validates the answer, and True otherwise.
            **kwargs: settings of the calls.

        JSON that max_tokens would cut off is closed before the limit; its `finish_reason` is "length".

        Raises:
            ValueError: the method is unknown, or the schema is not supported.
            MissingDependencyError: llguidance is not installed.

        Calls raise OutputParserException if the validation of a pydantic class fails.
        """
        if method not in ("json_schema", "json_mode", "function_calling"):
            raise ValueError(f"method={method!r}: must be one of 'json_schema', 'json_mode', 'function_calling'.")
        check_depth("schema", schema)
        json_schema = convert_to_json_schema(schema)
        is_pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        constraint = Constraint.of(
            True if method == "json_mode" else json_schema, strict=not is_pydantic if strict is None else strict
        )
        instruction = SystemMessage(schema_instruction(json_schema))
        traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        instruct = RunnableLambda(partial(self._instructed, instruction=instruction), name="add_schema")
        model = instruct | self.bind(ls_structured_output_format=traced, constraint=constraint, **kwargs)
        parser: Any = JsonOutputParser()
        if is_pydantic:
            parser = PydanticOutputParser(pydantic_object=cast(type, schema))
        if not include_raw:
            read: Runnable[LanguageModelInput, Any] = model | parser
            return read
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    def _instructed(self, prompt: LanguageModelInput, instruction: SystemMessage) -> list[BaseMessage]:
        return [instruction, *self._convert_input(prompt).to_messages()]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        called, choice, messages = self._called(messages, stop, kwargs)
        answer = called._client(choice=choice).answer(called._prompt(messages, choice))
        return called._result(answer, choice)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        called, choice, messages = self._called(messages, stop, kwargs)
        client = await asyncio.to_thread(called._client, choice=choice)
        answer = await client.aanswer(called._prompt(messages, choice))
        return called._result(answer, choice)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        called, choice, messages = self._called(messages, stop, kwargs)
        parser = choice.stream()
        pieces = called._client(choice=choice).stream(called._prompt(messages, choice))
        with closing(pieces):
            for piece in pieces:
                chunk = called._chunk(piece, parser)
                if chunk is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        called, choice, messages = self._called(messages, stop, kwargs)
        parser = choice.stream()
        client = await asyncio.to_thread(called._client, choice=choice)
        pieces = client.astream(called._prompt(messages, choice))
        async with aclosing(pieces):
            async for piece in pieces:
                chunk = called._chunk(piece, parser)
                if chunk is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _called(
        self, messages: list[BaseMessage], stop: list[str] | None, arguments: dict[str, Any]
    ) -> tuple[Self, ToolChoice, list[BaseMessage]]:
        """The model with the settings of one call, its tool choice, and the messages with a format instruction."""
        settings = {name: value for name, value in arguments.items() if name not in _CALL_ARGUMENTS}
        choice = ToolChoice.of(*map(arguments.get, ("tools", "tool_choice", "parallel_tool_calls")))
        schema, form = answer_format(arguments.get("response_format"))
        if schema is not None:
            instruction = SystemMessage(schema_instruction(schema, has_tools=bool(choice.offered)))
            messages, settings = [instruction, *messages], {**settings, "constraint": form}
        return self.for_call(stop, settings), choice, messages

    def _prompt(self, messages: list[BaseMessage], choice: ToolChoice) -> Prompt:
        """The chat with its tools and the prefix of the answer."""
        from spec_rag.text.prompts import Chat

        return Chat(plain_messages(messages), choice.offered, choice.assistant_prefix)

    def _result(self, answer: Answer, choice: ToolChoice) -> ChatResult:
        read = choice.read(answer.text)
        calls, invalid = tool_calls(read)
        message = AIMessage(
            content=read.text,
            tool_calls=calls,
            invalid_tool_calls=invalid,
            usage_metadata=_usage(answer),
            response_metadata=self._response_metadata(answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, piece: str | Answer, parser: ToolCallStreamParser | None) -> ChatGenerationChunk | None:
        """A chunk of the stream; None if the piece is held back."""
        if isinstance(piece, str):
            text = parser.feed(piece) if parser else piece
            return ChatGenerationChunk(message=AIMessageChunk(content=text)) if text else None
        read = parser.rest() if parser else ReadCalls.of_text("")
        message = AIMessageChunk(
            content=read.text,
            tool_call_chunks=tool_call_chunks(read),
            usage_metadata=_usage(piece),
            response_metadata=self._response_metadata(piece),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _response_metadata(self, answer: Answer) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "model_provider": "spec_rag",
            "finish_reason": answer.finish_reason,
            "speckv": answer.stats,
        }


def _usage(answer: Answer) -> UsageMetadata:
    usage = answer.usage
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
    )
