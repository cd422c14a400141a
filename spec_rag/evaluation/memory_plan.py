"""Tokens and bytes of each method for a pair of models, computed from their configs; docs/plan.md has the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.evaluation.model_shapes import ModelShape, shares_tokens
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.utils.validation import check_choice, check_integer

TARGET_LOOKAHEAD_TOKENS = 8
"""Look-ahead tokens of a target that writes the look-ahead itself, as in spec_rag.generation."""

DEVICE_BYTES: Mapping[str, float | None] = {
    "h100": 80e9,
    "h200": 141e9,
    "a100": 80e9,
    "a10": 24e9,
    "l4": 24e9,
    "l40s": 48e9,
    "t4": 16e9,
    "rtx4090": 24e9,
    "mi300x": 192e9,
    "cpu": None,
}
"""Published memory of known devices in bytes; None if it varies."""


@dataclass(frozen=True)
class PlanRequest:
    """Models, prompt, answer and budgets of a plan.

    Args:
        draft, target: shapes of the models.
        context: prompt tokens.
        budget: document tokens (compress), prompt tokens (SpecPC) or KV pairs per head (SpecKV) that are kept.
        new_tokens: tokens of the answer.
        prompt_budget: prompt tokens after SpecPC in SpecKV-PC, above `budget`; None omits that method.
        lookahead_tokens: look-ahead tokens of SpecKV; None is the length of the answer.
        bits: bits per weight, key and value.
        memory_bytes: memory of the device; None if unknown.

    Raises:
        ConfigError: a number is out of range.
    """

    draft: ModelShape
    target: ModelShape
    context: int
    budget: int
    new_tokens: int = 256
    prompt_budget: int | None = None
    lookahead_tokens: int | None = None
    bits: int = 16
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        check_integer("context", self.context, 1)
        check_integer("new_tokens", self.new_tokens, 1)
        check_integer("prompt_budget", self.prompt_budget, 1, optional=True)
        check_choice("bits", self.bits, (4, 8, 16, 32))
        if self.prompt_budget is not None and self.prompt_budget <= self.budget:
            raise ConfigError(f"prompt_budget={self.prompt_budget}: must be above budget={self.budget}.")
        SpecPCConfig(max_capacity_prompt=self.budget)
        SpecKVConfig(max_capacity_prompt=self.budget, lookahead_tokens=self.lookahead_tokens)


@dataclass(frozen=True)
class MethodPlan:
    """Token counts and bytes of one answer with one method.

    Attributes:
        draft_tokens: tokens that the draft reads; 0 if it is not used.
        lookahead_tokens: tokens of the look-ahead.
        target_tokens: tokens that the target reads before the first token of the answer.
        kv_tokens: KV pairs of the prompt per head.
        kv_bytes: bytes of the prompt's keys and values in the target during decoding.
        peak_bytes: weights of the used models plus the largest set of keys and values.
        fits: whether `peak_bytes` fits the memory; None if the memory is unknown.
    """

    draft_tokens: int
    lookahead_tokens: int
    target_tokens: int
    kv_tokens: int
    kv_bytes: float
    peak_bytes: float
    fits: bool | None


@dataclass(frozen=True)
class Plan:
    """The methods by name, "dense" first.

    Attributes:
        refused: methods that the package refuses for this pair, with the reason.
        same_tokenizer: whether draft and target have the same tokenizer; None if unknown, and treated as True.
    """

    request: PlanRequest
    methods: dict[str, MethodPlan]
    refused: dict[str, str] = field(default_factory=dict)
    same_tokenizer: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        for role in ("draft", "target"):
            values["request"][role]["parameters"] = getattr(self.request, role).parameters
        return values


def device_bytes(name: str) -> float | None:
    """Memory of a known device in bytes, None for "cpu".

    Raises:
        ConfigError: the name is unknown.
    """
    if name.lower() not in DEVICE_BYTES:
        raise ConfigError(f"device={name!r}: must be one of {', '.join(DEVICE_BYTES)}.")
    return DEVICE_BYTES[name.lower()]


def plan(request: PlanRequest) -> Plan:
    """Plan dense, compress, SpecPC and SpecKV, and SpecKV-PC if `prompt_budget` is set.

    If the tokenizers differ, SpecPC and SpecKV-PC are refused, and the target of SpecKV writes the look-ahead.
    """
    same = shares_tokens(request.draft, request.target)
    methods = {
        "dense": _dense(request),
        "compress": _prompt_compression(request, request.context),
        "compress, indexed": _prompt_compression(request, 0),
        "SpecPC": _prompt_compression(request, request.context, SpecPCConfig(max_capacity_prompt=request.budget)),
        "SpecKV": _speckv(request, target_writes=same is False),
    }
    if request.prompt_budget is not None:
        methods["SpecKV-PC"] = _speckv_pc(request, request.prompt_budget)
    refused = {}
    if same is False:
        reason = f"{request.draft.name} and {request.target.name} have different tokenizers"
        refused = {name: reason for name in ("SpecPC", "SpecKV-PC") if methods.pop(name, None) is not None}
    return Plan(request, methods, refused, same)


def _dense(request: PlanRequest) -> MethodPlan:
    """The target reads the whole prompt."""
    return _planned(request, target_tokens=request.context, kv_tokens=request.context)


def _prompt_compression(request: PlanRequest, draft_tokens: int, specpc: SpecPCConfig | None = None) -> MethodPlan:
    """The draft reads the context, the target the kept part."""
    if request.context <= request.budget:
        return _dense(request)
    lookahead = specpc.lookahead_tokens if specpc else 0
    return _planned(
        request,
        draft_tokens=draft_tokens,
        lookahead=lookahead,
        target_tokens=request.budget,
        kv_tokens=request.budget,
        draft_kv_tokens=request.context + max(lookahead, 1),  # an index is loaded into the draft's memory too
    )


def _speckv(request: PlanRequest, *, target_writes: bool) -> MethodPlan:
    """The target reads the whole prompt and the look-ahead, and prunes its cache layer by layer."""
    if request.context <= request.budget:
        return _dense(request)
    default = TARGET_LOOKAHEAD_TOKENS if target_writes else request.new_tokens
    lookahead = min(request.new_tokens, request.lookahead_tokens or default)
    prefill = request.context + lookahead
    return _planned(
        request,
        draft_tokens=0 if target_writes else request.context,
        lookahead=lookahead,
        target_tokens=prefill + request.context if target_writes else prefill,
        kv_tokens=request.budget,
        draft_kv_tokens=0 if target_writes else request.context + lookahead,
        pruned_prefill=prefill,
    )


def _speckv_pc(request: PlanRequest, prompt_budget: int) -> MethodPlan:
    """SpecPC compresses the prompt, SpecKV the cache of the target; the draft reads once."""
    prompt_tokens = min(request.context, prompt_budget)
    if prompt_tokens <= request.budget:
        return _dense(request)
    lookahead = min(request.new_tokens, request.lookahead_tokens or request.new_tokens)
    return _planned(
        request,
        draft_tokens=request.context,
        lookahead=lookahead,
        target_tokens=prompt_tokens + lookahead,
        kv_tokens=request.budget,
        draft_kv_tokens=request.context + lookahead,
        pruned_prefill=prompt_tokens + lookahead,
    )


def _planned(
    request: PlanRequest,
    *,
    target_tokens: int,
    kv_tokens: int,
    draft_tokens: int = 0,
    lookahead: int = 0,
    draft_kv_tokens: int = 0,
    pruned_prefill: int = 0,
) -> MethodPlan:
    """Bytes of a method from its token counts; `pruned_prefill` tokens are read with pruning per layer."""
    draft, target, value_bytes = request.draft, request.target, request.bits / 8
    prefill = target.kv_values(target_tokens)
    if pruned_prefill:  # each layer is pruned before the next one runs
        prefill = target.kv_values(1) // target.layers * ((target.layers - 1) * kv_tokens + pruned_prefill)
    weights = target.parameters + (draft.parameters if draft_kv_tokens else 0)
    largest = max(target.kv_values(kv_tokens + request.new_tokens), prefill, draft.kv_values(draft_kv_tokens))
    peak = (weights + largest) * value_bytes
    fits = None if request.memory_bytes is None else peak <= request.memory_bytes
    kv_bytes = target.kv_values(kv_tokens) * value_bytes
    return MethodPlan(draft_tokens, lookahead, target_tokens, kv_tokens, kv_bytes, peak, fits)


def as_markdown(planned: Plan) -> str:
    """Markdown table with a row per method, and notes on tokenizers."""
    lines = [
        "| method | draft reads | look-ahead | target reads | KV kept, tokens | KV, GB | peak, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in planned.methods.items():
        counts = (method.draft_tokens, method.lookahead_tokens, method.target_tokens, method.kv_tokens)
        peak = f"{method.peak_bytes / 1e9:.4g}" + (" (does not fit)" if method.fits is False else "")
        cells = [name, *(f"{count:,}" for count in counts), f"{method.kv_bytes / 1e9:.4g}", peak]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | refused |" + " |" * 5 for name in planned.refused]
    if planned.refused:
        names, (reason, *_) = " and ".join(planned.refused), planned.refused.values()
        lines += ["", f"{names}: refused, because {reason}. The target of SpecKV writes the look-ahead. "
                  "compress works with any two models."]  # fmt: skip
    elif planned.same_tokenizer is None:
        lines += ["", "Whether the tokenizers are the same is unknown; the plan assumes that they are."]
    return "\n".join(lines)
