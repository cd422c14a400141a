"""Seconds and bytes of a draft's and a target's phases with each method, by a roofline; docs/plan.md has the formulas.

This module knows shapes and devices; it runs no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from spec_rag.evaluation.planning.devices import Device
from spec_rag.evaluation.planning.shapes import ModelShape
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig

PASSAGE_TOKENS = 500
"""Of a passage of 2,000 characters, which the draft reads in one piece."""

QUESTION_TOKENS = 32
OWN_LOOKAHEAD_TOKENS = 8
"""That a target writes where it looks ahead for itself, as in spec_rag.generation."""


@dataclass(frozen=True)
class Cost:
    """What one answer costs with one method.

    Attributes:
        draft_seconds: the draft reads the prompt and writes its look-ahead.
        prefill_seconds: the target reads what it is given.
        first_token_seconds: until the first token is there.
        token_seconds: for each token after it, on average.
        total_seconds: for the whole answer.
        prefill_flops: of draft and target before the first token.
        kv_bytes: the target's keys and values of the prompt while it decodes.
        peak_bytes: weights of the models in use, and keys and values where they are most.
    """

    draft_seconds: float
    prefill_seconds: float
    first_token_seconds: float
    token_seconds: float
    total_seconds: float
    prefill_flops: float
    kv_bytes: float
    peak_bytes: float


@dataclass(frozen=True)
class Pair:
    """Draft and target on one device.

    Args:
        draft, target: their shapes.
        device: which both run on.
        pass_seconds: what every pass of a model takes beside computing and reading, such as launching its kernels.
    """

    draft: ModelShape
    target: ModelShape
    device: Device
    pass_seconds: float = 0.0

    def values_bytes(self, values: float) -> float:
        """Bytes of so many weights, keys or values."""
        return values * self.device.bits / 8

    def read(self, flops: float, shape: ModelShape, kv_tokens: float, tokens: float | None = None) -> float:
        """Seconds of one pass over so many tokens (None: `kv_tokens`) that reads the weights, and keys and values."""
        moved = step_bytes(shape, kv_tokens, self.device.bits / 8)
        beside = self.device.layer_seconds + self.device.between_seconds * shape.hidden * (tokens or kv_tokens)
        return self.device.seconds(flops, moved) + shape.layers * beside + self.pass_seconds

    def token_seconds(self, shape: ModelShape, kv_tokens: float) -> float:
        """Seconds of one decoding step over keys and values of so many tokens."""
        return self.read(step_flops(shape, kv_tokens), shape, kv_tokens, 1)


def causal_pairs(tokens: int, seen: int | None = None) -> int:
    """Pairs of a query and a key before or at it; each query sees the nearest `seen` at most, None for all."""
    if seen is None or tokens <= seen:
        return tokens * (tokens + 1) // 2
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def prefill_flops(shape: ModelShape, tokens: int, *, seen: int | None = None, observers: int = 0) -> float:
    """FLOPs of a prefill whose last token alone goes through the output layer.

    Args:
        shape: of the model.
        tokens: that it reads.
        seen: keys that a query sees at most (the sparse prefill), or None.
        observers: queries whose attention to every token is computed once more, to score it: a product with the key.
    """
    scoring = shape.attention_flops(observers * tokens) / 2
    products = 2 * (shape.layer_weights * tokens + shape.output_weights)
    return products + shape.attention_flops(causal_pairs(tokens, seen)) + scoring


def step_flops(shape: ModelShape, kv_tokens: float) -> float:
    """FLOPs of one decoding step."""
    return 2 * (shape.layer_weights + shape.output_weights) + shape.attention_flops(1) * kv_tokens


def step_bytes(shape: ModelShape, kv_tokens: float, value_bytes: float) -> float:
    """Bytes that a pass reads: the weights, and keys and values of so many tokens."""
    return (shape.read_weights + shape.kv_values(1) * kv_tokens) * value_bytes


def dense(pair: Pair, context: int, new_tokens: int) -> Cost:
    """The target alone reads the whole prompt and decodes from all of it."""
    return _cost(pair, 0.0, 0.0, context, new_tokens, context)


def specpc(pair: Pair, context: int, new_tokens: int, config: SpecPCConfig) -> Cost:
    """The target reads the tokens that the draft's attention chose (paper, section 4.2)."""
    if context <= config.max_capacity_prompt:
        return dense(pair, context, new_tokens)
    observers = config.window_size + config.lookahead_tokens
    flops, seconds = _draft(pair, context, config.lookahead_tokens, observers)
    return _cost(pair, flops, seconds, config.max_capacity_prompt, new_tokens, config.max_capacity_prompt, context)


def compress(pair: Pair, context: int, new_tokens: int, budget: int, *, indexed: bool = False) -> Cost:
    """The draft reads the documents passage by passage, and the target what is kept of them; any two models will do.

    Args:
        pair: the models.
        context: tokens of the documents.
        new_tokens: of the answer.
        budget: tokens of the documents that are kept.
        indexed: the passages were read before, and only the question is read.
    """
    if context <= budget:
        return dense(pair, context, new_tokens)
    draft = pair.draft
    whole, rest = divmod(context, PASSAGE_TOKENS)
    flops = seconds = 0.0
    if not indexed:
        pairs = whole * causal_pairs(PASSAGE_TOKENS) + causal_pairs(rest)
        flops = 2 * draft.layer_weights * context + draft.attention_flops(pairs)
        seconds = pair.read(flops, draft, context)
    # the question is read once over all passages, and once behind each for its likelihood
    passages = whole + bool(rest)
    asked = QUESTION_TOKENS * (1 + passages)
    asking = 2 * draft.layer_weights * asked + 2 * draft.output_weights * QUESTION_TOKENS * passages
    asking += draft.attention_flops(2 * QUESTION_TOKENS * context)
    seconds += pair.read(asking, draft, context, asked)
    return _cost(pair, flops + asking, seconds, budget, new_tokens, budget, context)


def speckv(pair: Pair, context: int, new_tokens: int, config: SpecKVConfig, *, own_lookahead: bool = False) -> Cost:
    """The target reads the whole prompt and a look-ahead, and keeps the pairs that matter (section 4.1).

    Args:
        pair: the models.
        context: prompt tokens.
        new_tokens: of the answer.
        config: what is kept.
        own_lookahead: the target writes the look-ahead itself, from a first prefill that its window alone prunes; so
            it is where the draft has another tokenizer.
    """
    kept = config.max_capacity_prompt
    assert kept is not None
    if context <= kept:
        return dense(pair, context, new_tokens)
    if own_lookahead:
        config = replace(config, lookahead_tokens=config.lookahead_tokens or OWN_LOOKAHEAD_TOKENS)
        written = _lookahead(config, new_tokens)
        seen = config.prefill_window_size + config.prefill_vertical_size
        flops = prefill_flops(pair.target, context, seen=seen, observers=config.window)
        steps = written * pair.token_seconds(pair.target, kept + written / 2)
        seconds = pair.read(flops, pair.target, context) + steps
        return _cost(pair, flops, seconds, context, new_tokens, kept, 0, config)
    lookahead = _lookahead(config, new_tokens)
    flops, seconds = _draft(pair, context, lookahead, 0)
    return _cost(pair, flops, seconds, context, new_tokens, kept, context, config)


def speckv_pc(pair: Pair, context: int, new_tokens: int, prompt: SpecPCConfig, config: SpecKVConfig) -> Cost:
    """SpecPC compresses the prompt, SpecKV what the target keeps of it; the draft reads once (section 4.3)."""
    assert config.max_capacity_prompt is not None
    read = min(context, prompt.max_capacity_prompt)
    if read <= config.max_capacity_prompt:
        return specpc(pair, context, new_tokens, prompt)
    lookahead = _lookahead(config, new_tokens)
    flops, seconds = _draft(pair, context, lookahead, prompt.window_size + lookahead if read < context else 0)
    return _cost(pair, flops, seconds, read, new_tokens, config.max_capacity_prompt, context, config)


def _lookahead(config: SpecKVConfig, new_tokens: int) -> int:
    if config.lookahead not in ("auto", "draft"):
        return 0
    return min(new_tokens, config.lookahead_tokens or new_tokens)


def _draft(pair: Pair, context: int, lookahead: int, observers: int) -> tuple[float, float]:
    """FLOPs of the draft's prefill, and its seconds with those of the look-ahead, whose first token comes with it."""
    if not lookahead:
        return 0.0, 0.0
    flops = prefill_flops(pair.draft, context, observers=observers)
    steps = lookahead - 1
    written = steps * pair.token_seconds(pair.draft, context + lookahead / 2)
    return flops, pair.read(flops, pair.draft, context) + written


def _cost(
    pair: Pair,
    draft_flops: float,
    draft_seconds: float,
    read: int,
    new_tokens: int,
    kept: int,
    drafted: int = 0,
    config: SpecKVConfig | None = None,
) -> Cost:
    """The cost of a target that reads `read` tokens and decodes from `kept` of them; pruned by `config`, if given.

    `drafted` is the number of tokens that the draft reads, 0 where it takes no part.
    """
    target = pair.target
    lookahead = 0 if config is None else _lookahead(config, new_tokens)
    seen = None if config is None else config.prefill_window_size + config.prefill_vertical_size
    observers = 0 if config is None else config.window + lookahead
    flops = prefill_flops(target, read + lookahead, seen=seen, observers=observers)
    prefill = pair.read(flops, target, read + lookahead)
    token = pair.token_seconds(target, kept + new_tokens / 2)
    # the pruned cache holds all tokens but the last, which is fed again
    first = draft_seconds + prefill + (token if config is not None else 0.0)
    per_layer = target.kv_values(1) / target.layers
    held = target.kv_values(kept + new_tokens)
    reading = target.kv_values(read)
    if config is not None:  # each layer is pruned before the next one is read
        reading = int(per_layer * ((target.layers - 1) * kept + read + lookahead))
    draft_bytes = pair.draft.parameters if drafted else 0
    drafting = pair.draft.kv_values(drafted + max(lookahead, 1)) if drafted else 0
    return Cost(
        draft_seconds,
        prefill,
        first,
        token,
        first + (new_tokens - 1) * token,
        draft_flops + flops,
        pair.values_bytes(target.kv_values(kept)),
        pair.values_bytes(target.parameters + draft_bytes + max(held, reading, drafting)),
    )


def break_even(gain: Callable[[int], float], start: int, end: int) -> int | None:
    """The smallest number from start to end at which `gain`, which rises or falls for good, is above 0; or None."""
    if gain(start) > 0:
        return start
    low, high = start, start
    while gain(high) <= 0:
        if high >= end:
            return None
        low, high = high, min(2 * high, end)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if gain(middle) > 0 else (middle, high)
    return high
