"""SpecKVLLM: a LangChain LLM with SpecKV and SpecPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import BaseLLM, LangSmithParams
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from langchain_spec_rag.settings import DraftedModel, own_token_ids
from spec_rag.results import Answer

if TYPE_CHECKING:
    from spec_rag.text.prompts import Prompt


class SpecKVLLM(DraftedModel, BaseLLM):
    """A local LLM with KV cache pruning (SpecKV) and prompt compression (SpecPC) by a draft model.

    Without arguments, target and draft are the default draft model. Models are loaded on first use or by `load()`, and
    shared in the process by equal names and options. Requests of threads and event loops are queued (FIFO). `batch`
    runs one batch on the target, or several of size `max_concurrency`.

    The fields are those of DraftedModel. A call may override them and add fields of transformers' GenerationConfig:
    `llm.invoke("...", max_tokens=20, speckv=None)`.

    Raises:
        ValidationError: (a ValueError) a setting is out of range or unknown.

    Calls also raise ModelNotFoundError, IncompatibleModelsError (draft and target have different tokens),
    PromptTooLongError, UnsupportedModelError, TimeoutError.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    use_chat_template: bool = True
    """True applies the chat template, if there is one, with the prompt as the user message. False reads the prompt as
    plain text; special tokens in it are then text."""

    def _own_settings(self) -> set[str]:
        return {"use_chat_template"}

    @property
    def _llm_type(self) -> str:
        return "spec-kv"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing_params("llm", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids by the target's tokenizer; loads the models."""
        return own_token_ids(self, text)

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer the prompts in one batch; the settings of the call are part of the cache key."""
        run = {name: kwargs.pop(name) for name in ("tags", "metadata", "run_name", "run_id") if name in kwargs}
        called = self.for_call(stop, kwargs)
        return super(SpecKVLLM, called).generate(prompts, cast("list[str] | None", called.stop), callbacks, **run)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """`generate`; cancelling the task stops the generation within two tokens."""
        run = {name: kwargs.pop(name) for name in ("tags", "metadata", "run_name", "run_id") if name in kwargs}
        called = self.for_call(stop, kwargs)
        return await super(SpecKVLLM, called).agenerate(
            prompts, cast("list[str] | None", called.stop), callbacks, **run
        )

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        called = self.for_call(stop, kwargs)
        if called.streaming and len(prompts) == 1:
            return called._result([_sum(list(called._stream(prompts[0], run_manager=run_manager)))])
        prepared = [called._prompt(prompt) for prompt in prompts]
        answers = called._client().answer_all(prepared)
        return called._result([called._generation(answer) for answer in answers])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        called = self.for_call(stop, kwargs)
        if called.streaming and len(prompts) == 1:
            chunks = [chunk async for chunk in called._astream(prompts[0], run_manager=run_manager)]
            return called._result([_sum(chunks)])
        client = await asyncio.to_thread(called._client)
        prepared = [called._prompt(prompt) for prompt in prompts]
        answers = await client.aanswer_all(prepared)
        return called._result([called._generation(answer) for answer in answers])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        called = self.for_call(stop, kwargs)
        pieces = called._client().stream(called._prompt(prompt))
        with closing(pieces):
            for piece in pieces:
                chunk = called._chunk(piece)
                if run_manager is not None and chunk.text:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        called = self.for_call(stop, kwargs)
        client = await asyncio.to_thread(called._client)
        pieces = client.astream(called._prompt(prompt))
        async with aclosing(pieces):
            async for piece in pieces:
                chunk = called._chunk(piece)
                if run_manager is not None and chunk.text:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _prompt(self, prompt: str) -> Prompt:
        if self.use_chat_template and self.load().require_tokenizer().chat_template:
            return [{"role": "user", "content": prompt}]
        return prompt

    def _chunk(self, piece: str | Answer) -> GenerationChunk:
        if isinstance(piece, str):
            return GenerationChunk(text=piece)
        return GenerationChunk(text="", generation_info=self._info(piece))

    def _generation(self, answer: Answer) -> Generation:
        return Generation(text=answer.text, generation_info=self._info(answer))

    def _info(self, answer: Answer) -> dict[str, Any]:
        return {
            "finish_reason": answer.finish_reason,
            "model_name": self.model_name,
            "token_usage": answer.usage,
            "speckv": answer.stats,
        }

    def _result(self, generations: list[Generation]) -> LLMResult:
        usages = [(generation.generation_info or {})["token_usage"] for generation in generations]
        total = {name: sum(usage[name] for usage in usages) for name in usages[0]} if usages else {}
        return LLMResult(
            generations=[[generation] for generation in generations],
            llm_output={"token_usage": total, "model_name": self.model_name},
        )


def _sum(chunks: list[GenerationChunk]) -> Generation:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return Generation(text=whole.text, generation_info=whole.generation_info)
