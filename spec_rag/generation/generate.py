"""The second job: from a prompt to an answer, with draft-guided compression of the prompt and of the KV cache.

    prompt -> [SpecPC: drop prompt tokens] -> look-ahead -> prefill under capture -> pruned cache -> decode -> Answer

This module orders the stages and queues requests on the models. It does not know documents or frameworks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from spec_rag.attention.token_selection import select_prompt_tokens
from spec_rag.errors import ConfigError
from spec_rag.generation.batcher import Batcher
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward
from spec_rag.generation.context_cache import ContextCache
from spec_rag.generation.decoding import decode
from spec_rag.generation.draft_pass import read_rows, read_with_draft
from spec_rag.generation.end_tokens import answer_ends
from spec_rag.generation.model_errors import Faults
from spec_rag.generation.prompt_batch import Batch, groups_of_rows, side_of_row
from spec_rag.generation.row_streams import RowsStreamer, RowStreamer
from spec_rag.generation.sampling import SamplingConfig
from spec_rag.generation.stop_criteria import Cancelled
from spec_rag.generation.unit_selection import select_units
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.results import Answer, PromptScore
from spec_rag.text.chat_units import ChatUnits, chat_units
from spec_rag.text.context_prompts import question_ids
from spec_rag.text.prompts import Prompt, as_chat, prompt_ids
from spec_rag.utils.object_state import state_of


def generate(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> Answer:
    """Answer one prompt: with SpecPC, SpecKV, both (SpecKV-PC), or, with neither, the target as it is.

    Each call prefills its prompt anew: a cache pruned for one question never answers another.

    Args:
        pair: the models; a draft is needed by SpecPC and by SpecKV with lookahead="draft".
        prompt: text, chat messages or token ids.
        specpc: drop prompt tokens before the target reads them (paper, section 4.2).
        speckv: prune the target's KV cache by a look-ahead (paper, section 4.1).
        max_new_tokens: at most so many tokens are generated.
        **options: those of `generate_batch`, and any field of transformers' GenerationConfig. Greedy unless do_sample,
            a temperature above 0 or another option of sampling (top_p, top_k, min_p ...) is given. `schema` holds the
            answer to a JSON schema (a dict, JSON text, a pydantic class, or True for any object), `regex` to a regular
            expression. Near max_new_tokens such an answer is closed in time; its finish_reason is then "length".

    Raises:
        ConfigError: an argument is out of range or unknown.
        IncompatibleModelsError: draft and target do not share their tokens, and the settings need that they do.
        PromptTooLongError: the prompt is beyond a model's context.
        UnsupportedModelError: a model's attention cannot be observed or pruned.
        OutOfMemoryError: a model ran out of memory; the message says what takes less.
        NotFiniteError: a model computed nan or inf.
    """
    return generate_batch(pair, [prompt], specpc, speckv, max_new_tokens, **options)[0]


def generate_batch(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    *,
    streamer: BaseStreamer | None = None,
    cancelled: threading.Event | None = None,
    backend: str | None = None,
    context: ContextCache | None = None,
    **options: Any,
) -> list[Answer]:
    """Answer several prompts in one left-padded batch; greedily, row i equals prompt i alone. See `generate`.

    Args:
        streamer: transformers' streamer, for a single prompt.
        cancelled: an event that ends the generation, or the wait for the models, when it is set; a
            `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        backend: kernel backend ("torch", "triton"); None chooses by device.
        context: a context that the target has read once; the prompts are questions on it. With speckv, the
            question and what repeats its words choose at most max_capacity_prompt pairs per head among those kept.
        **options: seed, stop (a string or several), schema, regex, and the fields of GenerationConfig.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts={prompts!r:.80} is a single string: put it into a list, or use generate().")
    sampling = SamplingConfig.of(max_new_tokens, options)
    _check_arguments(pair, specpc, speckv, context)
    pair.require_target()
    if not prompts:
        return []
    rows = [PromptRow.of(pair.tokenizer, prompt, specpc, context) for prompt in prompts]
    with pair.lock.hold(cancelled) as mine:
        if not mine:
            return [cancelled_answer(len(row.ids)) for row in rows]
        answers: dict[int, Answer] = {}
        for group in groups_of_rows(pair, [len(row.ids) for row in rows], specpc, _written(specpc, speckv, sampling)):
            chosen = [rows[i] for i in group]
            found = answer_rows(pair, chosen, specpc, speckv, sampling, streamer, cancelled, backend, context)
            answers.update(zip(group, found, strict=True))
        return [answers[i] for i in range(len(rows))]


def generate_together(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    *,
    streamer: RowStreamer | None = None,
    cancelled: threading.Event | None = None,
    backend: str | None = None,
    context: ContextCache | None = None,
    **options: Any,
) -> Answer:
    """Like `generate`, in one batch with what other threads ask of the same target with the same settings meanwhile.

    Nobody waits for a batch to fill. What is to be repeatable by a seed is answered alone.

    Args:
        pair, prompt, specpc, speckv, max_new_tokens, **options: as for `generate`.
        streamer: given the answer's tokens as they come.
        cancelled: ends the wait, or this answer alone, when it is set.
        backend: kernel backend; None chooses by device.
        context: a context that the target has read once.
    """
    sampling = SamplingConfig.of(max_new_tokens, options)
    if sampling.seed is not None:
        return generate(
            pair,
            prompt,
            specpc,
            speckv,
            max_new_tokens,
            streamer=streamer,
            cancelled=cancelled,
            backend=backend,
            context=context,
            **options,
        )
    _check_arguments(pair, specpc, speckv, context)
    target = pair.require_target()
    row = PromptRow.of(pair.tokenizer, prompt, specpc, context)

    def run(asked: Sequence[_Asked], stop: Sequence[threading.Event | None]) -> list[Answer]:
        streamers = [one.streamer for one in asked]
        together = RowsStreamer(streamers, answer_ends(pair, sampling)) if any(streamers) else None
        rows = [one.row for one in asked]
        return answer_rows(pair, rows, specpc, speckv, sampling, together, stop, backend, context)

    batcher = cast("Batcher[_Asked, Answer]", state_of(target, Batcher))
    asked = _Asked(row, streamer)
    side = side_of_row(pair, len(row.ids), specpc, _written(specpc, speckv, sampling))
    apart = id(asked) if side is None else side
    kind = repr((id(pair.draft), id(pair.tokenizer), specpc, speckv, sampling, backend, id(context), apart))
    answer = batcher.answer(asked, len(row.ids), kind, run, pair.lock, cancelled, repeatable=_Asked.is_untold)
    return cancelled_answer(len(row.ids)) if answer is None else answer


@dataclass(frozen=True, eq=False)
class PromptRow:
    """A prompt as it is read.

    Attributes:
        ids: int64 [tokens].
        units: the whole units that SpecPC drops or keeps of it, or None for single tokens.
    """

    ids: Tensor
    units: ChatUnits | None = None

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase | None,
        prompt: Prompt,
        specpc: SpecPCConfig | None = None,
        context: ContextCache | None = None,
    ) -> PromptRow:
        """The prompt, or what follows the context, in tokens.

        Raises:
            ConfigError: as `prompt_ids`, or whole sentences are asked for of a prompt that is no chat.
        """
        if context is not None:
            return cls(question_ids(tokenizer, prompt))
        chat = as_chat(prompt)
        if specpc is None or specpc.unit == "token" or (chat is None and specpc.unit == "auto"):
            return cls(prompt_ids(tokenizer, prompt))
        if chat is None or tokenizer is None:
            raise ConfigError(f"unit={specpc.unit!r} keeps whole sentences of a chat: give messages, or unit='token'.")
        units = chat_units(tokenizer, chat)
        return cls(units.ids, units)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A prompt in the queue, and who is told of its answer as it comes."""

    row: PromptRow
    streamer: RowStreamer | None

    def is_untold(self) -> bool:
        return self.streamer is None or not self.streamer.begun


def answer_rows(
    pair: ModelPair,
    rows: list[PromptRow],
    specpc: SpecPCConfig | None,
    speckv: SpecKVConfig | None,
    sampling: SamplingConfig,
    streamer: BaseStreamer | None = None,
    cancelled: Cancelled = None,
    backend: str | None = None,
    context: ContextCache | None = None,
) -> list[Answer]:
    """Answer prompts; the caller holds the pair's lock."""
    batch = Batch.of([row.ids for row in rows], [row.units for row in rows])
    draft = pair.draft if specpc is not None or speckv is not None else None
    faults = Faults(pair, [row.ids for row in rows], specpc, speckv, sampling, context.tokens if context else 0)
    with chunked_feed_forward([draft, pair.target], sampling.prefill_chunk_size):
        try:
            if context is None:
                with faults.of_draft():
                    read_with_draft(pair, batch, specpc, speckv, sampling.max_new_tokens, cancelled, backend, sampling)
            with faults.of_target():
                return decode(pair, batch, speckv, sampling, streamer, cancelled, backend, context)
        finally:
            for model in [one for one in (draft, pair.target) if one is not None]:
                restore_frequencies(model)


def _written(specpc: SpecPCConfig | None, speckv: SpecKVConfig | None, sampling: SamplingConfig) -> int:
    """The most tokens that a model writes behind a prompt, as an answer or to look ahead."""
    ahead = [specpc.lookahead_tokens] if specpc is not None else []
    if speckv is not None and speckv.lookahead_tokens is not None:
        ahead.append(speckv.lookahead_tokens)
    return max([sampling.max_new_tokens, *ahead])


def cancelled_answer(prompt_tokens: int) -> Answer:
    """The answer to a request that was cancelled before its turn came."""
    return Answer("", [], prompt_tokens, 0, 0, "cancelled")


def score_prompt(
    pair: ModelPair, prompt: Prompt, specpc: SpecPCConfig | None = None, *, backend: str | None = None
) -> PromptScore:
    """Let the draft read one prompt and say which tokens matter (SpecPC; paper, section 4.2).

    Raises:
        ConfigError: the prompt is empty or shorter than the window.
        PromptTooLongError: the prompt is beyond the draft's context.
        OutOfMemoryError, NotFiniteError: as for `generate`.
    """
    specpc = specpc or SpecPCConfig()
    _check_arguments(pair, specpc, None)
    row = PromptRow.of(pair.tokenizer or pair.draft_tokenizer, prompt, specpc)
    with pair.lock.hold(), Faults(pair, [row.ids], specpc).of_draft():
        reading = read_rows(pair, [row.ids], specpc, specpc.lookahead_tokens, backend=backend)
    assert reading.importance is not None
    importance = reading.importance[0]
    if row.units is None or len(importance) <= specpc.max_capacity_prompt:
        return PromptScore(importance, select_prompt_tokens(importance, specpc), reading.lookahead_ids[0])
    return PromptScore(importance, select_units(importance, row.units, specpc), reading.lookahead_ids[0])


def _check_arguments(
    pair: ModelPair,
    specpc: SpecPCConfig | None,
    speckv: SpecKVConfig | None,
    context: ContextCache | None = None,
) -> None:
    ModelPair.check(pair)
    if context is not None:
        if not isinstance(context, ContextCache):
            raise ConfigError(
                f"context of type {type(context).__name__}: give a ContextCache, such as ContextCache.read(pair, text)."
            )
        if specpc is not None:
            raise ConfigError("specpc drops tokens of a prompt that is read, but context has been read: leave one out.")
        context.check(pair)
    for name, value, kind in (("specpc", specpc, SpecPCConfig), ("speckv", speckv, SpecKVConfig)):
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"{name}={value!r:.80} of type {type(value).__name__}: give a {kind.__name__}, such as "
                f"{kind.__name__}(max_capacity_prompt=512), or None."
            )
