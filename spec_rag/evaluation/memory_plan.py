"""Tokens and bytes of each method for a pair of models, computed from their configs; docs/plan.md has the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.evaluation.model_shapes import ModelShape, shares_tokens
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.utils.validation import check_choice, check_integer

OWN_LOOKAHEAD_TOKENS = 8
"""Length of the target's own look-ahead, as in spec_rag.generation."""

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
"""Memory of known devices as published; None where it is not fixed."""


@dataclass(frozen=True)
class PlanRequest:
    """What is planned: two models, a prompt, an answer and budgets.

    Args:
        draft, target: shapes of the models.
        context: prompt tokens.
        budget: document tokens (compress), prompt tokens (SpecPC) or KV pairs per head (SpecKV) that are kept.
        new_tokens: tokens of the answer.
        prompt_budget: prompt tokens that SpecKV-PC leaves to SpecKV, above `budget`; None leaves that method out.
        lookahead_tokens: tokens that SpecKV's draft writes; None means as many as the answer has.
        bits: per weight, key and value.
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
            raise ConfigError(
                f"prompt_budget={self.prompt_budget}: must be above budget={self.budget}, which SpecKV keeps of it."
            )
        SpecPCConfig(max_capacity_prompt=self.budget)
        SpecKVConfig(max_capacity_prompt=self.budget, lookahead_tokens=self.lookahead_tokens)


@dataclass(frozen=True)
class MethodPlan:
    """Token counts and bytes of one answer with one method.

    Attributes:
        draft_tokens: tokens that the draft reads; 0 if it is not used.
        lookahead_tokens: tokens of the look-ahead, written by the draft, or by the target where it has another
            tokenizer.
        target_tokens: tokens that the target reads before the first token of the answer.
        kv_tokens: tokens whose keys and values each KV head keeps of the prompt.
        kv_bytes: the target's keys and values of the prompt while it decodes.
        peak_bytes: weights of the models in use, and the largest set of keys and values.
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
    """Plan dense, compress, SpecPC and SpecKV, and SpecKV-PC where the prompt has a budget of its own.

    SpecPC and SpecKV-PC are refused where the tokenizers differ; SpecKV's target then writes the look-ahead itself.
    """
    same = shares_tokens(request.draft, request.target)
    methods = {
        "dense": _dense(request),
        "compress": _prompt_compression(request, request.context),
        "compress, indexed": _prompt_compression(request, 0),
        "SpecPC": _prompt_compression(request, request.context, SpecPCConfig(max_capacity_prompt=request.budget)),
        "SpecKV": _speckv(request, own_lookahead=same is False),
    }
    if request.prompt_budget is not None:
        methods["SpecKV-PC"] = _speckv_pc(request, request.prompt_budget)
    refused = {}
    if same is False:
        reason = f"{request.draft.name} and {request.target.name} have different tokenizers"
        refused = {name: reason for name in ("SpecPC", "SpecKV-PC") if methods.pop(name, None) is not None}
    return Plan(request, methods, refused, same)


def _dense(request: PlanRequest) -> MethodPlan:
    """The target alone reads the whole prompt."""
    return _planned(request, target_tokens=request.context, kv_tokens=request.context)


def _prompt_compression(request: PlanRequest, draft_tokens: int, specpc: SpecPCConfig | None = None) -> MethodPlan:
    """The draft reads the context, the target the part that is kept."""
    if request.context <= request.budget:
        return _dense(request)
    lookahead = specpc.lookahead_tokens if specpc else 0
    return _planned(
        request,
        draft_tokens=draft_tokens,
        lookahead=lookahead,
        target_tokens=request.budget,
        kv_tokens=request.budget,
        draft_kv_tokens=request.context + max(lookahead, 1),  # an index, too, is loaded into the draft's memory
    )


def _speckv(request: PlanRequest, *, own_lookahead: bool) -> MethodPlan:
    """The target reads the whole prompt and the look-ahead, and prunes its cache layer by layer."""
    if request.context <= request.budget:
        return _dense(request)
    default = OWN_LOOKAHEAD_TOKENS if own_lookahead else request.new_tokens
    lookahead = min(request.new_tokens, request.lookahead_tokens or default)
    prefill = request.context + lookahead
    return _planned(
        request,
        draft_tokens=0 if own_lookahead else request.context,
        lookahead=lookahead,
        target_tokens=prefill + request.context if own_lookahead else prefill,
        kv_tokens=request.budget,
        draft_kv_tokens=0 if own_lookahead else request.context + lookahead,
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
    """The bytes of a method from its token counts; `pruned_prefill` tokens are read by a target that prunes."""
    draft, target, value_bytes = request.draft, request.target, request.bits / 8
    prefill = target.kv_values(target_tokens)
    if pruned_prefill:  # each layer is pruned before the next one is read
        prefill = target.kv_values(1) // target.layers * ((target.layers - 1) * kv_tokens + pruned_prefill)
    weights = target.parameters + (draft.parameters if draft_kv_tokens else 0)
    largest = max(target.kv_values(kv_tokens + request.new_tokens), prefill, draft.kv_values(draft_kv_tokens))
    peak = (weights + largest) * value_bytes
    fits = None if request.memory_bytes is None else peak <= request.memory_bytes
    kv_bytes = target.kv_values(kv_tokens) * value_bytes
    return MethodPlan(draft_tokens, lookahead, target_tokens, kv_tokens, kv_bytes, peak, fits)


def as_markdown(planned: Plan) -> str:
    """A table with a row per method, and notes on the tokenizers."""
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
        lines += ["", f"{names}: refused, because {reason}. SpecKV's target writes the look-ahead itself. "
                  "compress takes any two models."]  # fmt: skip
    elif planned.same_tokenizer is None:
        lines += ["", "Whether the tokenizers are the same is unknown; the plan assumes that they are."]
    return "\n".join(lines)
