"""Log-likelihood of a given answer, after a compressed prompt or from a pruned cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spec_rag.errors import ConfigError
from spec_rag.generation.draft_pass import read_with_draft
from spec_rag.generation.model_errors import ModelErrors
from spec_rag.generation.prefill import pruned_cache
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts, PromptRow, is_pruned
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import SamplingConfig
from spec_rag.generation.target_calls import read_logits
from spec_rag.models.error_context import check_finite
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.text.prompts import Prompt


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a given answer.

    Attributes:
        log_likelihood: sum of the log-probabilities of its tokens.
        is_greedy: whether greedy decoding would write it.
    """

    log_likelihood: float
    is_greedy: bool


def answer_likelihood(
    pair: ModelPair,
    prompt: Prompt,
    answer_ids: list[int],
    specpc: SpecPCConfig | None = None,
    speckv: SpecKVConfig | None = None,
) -> Likelihood:
    """The likelihood of an answer; SpecKV's look-ahead is as long as the answer unless it is set.

    Args:
        pair: the models.
        prompt: text, messages or token ids.
        answer_ids: the answer's tokens, at least one.
        specpc, speckv: as for `generate`.

    Raises:
        ConfigError: the answer has no tokens.
        PromptTooLongError: prompt and answer are beyond the target's context.
        OutOfMemoryError, NotFiniteError: as for `generate`.
    """
    if not answer_ids:
        raise ConfigError("answer_ids is empty: give at least one token.")
    ModelPair.check(pair).require_target()
    sampling = SamplingConfig(len(answer_ids))
    request = GenerationRequest(pair, [prompt], specpc, speckv, sampling).checked()
    row = PromptRow.of(request, prompt)
    errors = ModelErrors(request, [row.ids], is_generating=False)
    with pair.lock.hold():
        batch = Batch.of([row.ids], [row.units])
        try:
            with errors.of_draft():
                read_with_draft(request, batch)
            with errors.of_target():
                return _likelihood(request, batch, answer_ids)
        finally:
            restore_frequencies(request.target)


def _likelihood(request: GenerationRequest, batch: Batch, answer_ids: list[int]) -> Likelihood:
    target = request.target
    prompts = PaddedPrompts.of(target, batch)
    last = int(prompts.positions[0, -1])
    request.pair.check_context(target, last + 1 + len(answer_ids), "target", "compress the documents first.")
    cache = pruned_cache(request, batch, prompts) if is_pruned(prompts.tokens, request.speckv) else None
    answer = torch.tensor([answer_ids], device=prompts.ids.device)
    steps = torch.arange(1, len(answer_ids), device=prompts.ids.device)
    ids = torch.cat([prompts.ids, answer[:, :-1]], dim=1)
    positions = torch.cat([prompts.positions, prompts.positions[:, -1:] + steps], dim=1)
    if cache is None:
        restore_frequencies(target)
    else:  # it holds all of the prompt but the last token
        ids, positions = ids[:, -len(answer_ids) :], positions[:, -len(answer_ids) :]
    logits = read_logits(target, ids, positions, cache)
    logprobs = logits[0, -len(answer_ids) :].float().log_softmax(dim=-1)
    check_finite(logprobs.amax(), "logits")
    chosen = logprobs.gather(1, answer[0, :, None])
    return Likelihood(float(chosen.sum()), bool((logprobs.argmax(dim=-1) == answer[0]).all()))
