"""Methods that answer: dense, SpecPC, SpecKV, both, SnapKV and StreamingLLM, each at a budget.

Budgets of SpecPC are shares of the documents' tokens; instruction and question come on top. Budgets of the KV methods
are shares of the pairs of the whole prompt, in every layer. Methods that keep text are in `variants`: a target answers
from what they keep. This module does not know files or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from benchmarks.cases import LongCase
from spec_rag.attention.capture import AttentionCall, capture
from spec_rag.evaluation.case import budget_tokens
from spec_rag.generation.end_tokens import answer_ends
from spec_rag.generation.generate import generate
from spec_rag.generation.prompt_batch import Batch, PaddedPrompts
from spec_rag.generation.pruned_cache import PrunedCache
from spec_rag.generation.sampling import GREEDY
from spec_rag.generation.target_calls import generate_from
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.results import Answer
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.token_counting import token_counter

DENSE = "dense"
_SINKS = 4
_LEAST_CAPACITY = 8


@dataclass(frozen=True)
class Request:
    """What is answered, and how much of it may be kept.

    Attributes:
        pair: draft and target.
        case: the case.
        budget: a share, or above 1 so many tokens or pairs.
    """

    pair: ModelPair
    case: LongCase
    budget: Fraction

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return len(prompt_ids(self.pair.tokenizer, self.case.chat()))

    def prompt_capacity(self, times: int = 1) -> int:
        """Prompt tokens that SpecPC may keep: `times` the documents' budget, and all that is no document."""
        count = token_counter("draft", self.pair.require_tokenizer())
        documents = sum(count(document.text) for document in self.case.documents)
        return self.prompt_tokens - documents + min(times * budget_tokens(self.budget, documents), documents)

    @property
    def pairs(self) -> int:
        """KV pairs that each head may keep of the prompt."""
        return max(budget_tokens(self.budget, self.prompt_tokens), _LEAST_CAPACITY)


Answerer = Callable[[Request], Answer]


def dense(request: Request) -> Answer:
    """The target as it is; the budget does not matter."""
    return generate(request.pair, request.case.chat(), max_new_tokens=request.case.max_new_tokens)


def specpc(**settings: Any) -> Answerer:
    """SpecPC with settings changed (paper, section 4.2)."""

    def answerer(request: Request) -> Answer:
        return _answered(request, specpc=_specpc(request.prompt_capacity(), settings))

    return answerer


def speckv(**settings: Any) -> Answerer:
    """SpecKV with settings changed (paper, section 4.1)."""
    return lambda request: _answered(request, speckv=_speckv(request.pairs, settings))


def speckv_pc(request: Request) -> Answer:
    """SpecPC leaves twice the budget, and SpecKV of that no more pairs than SpecKV alone would (paper, section 4.3)."""
    prompt = _specpc(request.prompt_capacity(2), {})
    return _answered(request, specpc=prompt, speckv=_speckv(request.pairs, {}))


def streaming_llm(request: Request) -> Answer:
    """The first four pairs of each head and the last (Xiao et al. 2024, arXiv 2309.17453), after a dense prefill.

    Pairs keep the positions that they were read at.
    """
    pair = request.pair
    target = pair.require_target()
    ids = prompt_ids(pair.tokenizer, request.case.chat())
    prompts = PaddedPrompts.of(target, Batch.of([ids]))
    cache = PrunedCache(target.config)
    held = len(ids) - 1  # the last prompt token is fed again when decoding starts
    recent = max(min(request.pairs, held) - _SINKS, 1)
    positions = torch.cat([torch.arange(min(_SINKS, held - recent)), torch.arange(held - recent, held)])

    def cut(call: AttentionCall) -> None:
        kept = positions.to(call.key.device).expand(*call.key.shape[:2], -1)
        cache.layers[call.layer].keep(kept, held)

    with capture(target, cut), torch.no_grad():
        target.get_decoder()(input_ids=prompts.ids, past_key_values=cache, use_cache=True)
    kept_bytes, dense_bytes = cache.kept_bytes, cache.dense_bytes
    ends = answer_ends(pair)
    options = {**GREEDY, "eos_token_id": ends or None}
    written = generate_from(target, prompts, cache, request.case.max_new_tokens, **options)[0, len(ids) :].tolist()
    end = next((i for i, token in enumerate(written) if token in ends), len(written) - 1)
    text = pair.require_tokenizer().decode(written[: end + 1], skip_special_tokens=True)
    return Answer(
        text=str(text),
        output_ids=written[: end + 1],
        prompt_tokens=len(ids),
        target_prompt_tokens=len(ids),
        completion_tokens=end + 1,
        kv_bytes_dense=dense_bytes,
        kv_bytes_kept=kept_bytes,
    )


ANSWERERS: Mapping[str, Answerer] = {
    DENSE: dense,
    "SpecPC": specpc(),
    "SpecPC paper": specpc(unit="token"),
    "SpecKV": speckv(),
    "SpecKV uniform": speckv(head_budget="uniform"),
    "SpecKV paper": speckv(preset="paper"),
    "SpecKV-PC": speckv_pc,
    "SnapKV": speckv(lookahead="none", preset="paper"),
    "StreamingLLM": streaming_llm,
}
"""Of SpecKV, the default shares a layer's budget among its heads (adaptive); the paper's does not."""


def _specpc(capacity: int, settings: Mapping[str, Any]) -> SpecPCConfig:
    return SpecPCConfig(**{"max_capacity_prompt": max(capacity, 65), **settings})


def _speckv(capacity: int, settings: Mapping[str, Any]) -> SpecKVConfig:
    # a window of 32 does not fit into a small capacity
    window = {"window_size": min(32, capacity // 2)} if settings.get("preset") == "paper" else {}
    return SpecKVConfig(**{"max_capacity_prompt": capacity, **window, **settings})


def _answered(request: Request, **configs: Any) -> Answer:
    return generate(request.pair, request.case.chat(), max_new_tokens=request.case.max_new_tokens, **configs)
