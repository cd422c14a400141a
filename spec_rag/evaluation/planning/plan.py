"""The methods side by side for one pair, prompt and budget: what each costs, and from where on it pays.

This module does not know the formulas or the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.evaluation.planning.costs import Cost, Pair, break_even, compress, dense, speckv, speckv_pc, specpc
from spec_rag.evaluation.planning.devices import DEVICES, Device
from spec_rag.evaluation.planning.shapes import shares_tokens
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.utils.validation import check_integer

LONGEST = 2**21
"""Prompt and answer tokens up to which a break-even is looked for."""

_SAME_TOKENS = ("SpecPC", "SpecKV-PC")


@dataclass(frozen=True)
class Planned:
    """A method's cost, and where it begins to pay.

    Attributes:
        cost: at the context and the new tokens that were asked for.
        pays_from_context: prompt tokens from which its whole answer comes sooner than the dense one; None if never.
        pays_from_new_tokens: new tokens from which it does at this context; None if never.
        fits: whether weights, keys and values fit the device; None where its memory is not known.
    """

    cost: Cost
    pays_from_context: int | None
    pays_from_new_tokens: int | None
    fits: bool | None


@dataclass(frozen=True)
class Plan:
    """The methods by name, "dense" first, and what they were planned for.

    Attributes:
        refused: methods that the package refuses for this pair, with the reason.
        same_tokenizer: whether draft and target have the same; None where it is not known, and taken for granted.
    """

    pair: Pair
    context: int
    budget: int
    new_tokens: int
    methods: dict[str, Planned]
    refused: dict[str, str] = field(default_factory=dict)
    same_tokenizer: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        found = asdict(self)
        for role in ("draft", "target"):
            found["pair"][role]["parameters"] = getattr(self.pair, role).parameters
        return found


def device_of(name: str) -> Device:
    """A device by name; "cpu" is this machine's processor, measured now at float32 (some seconds).

    Raises:
        ConfigError: the name is not known.
    """
    if name.lower() == "cpu":
        from spec_rag.evaluation.planning.processor import measured_cpu

        return measured_cpu()
    if name.lower() not in DEVICES:
        raise ConfigError(f"device={name!r}: must be one of {', '.join(DEVICES)}, or cpu.")
    return DEVICES[name.lower()]


def plan(
    pair: Pair,
    context: int,
    budget: int,
    new_tokens: int = 256,
    *,
    prompt_budget: int | None = None,
    lookahead_tokens: int | None = None,
) -> Plan:
    """Plan dense, compress, SpecPC and SpecKV, and SpecKV-PC where the prompt has a budget of its own.

    SpecPC and SpecKV-PC are refused where the two have different tokenizers; SpecKV's target then looks ahead itself.

    Args:
        pair: shapes and device.
        context: prompt tokens.
        budget: document tokens (compress), prompt tokens (SpecPC) or KV pairs per head (SpecKV) that are kept.
        new_tokens: of the answer.
        prompt_budget: prompt tokens that SpecKV-PC leaves to SpecKV, above `budget`; None leaves it out.
        lookahead_tokens: that SpecKV's draft writes; None means as many as the answer has.

    Raises:
        ConfigError: a number is out of range.
    """
    check_integer("context", context, 1)
    check_integer("new_tokens", new_tokens, 1)
    check_integer("prompt_budget", prompt_budget, 1, optional=True)
    if prompt_budget is not None and prompt_budget <= budget:
        raise ConfigError(f"prompt_budget={prompt_budget}: must be above budget={budget}, which SpecKV keeps of it.")
    kv = SpecKVConfig(max_capacity_prompt=budget, lookahead_tokens=lookahead_tokens)
    same = shares_tokens(pair.draft, pair.target)
    own = same is False
    specpc_config = SpecPCConfig(max_capacity_prompt=budget)
    methods: dict[str, Callable[[int, int], Cost]] = {
        "compress": lambda n, t: compress(pair, n, t, budget),
        "compress, indexed": lambda n, t: compress(pair, n, t, budget, indexed=True),
        "SpecPC": lambda n, t: specpc(pair, n, t, specpc_config),
        "SpecKV": lambda n, t: speckv(pair, n, t, kv, own_lookahead=own),
    }
    if prompt_budget is not None:
        prompt = SpecPCConfig(max_capacity_prompt=prompt_budget)
        methods["SpecKV-PC"] = lambda n, t: speckv_pc(pair, n, t, prompt, kv)
    refused = {}
    if own:
        why = f"{pair.draft.name} and {pair.target.name} have different tokenizers"
        refused = {name: why for name in _SAME_TOKENS if methods.pop(name, None) is not None}
    found = {"dense": _planned(pair, dense(pair, context, new_tokens))}
    for name, method in methods.items():

        def gain(n: int, t: int, method: Callable[[int, int], Cost] = method) -> float:
            return dense(pair, n, t).total_seconds - method(n, t).total_seconds

        by_context = break_even(lambda n, gain=gain: gain(n, new_tokens), budget + 1, LONGEST)  # type: ignore[misc]
        by_tokens = break_even(partial(gain, context), 1, LONGEST) if context > budget else None
        found[name] = _planned(pair, method(context, new_tokens), by_context, by_tokens)
    return Plan(pair, context, budget, new_tokens, found, refused, same)


def _planned(pair: Pair, cost: Cost, context: int | None = None, new_tokens: int | None = None) -> Planned:
    memory = pair.device.memory
    return Planned(cost, context, new_tokens, None if memory is None else cost.peak_bytes <= memory)


def as_markdown(found: Plan) -> str:
    """A row per method."""
    dense_cost = found.methods["dense"].cost
    lines = [
        "| method | first token, s | against dense | ms per token | answer, s | prefill, TFLOP | KV, GB | peak, GB | "
        "pays from context | pays from new tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, method in found.methods.items():
        cost = method.cost
        pays = ["", ""]
        if name != "dense":
            pays = ["never" if n is None else f"{n:,}" for n in (method.pays_from_context, method.pays_from_new_tokens)]
        cells = [
            name,
            f"{cost.first_token_seconds:.4g}",
            f"{dense_cost.first_token_seconds / cost.first_token_seconds:.2f}x",
            f"{1e3 * cost.token_seconds:.4g}",
            f"{cost.total_seconds:.4g}",
            f"{cost.prefill_flops / 1e12:.4g}",
            f"{cost.kv_bytes / 1e9:.4g}",
            f"{cost.peak_bytes / 1e9:.4g}" + (" (does not fit)" if method.fits is False else ""),
            *pays,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | refused |" + " |" * 8 for name in found.refused]
    lines += _notes(found)
    return "\n".join(lines)


def _notes(found: Plan) -> list[str]:
    """What has to be known of the rows, below a blank line."""
    if found.refused:
        names, (why, *_) = " and ".join(found.refused), found.refused.values()
        return ["", f"{names}: refused, as {why}. SpecKV's target looks ahead itself. compress takes any two models."]
    if found.same_tokenizer is None:
        return [
            "",
            "Whether the two have the same tokenizer is not known: SpecPC and SpecKV are planned as if they had.",
        ]
    return []
