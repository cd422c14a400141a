"""SpecKVLLM: LlamaIndex's names for `spec_rag.generate`, `agenerate` and `stream`.

Knows prompts, messages, usage and events as LlamaIndex has them; how an answer is computed is the core's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

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
from llama_index.core.bridge.pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.llms.spec_rag.events import KVDropEvent
from llama_index.llms.spec_rag.load_options import PlainLoadOptions, refuse_remote_code
from llama_index.llms.spec_rag.messages import template_messages
from llama_index.llms.spec_rag.streams import aclose_with_consumer, closes_with_consumer, streams_of_consumer

from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.generation.decoding import SamplingConfig
from spec_rag.generation.pipeline import generate
from spec_rag.models.loading import DEFAULT_DRAFT, LoadOptions, ModelPair
from spec_rag.results import Answer
from spec_rag.generation.streaming import agenerate, stream
from spec_rag.text.tokens import Prompt, encode

dispatcher = get_dispatcher(__name__)

_Piece: TypeAlias = tuple[str, str, dict[str, Any] | None]
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")


def _config_from_dict(config_class: type[SpecPCConfig] | type[SpecKVConfig]) -> BeforeValidator:
    return BeforeValidator(lambda given: config_class.from_dict(dict(given)) if isinstance(given, Mapping) else given)


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _as_name(given: Any) -> Any:
    return str(given) if isinstance(given, Path) else given


class SpecKVLLM(CustomLLM):
    """A local model whose KV cache (SpecKV), prompt (SpecPC) or both are cut to what a small draft finds important.

    The models are loaded when they are first needed, and shared by everyone in the process who asks for the same names
    with the same options. `load()` loads them at once. Calls from threads and event loops queue in order of arrival.

    Call arguments win over the fields for that call: max_tokens, temperature, top_p, top_k, repetition_penalty, seed,
    stop, specpc, speckv, and any field of transformers' GenerationConfig. None means the field's value.

    Raises:
        ValidationError: (a ValueError) a setting is out of range or unknown.

    When called, besides: ModelNotFoundError, IncompatibleModelsError (draft and target do not share their tokens),
    PromptTooLongError, UnsupportedModelError, ConfigError for a call argument.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    target: Annotated[str, BeforeValidator(_as_name)] = Field(
        default=DEFAULT_DRAFT, description="The model that answers: hub id, folder, or GGUF file."
    )
    draft: Annotated[str | None, BeforeValidator(_as_name)] = Field(
        default=DEFAULT_DRAFT,
        description="The small model that looks ahead, of the target's family. None where no setting needs one.",
    )
    pair: Any = Field(
        default=None, exclude=True, repr=False, description="Models that are loaded already, instead of the names."
    )
    target_options: PlainLoadOptions = Field(
        default_factory=dict, description="How to load the target: fields of LoadOptions."
    )
    draft_options: PlainLoadOptions = Field(
        default_factory=dict, description="How to load the draft: fields of LoadOptions."
    )
    specpc: Annotated[SpecPCConfig | None, _config_from_dict(SpecPCConfig)] = Field(
        default=None, description="Drop prompt tokens before the target reads them. None reads all."
    )
    speckv: Annotated[SpecKVConfig | None, _config_from_dict(SpecKVConfig)] = Field(
        default_factory=SpecKVConfig, description="Prune the target's KV cache. None keeps all."
    )
    max_tokens: int = Field(default=256, description="At most so many tokens are generated.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    top_p: float | None = Field(default=None, description="Nucleus sampling: share of the probability, (0, 1].")
    top_k: int | None = Field(default=None, description="Sample among so many best tokens.")
    repetition_penalty: float | None = Field(default=None, description="Above 1 discourages repetition.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = Field(
        default=None, description="The answer ends before the first of these strings."
    )
    context_window: int | None = Field(
        default=None, gt=0, description="Tokens of prompt and answer; None takes what the models were made for."
    )
    generation_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of transformers' GenerationConfig."
    )

    _loaded: ModelPair | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _name_loaded_models(cls, given: Any) -> Any:
        pair = given.get("pair") if isinstance(given, dict) else None
        if pair is None:
            return given
        if not isinstance(pair, ModelPair):
            raise ValueError(f"pair of type {type(pair).__name__}: give a ModelPair.")
        return {
            **given,
            "target": pair.target_name or _name_of(pair.require_target()),
            "draft": None if pair.draft is None else pair.draft_name or _name_of(pair.draft),
        }

    @model_validator(mode="after")
    def _check_sampling_and_adopt_pair(self) -> Self:
        self._arguments({})
        self._loaded = self.pair
        return self

    @classmethod
    def class_name(cls) -> str:
        return "SpecKVLLM"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Build the LLM from `to_dict()`. Nothing is loaded; loaded models go in as `pair=`.

        Raises:
            ValueError: the data would run code from a checkpoint, or a setting is out of range or unknown.
        """
        refuse_remote_code({**data, **dict.fromkeys(kwargs)}, "target_options", "draft_options")
        return super().from_dict(data, **kwargs)

    def load(self) -> ModelPair:
        """The models, loaded now if they were not.

        Raises:
            ModelNotFoundError: a name is not found.
        """
        if self._loaded is None:
            self._loaded = ModelPair.load(
                draft=self.draft,
                target=self.target,
                draft_options=LoadOptions(**self.draft_options),
                target_options=LoadOptions(**self.target_options),
            )
        return self._loaded

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks of every LLM; loads the models."""
        pair = self.load()
        return LLMMetadata(
            context_window=self.context_window or _context_tokens(pair, self.specpc, self.speckv),
            num_output=self.max_tokens,
            is_chat_model=self._chat_template is not None,
            model_name=self.target,
        )

    def to_payload(self) -> dict[str, Any]:
        """The settings, for observers, and the metadata if the models are loaded; loads nothing."""
        metadata = {} if self._loaded is None else self.metadata.model_dump()
        return {**self.to_dict(), "model_name": self.target, **metadata}

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt.

        With formatted=True it is read as it stands; otherwise `completion_to_prompt` is applied if one was given, and
        else the chat template, where the tokenizer has one.
        """
        answer = generate(self.load(), self._completion_prompt(prompt, formatted), **self._arguments(kwargs))
        return CompletionResponse(text=answer.text, raw=self._account(answer))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete`; cancelling the task stops the generation within two tokens."""
        pair = await self._aload()
        answer = await agenerate(pair, self._completion_prompt(prompt, formatted), **self._arguments(kwargs))
        return CompletionResponse(text=answer.text, raw=self._account(answer))

    @closes_with_consumer
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        pieces = self._pieces(self._completion_prompt(prompt, formatted), kwargs)
        return (CompletionResponse(text=text, delta=delta, raw=raw) for text, delta, raw in pieces)

    @aclose_with_consumer
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`acomplete` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        await self._aload()
        pieces = self._apieces(self._completion_prompt(prompt, formatted), kwargs)
        return (CompletionResponse(text=text, delta=delta, raw=raw) async for text, delta, raw in pieces)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat, through a `messages_to_prompt` of the user's own or the tokenizer's chat template.

        Raises:
            ValueError: there are no messages, or one carries media.
        """
        answer = generate(self.load(), self._chat_prompt(messages), **self._arguments(kwargs))
        return ChatResponse(message=_assistant(answer.text), raw=self._account(answer))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat`; cancelling the task stops the generation within two tokens."""
        pair = await self._aload()
        answer = await agenerate(pair, self._chat_prompt(messages), **self._arguments(kwargs))
        return ChatResponse(message=_assistant(answer.text), raw=self._account(answer))

    @closes_with_consumer
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        pieces = self._pieces(self._chat_prompt(messages), kwargs)
        return (ChatResponse(message=_assistant(text), delta=delta, raw=raw) for text, delta, raw in pieces)

    @aclose_with_consumer
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`achat` piece by piece; closing or dropping the generator stops the generation within two tokens."""
        await self._aload()
        pieces = self._apieces(self._chat_prompt(messages), kwargs)
        return (ChatResponse(message=_assistant(text), delta=delta, raw=raw) async for text, delta, raw in pieces)

    async def _aload(self) -> ModelPair:
        return await asyncio.to_thread(self.load) if self._loaded is None else self._loaded

    @property
    def _chat_template(self) -> str | None:
        template = self.load().require_tokenizer().chat_template
        return str(template) if template else None

    def _completion_prompt(self, prompt: str, formatted: bool) -> Prompt:
        if self.completion_to_prompt not in (None, default_completion_to_prompt):
            return self._ids_of_formatted(prompt if formatted else self.completion_to_prompt(prompt))
        if formatted or self._chat_template is None:
            return prompt
        return [{"role": "user", "content": prompt}]

    def _chat_prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        if self.messages_to_prompt not in (None, generic_messages_to_prompt):
            return self._ids_of_formatted(self.messages_to_prompt(messages))
        turns = template_messages(messages, self._chat_template or "")
        return generic_messages_to_prompt(messages) if self._chat_template is None else turns

    def _ids_of_formatted(self, text: str) -> list[int]:
        """Ids of a prompt that the user's own function spelled out, special tokens included, with one opening token."""
        tokenizer = self.load().require_tokenizer()
        opened = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return list(encode(tokenizer, text, add_special_tokens=not opened)["input_ids"])

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords of `generate` from the fields and one call's arguments, checked."""
        given = {name: value for name, value in given.items() if value is not None}
        options = {name: getattr(self, name) for name in _SAMPLING_FIELDS} | self.generation_kwargs | given
        configs = {"specpc": options.pop("specpc", self.specpc), "speckv": options.pop("speckv", self.speckv)}
        for name, config_class in (("specpc", SpecPCConfig), ("speckv", SpecKVConfig)):
            if isinstance(configs[name], Mapping):
                configs[name] = config_class.from_dict(dict(configs[name]))
        max_new_tokens = options.pop("max_tokens", options.pop("max_new_tokens", self.max_tokens))
        SamplingConfig.of(max_new_tokens, options)
        return {**options, **configs, "max_new_tokens": max_new_tokens}

    def _pieces(self, prompt: Prompt, given: Mapping[str, Any]) -> Iterator[_Piece]:
        """The answer so far, what is new of it, and at the end its account; the arguments are checked at once."""
        arguments, streams, span_id = self._arguments(given), streams_of_consumer(), active_span_id.get()

        def pieces() -> Iterator[_Piece]:
            text, answering = "", stream(self.load(), prompt, **arguments)
            streams.append(answering)
            for delta in answering:
                text += delta
                yield text, delta, None
            yield text, "", self._account(answering.answer, span_id)

        return pieces()

    def _apieces(self, prompt: Prompt, given: Mapping[str, Any]) -> AsyncIterator[_Piece]:
        arguments, streams, span_id = self._arguments(given), streams_of_consumer(), active_span_id.get()

        async def pieces() -> AsyncIterator[_Piece]:
            text, answering = "", stream(self.load(), prompt, **arguments)
            streams.append(answering)
            async for delta in answering:
                text += delta
                yield text, delta, None
            yield text, "", self._account(answering.answer, span_id)

        return pieces()

    def _account(self, answer: Answer | None, span_id: str | None = None) -> dict[str, Any]:
        """What the answer cost, as plain numbers for `raw`; tells the instrumentation what was dropped."""
        assert answer is not None
        dropped = {
            "prompt_tokens": answer.prompt_tokens,
            "target_prompt_tokens": answer.target_prompt_tokens,
            "kv_bytes_dense": answer.kv_bytes_dense,
            "kv_bytes_kept": answer.kv_bytes_kept,
            "draft_seconds": answer.timings.draft_seconds,
        }
        if answer.kv_bytes_kept < answer.kv_bytes_dense or answer.target_prompt_tokens < answer.prompt_tokens:
            span = span_id or active_span_id.get()
            names = {"draft": self.draft or "", "target": self.target}
            dispatcher.event(KVDropEvent.model_validate({"span_id": span, **names, **dropped}))
        return {
            "model": self.target,
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            },
            "speckv": {
                **dropped,
                "lookahead_tokens": len(answer.lookahead_ids),
                "prefill_seconds": answer.timings.prefill_seconds,
                "decode_seconds": answer.timings.decode_seconds,
            },
        }


def _assistant(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def _name_of(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def _context_tokens(pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None) -> int:
    """Tokens that prompt and answer may take: the draft reads the whole prompt, the target what SpecPC leaves of it."""
    readers = [] if specpc is not None else [pair.target]
    if specpc is not None or (speckv is not None and speckv.lookahead == "draft"):
        readers.append(pair.draft)
    limits = [getattr(m.config.get_text_config(decoder=True), "max_position_embeddings", None) for m in readers if m]
    return min((int(limit) for limit in limits if limit), default=DEFAULT_CONTEXT_WINDOW)
