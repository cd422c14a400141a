"""Generation: from a prompt to an answer, with draft-guided compression of the prompt and of the KV cache.

prompt -> [SpecPC: drop prompt tokens] -> look-ahead -> prefill under capture -> pruned cache -> decode -> Answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from spec_rag.errors import ConfigError
from spec_rag.generation.batcher import Batcher, QueuedRequest
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward
from spec_rag.generation.decoding import decode
from spec_rag.generation.draft_pass import read_rows, read_with_draft, selected_tokens
from spec_rag.generation.model_errors import ModelErrors
from spec_rag.generation.prompt_batch import Batch, PromptRow, batches_of, rope_sides
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.row_streams import RowsStreamer, RowStreamer
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.results import Answer, PromptScore
from spec_rag.text.prompts import Prompt
from spec_rag.utils.object_state import state_of


def generate(
    pair: ModelPair,
    prompt: Prompt,
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> Answer:
    """Answer one prompt with SpecPC, SpecKV, both (SpecKV-PC), or with the unchanged target.

    Each call prefills its prompt again: a cache that was pruned for one question is not used for another.

    Args:
        pair: the models; a draft is needed by SpecPC, and by SpecKV with lookahead="draft".
        prompt: text, chat messages or token ids.
        specpc: drop prompt tokens before the target reads them (paper, section 4.2).
        speckv: prune the target's KV cache by a look-ahead (paper, section 4.1).
        max_new_tokens: maximum length of the answer in tokens.
        **options: those of `generate_batch`.

    Raises:
        ConfigError: an argument is out of range or unknown.
        IncompatibleModelsError: draft and target have different tokenizers, and the settings need the same.
        PromptTooLongError: the prompt exceeds a model's context.
        UnsupportedModelError: a model's attention cannot be observed or pruned.
        OutOfMemoryError: a model ran out of memory; the message says what takes less.
        NotFiniteError: a model computed NaN or infinity.
    """
    return answer_prompts(GenerationRequest.of(pair, [prompt], specpc, speckv, max_new_tokens, **options))[0]


def generate_batch(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> list[Answer]:
    """Answer several prompts in one left-padded batch; with greedy decoding row i is the answer to prompt i alone.

    Args:
        pair, specpc, speckv, max_new_tokens: see `generate`.
        prompts: text, chat messages or token ids each.
        **options: any field of transformers' GenerationConfig, and the following. Decoding is greedy unless do_sample,
            a temperature above 0 or another sampling option (top_p, top_k, min_p ...) is given.

            - stop: a string or several; the answer ends before the first of them.
            - seed: makes sampling repeatable.
            - schema: a JSON schema (dict, JSON text, pydantic class, or True for any object) that the answer fits.
            - regex: a regular expression that the answer matches. Near max_new_tokens such an answer is completed in
              time, and its finish_reason is "length".
            - presence_penalty, frequency_penalty, logprobs, prefill_chunk_size: see `SamplingConfig`.
            - context: a ContextCache; the prompts are questions on it. With speckv, each question selects at most
              max_capacity_prompt of its pairs per head.
            - cancelled: an event that ends the generation, or the wait for the models. A `spec_rag.Cancellation` ends
              the wait at once, any other event within 50 ms.
            - streamer: a streamer of transformers, for a single prompt.
            - backend: kernel backend ("torch", "triton"); None selects by device.

    Raises:
        ConfigError, IncompatibleModelsError, PromptTooLongError, UnsupportedModelError, OutOfMemoryError,
            NotFiniteError: see `generate`.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts={prompts!r:.80} is a single string: put it into a list, or use generate().")
    return answer_prompts(GenerationRequest.of(pair, prompts, specpc, speckv, max_new_tokens, **options))


def score_prompt(
    pair: ModelPair, prompt: Prompt, specpc: SpecPCConfig | None = None, *, backend: str | None = None
) -> PromptScore:
    """Importance of each prompt token according to the draft (SpecPC; paper, section 4.2).

    Raises:
        ConfigError: the prompt is empty or shorter than the window.
        PromptTooLongError: the prompt exceeds the draft's context.
        OutOfMemoryError, NotFiniteError: see `generate`.
    """
    specpc = SpecPCConfig() if specpc is None else specpc
    request = GenerationRequest(pair, [prompt], specpc, backend=backend).checked()
    row = PromptRow.of(request, prompt, pair.tokenizer or pair.draft_tokenizer)
    with pair.lock.hold(), ModelErrors(request, [row.ids], is_generating=False).of_draft():
        reading = read_rows(request, [row.ids], specpc.lookahead_tokens)
    assert reading.importance is not None
    importance = reading.importance[0]
    return PromptScore(importance, selected_tokens(row, importance, specpc), reading.lookahead_ids[0])


def answer_prompts(request: GenerationRequest) -> list[Answer]:
    """Answer every prompt of a request, in as few batches as possible."""
    rows = [PromptRow.of(request, prompt) for prompt in request.prompts]
    if not rows:
        return []
    with request.pair.lock.hold(request.cancelled) as acquired:  # type: ignore[arg-type]
        if not acquired:
            return [cancelled_answer(row) for row in rows]
        answers: dict[int, Answer] = {}
        for indices in batches_of(request, [len(row.ids) for row in rows]):
            batch_answers = answer_rows(request, [rows[i] for i in indices])
            answers.update(zip(indices, batch_answers, strict=True))
        return [answers[i] for i in range(len(rows))]


def answer_rows(request: GenerationRequest, rows: Sequence[PromptRow]) -> list[Answer]:
    """Answer tokenized prompts in one batch; the caller holds the models' lock."""
    batch = Batch.of([row.ids for row in rows], [row.units for row in rows])
    needs_draft = request.specpc is not None or request.speckv is not None
    models = [request.pair.draft if needs_draft else None, request.target]
    errors = ModelErrors(request, [row.ids for row in rows])
    with chunked_feed_forward(models, request.sampling.prefill_chunk_size):
        try:
            if request.context is None:
                with errors.of_draft():
                    read_with_draft(request, batch)
            with errors.of_target():
                return decode(request, batch)
        finally:
            for model in models:
                if model is not None:
                    restore_frequencies(model)


@dataclass(frozen=True, eq=False)
class _QueuedPrompt:
    """A tokenized prompt of a request with one prompt; `sides` are those of `rope_sides`."""

    request: GenerationRequest
    row: PromptRow
    sides: tuple[str, ...] | None

    def may_share_batch(self, other: _QueuedPrompt) -> bool:
        return self.sides is not None and self.sides == other.sides and self.request.shares_batch_with(other.request)

    def has_passed_nothing_on(self) -> bool:
        streamer = cast("RowStreamer | None", self.request.streamer)
        return streamer is None or not streamer.begun


def answer_together(request: GenerationRequest) -> Answer:
    """Answer a request with one prompt, in one batch with compatible requests of other threads that wait meanwhile.

    No request waits for a batch to fill. A request with a seed is answered alone. A streamer must be a `RowStreamer`.
    """
    (prompt,) = request.prompts
    row = PromptRow.of(request, prompt)
    sides = rope_sides(request, len(row.ids)) if request.sampling.seed is None else None
    queued = _QueuedPrompt(request, row, sides)

    def run(batch: Sequence[QueuedRequest[_QueuedPrompt, Answer]]) -> list[Answer]:
        prompts = [entry.prompt for entry in batch]
        streamers = [cast("RowStreamer | None", prompt.request.streamer) for prompt in prompts]
        together = replace(
            request,
            cancelled=[entry.cancelled for entry in batch],
            streamer=RowsStreamer(streamers, request.ends) if any(streamers) else None,
        )
        return answer_rows(together, [prompt.row for prompt in prompts])

    batcher = cast("Batcher[_QueuedPrompt, Answer]", state_of(request.target, Batcher))
    entry = QueuedRequest[_QueuedPrompt, Answer](
        queued,
        len(row.ids),
        queued.may_share_batch,
        request.cancelled,  # type: ignore[arg-type]
        queued.has_passed_nothing_on,
    )
    answer = batcher.answer(entry, run, request.pair.lock)
    return cancelled_answer(row) if answer is None else answer


def cancelled_answer(row: PromptRow) -> Answer:
    """The answer to a request that was cancelled while it waited for the models."""
    return Answer("", [], len(row.ids), 0, 0, "cancelled")
