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
from transformers.generation.streamers import BaseStreamer

from spec_rag.attention.selection import select_prompt_tokens
from spec_rag.config import SpecKVConfig, SpecPCConfig
from spec_rag.errors import ConfigError
from spec_rag.generation.batch import Batch
from spec_rag.generation.batching import Batcher, batcher_of
from spec_rag.generation.chunked import chunked_feed_forward
from spec_rag.generation.decoding import decode
from spec_rag.generation.draft import read_rows, read_with_draft
from spec_rag.generation.row_streams import RowsStreamer, RowStreamer
from spec_rag.generation.sampling import SamplingConfig, eos_token_ids
from spec_rag.generation.stopping import Cancelled
from spec_rag.models.pair import ModelPair
from spec_rag.results import Answer, PromptScore
from spec_rag.text.prompts import Prompt, prompt_ids


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
    **options: Any,
) -> list[Answer]:
    """Answer several prompts in one left-padded batch; greedily, row i equals prompt i alone. See `generate`.

    Args:
        streamer: transformers' streamer, for a single prompt.
        cancelled: an event that ends the generation, or the wait for the models, when it is set; a
            `spec_rag.Cancellation` ends the wait at once, any other event within 50 ms.
        backend: kernel backend ("torch", "triton"); None chooses by device.
        **options: seed, stop (a string or several), schema, regex, and the fields of GenerationConfig.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts={prompts!r:.80} is a single string: put it into a list, or use generate().")
    sampling = SamplingConfig.of(max_new_tokens, options)
    _check_arguments(pair, specpc, speckv)
    pair.require_target()
    if not prompts:
        return []
    rows = [prompt_ids(pair.tokenizer, prompt) for prompt in prompts]
    with pair.lock.hold(cancelled) as mine:
        if not mine:
            return [cancelled_answer(len(row)) for row in rows]
        return answer_rows(pair, rows, specpc, speckv, sampling, streamer, cancelled, backend)


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
    **options: Any,
) -> Answer:
    """Like `generate`, in one batch with what other threads ask of the same target with the same settings meanwhile.

    Nobody waits for a batch to fill. What is to be repeatable by a seed is answered alone.

    Args:
        pair, prompt, specpc, speckv, max_new_tokens, **options: as for `generate`.
        streamer: given the answer's tokens as they come.
        cancelled: ends the wait, or this answer alone, when it is set.
        backend: kernel backend; None chooses by device.
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
            **options,
        )
    _check_arguments(pair, specpc, speckv)
    target = pair.require_target()
    row = prompt_ids(pair.tokenizer, prompt)

    def run(asked: Sequence[_Asked], stop: Sequence[threading.Event | None]) -> list[Answer]:
        streamers = [one.streamer for one in asked]
        together = RowsStreamer(streamers, eos_token_ids(target)) if any(streamers) else None
        return answer_rows(pair, [one.row for one in asked], specpc, speckv, sampling, together, stop, backend)

    batcher = cast("Batcher[_Asked, Answer]", batcher_of(target))
    kind = repr((id(pair.draft), id(pair.tokenizer), specpc, speckv, sampling, backend))
    asked = _Asked(row, streamer)
    answer = batcher.answer(asked, len(row), kind, run, pair.lock, cancelled, repeatable=_Asked.is_untold)
    return cancelled_answer(len(row)) if answer is None else answer


@dataclass(frozen=True, eq=False)
class _Asked:
    """A prompt in the queue: int64 [tokens], and who is told of its answer as it comes."""

    row: Tensor
    streamer: RowStreamer | None

    def is_untold(self) -> bool:
        return self.streamer is None or not self.streamer.begun


def answer_rows(
    pair: ModelPair,
    rows: list[Tensor],
    specpc: SpecPCConfig | None,
    speckv: SpecKVConfig | None,
    sampling: SamplingConfig,
    streamer: BaseStreamer | None = None,
    cancelled: Cancelled = None,
    backend: str | None = None,
) -> list[Answer]:
    """Answer prompts that are token ids; the caller holds the pair's lock."""
    batch = Batch.of(rows)
    draft = pair.draft if specpc is not None or speckv is not None else None
    with chunked_feed_forward([draft, pair.target], sampling.prefill_chunk_size):
        read_with_draft(pair, batch, specpc, speckv, sampling.max_new_tokens, cancelled, backend)
        return decode(pair, batch, speckv, sampling, streamer, cancelled, backend)


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
    """
    specpc = specpc or SpecPCConfig()
    _check_arguments(pair, specpc, None)
    row = prompt_ids(pair.tokenizer or pair.draft_tokenizer, prompt)
    with pair.lock.hold():
        reading = read_rows(pair, [row], specpc, specpc.lookahead_tokens, backend=backend)
    assert reading.importance is not None
    importance = reading.importance[0]
    return PromptScore(importance, select_prompt_tokens(importance, specpc), reading.lookahead_ids[0])


def _check_arguments(pair: ModelPair, specpc: SpecPCConfig | None, speckv: SpecKVConfig | None) -> None:
    ModelPair.check(pair)
    for name, value, kind in (("specpc", specpc, SpecPCConfig), ("speckv", speckv, SpecKVConfig)):
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"{name}={value!r:.80} of type {type(value).__name__}: give a {kind.__name__}, such as "
                f"{kind.__name__}(max_capacity_prompt=512), or None."
            )
