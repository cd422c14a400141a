"""SpecKVLLM: a LlamaIndex LLM with SpecKV and SpecPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.core.prompts import BasePromptTemplate
from llama_index.llms.spec_rag.events import KVDropEvent
from llama_index.llms.spec_rag.messages import assistant_message, marked_messages, plain_messages
from llama_index.llms.spec_rag.streams import aclose_with_consumer, closes_with_consumer, streams_of_consumer
from llama_index.llms.spec_rag.structured import StructuredLLM

from spec_rag.generation.structured_output import read_json
from spec_rag.generation.tool_calls import ReadCalls, ToolChoice
from spec_rag.results import Answer

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse
    from llama_index.core.tools.types import BaseTool

    from spec_rag.text.prompts import Prompt

dispatcher = get_dispatcher(__name__)

_TOOL_ARGUMENTS = ("tools", "tool_choice", "parallel_tool_calls")
_Piece: TypeAlias = tuple[str, str, Answer | None]


class SpecKVLLM(StructuredLLM):
    """A local LLM with KV cache pruning (SpecKV) and prompt compression (SpecPC) by a draft model.

    Models are loaded on first use or by `load()`, and shared in the process by equal names and options. Requests of
    threads and event loops are queued (FIFO); waiting requests with equal settings are answered in one batch.

    Call arguments override fields: max_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop, specpc,
    speckv, and any field of transformers' GenerationConfig. None is the value of the field, except that specpc=None and
    speckv=None switch these off.

    Agents call tools if the chat template supports them. `structured_predict` and `as_structured_llm` constrain the
    answer to the schema of the class, like the call arguments schema and regex.

    Raises:
        ValidationError: (a ValueError) a setting is out of range or unknown.

    Calls also raise ModelNotFoundError, IncompatibleModelsError (draft and target have different tokens),
    PromptTooLongError, UnsupportedModelError, TimeoutError, ConfigError for a call argument.
    """

    @classmethod
    def class_name(cls) -> str:
        """Name for serialization."""
        return "SpecKVLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Metadata of the LLM; loads the models."""
        return LLMMetadata(
            context_window=self._context_tokens(),
            num_output=self.max_tokens,
            is_chat_model=self._has_template,
            is_function_calling_model=self._speaks_of_tools,
            model_name=str(self.target),
        )

    def to_payload(self) -> dict[str, Any]:
        """Settings for instrumentation, with the metadata if the models are loaded."""
        metadata = {} if not self.is_loaded else self.metadata.model_dump()
        return {**self.to_dict(), "model_name": self.target, **metadata}

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt.

        With formatted=True it is read unchanged; otherwise `completion_to_prompt` is applied if it is set, else the
        chat template if there is one.
        """
        answer = self._client(kwargs).answer(self._completion_prompt(prompt, formatted))
        return CompletionResponse(text=answer.text, raw=self._account(answer))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete`; cancelling the task stops the generation within two tokens."""
        await self._aload()
        answer = await self._client(kwargs).aanswer(self._completion_prompt(prompt, formatted))
        return CompletionResponse(text=answer.text, raw=self._account(answer))

    @closes_with_consumer
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        account = self._accountant()
        pieces = self._pieces(kwargs, lambda: self._completion_prompt(prompt, formatted))
        return (CompletionResponse(text=text, delta=delta, raw=account(answer)) for text, delta, answer in pieces)

    @aclose_with_consumer
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`acomplete` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        await self._aload()
        account = self._accountant()
        pieces = self._apieces(kwargs, self._completion_prompt(prompt, formatted))
        return (CompletionResponse(text=text, delta=delta, raw=account(answer)) async for text, delta, answer in pieces)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat, formatted by `messages_to_prompt` if it is set, else by the chat template.

        Args:
            messages: the chat.
            **kwargs: call arguments; also tools (of OpenAI's API), tool_choice, and parallel_tool_calls, which returns
                only the first call if False.

        Raises:
            ValueError: there are no messages, or one has media.
        """
        choice, rest = _choice(kwargs)
        answer = self._client(rest).answer(self._chat_prompt(messages, choice))
        return self._chat_response(answer, choice)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat`; cancelling the task stops the generation within two tokens."""
        await self._aload()
        choice, rest = _choice(kwargs)
        answer = await self._client(rest).aanswer(self._chat_prompt(messages, choice))
        return self._chat_response(answer, choice)

    @closes_with_consumer
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        choice, rest = _choice(kwargs)
        writing = self._writing(choice)
        return (writing(*piece) for piece in self._pieces(rest, lambda: self._chat_prompt(messages, choice)))

    @aclose_with_consumer
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`achat` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        await self._aload()
        choice, rest = _choice(kwargs)
        writing = self._writing(choice)
        pieces = self._apieces(rest, self._chat_prompt(messages, choice))
        return (writing(text, delta, answer) async for text, delta, answer in pieces)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        message = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
        messages = [*(chat_history or []), *([message] if message is not None else [])]
        return {
            "messages": messages,
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools] or None,
            "tool_choice": tool_choice if tool_choice is not None else "any" if tool_required else "auto",
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    async def apredict_and_call(self, *args: Any, **kwargs: Any) -> AgentChatResponse:
        """`predict_and_call`; loads the models in a thread."""
        await self._aload()
        return await super().apredict_and_call(*args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of an answer.

        Raises:
            ValueError: there is none and error_on_no_tool_call is True.
        """
        calls = response.message.additional_kwargs.get("tool_calls") or []
        if not calls and error_on_no_tool_call:
            raise ValueError(f"The model did not call a tool; it answered {response.message.content!r:.200}")
        return [
            ToolSelection(
                tool_id=call["id"],
                tool_name=call["function"]["name"],
                tool_kwargs=read_json(call["function"]["arguments"]),
            )
            for call in calls
        ]

    @property
    def _has_template(self) -> bool:
        return bool(self.load().require_tokenizer().chat_template)

    @property
    def _speaks_of_tools(self) -> bool:
        from spec_rag.text.prompts import speaks_of_tools

        return self._has_template and speaks_of_tools(self.load().require_tokenizer())

    @property
    def _writes_prompts(self) -> Callable[[str], str] | None:
        """The user's function that formats prompts, including control tokens."""
        formatter = self.completion_to_prompt
        return None if formatter is default_completion_to_prompt else formatter

    def _marked(self, value: Any) -> Any:
        from spec_rag.text.marks import marked

        return marked(self.load().require_tokenizer(), value)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return super()._get_prompt(prompt, **(self._marked(prompt_args) if self._writes_prompts else prompt_args))

    def _completion_prompt(self, prompt: str, formatted: bool) -> Prompt:
        if write := self._writes_prompts:
            return self._ids_of_formatted(prompt if formatted else write(self._marked(prompt)))
        if formatted or not self._has_template:
            return prompt
        return [{"role": "user", "content": prompt}]

    def _chat_prompt(self, messages: Sequence[ChatMessage], choice: ToolChoice) -> Prompt:
        from spec_rag.text.prompts import Chat

        if self.messages_to_prompt not in (None, generic_messages_to_prompt):
            marked = marked_messages(self.load().require_tokenizer(), messages)
            return self._ids_of_formatted(self.messages_to_prompt(marked))
        turns = plain_messages(messages)
        if not self._has_template:
            return str(generic_messages_to_prompt(messages))
        return Chat(turns, choice.offered, choice.assistant_prefix)

    def _ids_of_formatted(self, text: str) -> list[int]:
        """Token ids of a formatted prompt with special tokens and exactly one BOS token."""
        from spec_rag.text.marks import pieces_ids

        tokenizer = self.load().require_tokenizer()
        has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return pieces_ids(tokenizer, text, add_special_tokens=not has_bos)

    def _chat_response(self, answer: Answer, choice: ToolChoice) -> ChatResponse:
        return ChatResponse(message=assistant_message(choice.read(answer.text)), raw=self._account(answer))

    def _writing(self, choice: ToolChoice) -> Any:
        """A function from the pieces of a stream to responses; tool calls are held back until complete."""
        account, shown = self._accountant(), ""
        parser = choice.stream()

        def write(text: str, delta: str, answer: Answer | None) -> ChatResponse:
            nonlocal shown
            read = ReadCalls.of_text("")
            if parser is not None and answer is None:
                delta = parser.feed(delta)
            elif parser is not None:
                read = parser.rest()
                delta = read.whole_text
            shown += delta
            message = assistant_message(ReadCalls(shown, read.calls, whole_text=shown))
            return ChatResponse(message=message, delta=delta, raw=account(answer))

        return write

    def _pieces(self, settings: Mapping[str, Any], prompt: Any) -> Iterator[_Piece]:
        """The text so far, the new piece, and at the end the Answer; arguments are validated immediately."""
        self._arguments(settings)
        streams = streams_of_consumer()

        def pieces() -> Iterator[_Piece]:
            text = ""
            for piece in self._client(settings).stream(prompt(), streams.append):
                if isinstance(piece, Answer):
                    yield text, "", piece
                else:
                    text += piece
                    yield text, piece, None

        return pieces()

    def _apieces(self, settings: Mapping[str, Any], prompt: Prompt) -> AsyncIterator[_Piece]:
        client, streams = self._client(settings), streams_of_consumer()

        async def pieces() -> AsyncIterator[_Piece]:
            text = ""
            async for piece in client.astream(prompt, streams.append):
                if isinstance(piece, Answer):
                    yield text, "", piece
                else:
                    text += piece
                    yield text, piece, None

        return pieces()

    def _accountant(self) -> Any:
        """`_account` for a stream, whose last response comes after its span has ended."""
        span_id = active_span_id.get()
        return lambda answer: None if answer is None else self._account(answer, span_id)

    def _account(self, answer: Answer, span_id: str | None = None) -> dict[str, Any]:
        """Usage and costs for `raw`; sends a KVDropEvent if something was dropped."""
        statistics = {"prompt_tokens": answer.prompt_tokens, **answer.stats}
        if answer.kv_bytes_kept < answer.kv_bytes_dense or answer.target_prompt_tokens < answer.prompt_tokens:
            names = {"draft": self.draft or "", "target": self.target, "span_id": span_id or active_span_id.get()}
            dropped = {name: statistics[name] for name in KVDropEvent.model_fields if name in statistics}
            dispatcher.event(KVDropEvent.model_validate({**names, **dropped}))
        return {
            "model": self.target,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "speckv": statistics,
        }


def _choice(arguments: Mapping[str, Any]) -> tuple[ToolChoice, dict[str, Any]]:
    """The tool choice of a call, and its other arguments with the constraint."""
    settings = {name: value for name, value in arguments.items() if name not in _TOOL_ARGUMENTS}
    choice = ToolChoice.of(*map(arguments.get, _TOOL_ARGUMENTS))
    return choice, choice.constrained_options(settings)
