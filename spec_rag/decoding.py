"""The target's stage: a prefill, pruned where asked, then transformers' own generation from that cache.

This module does not know where the prompt or the look-ahead came from.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from spec_rag.attention_capture import base_attention, capture
from spec_rag.clock import Clock
from spec_rag.config import SpecKVConfig
from spec_rag.draft import GREEDY, eos_token_ids, pad_token_id
from spec_rag.errors import ConfigError
from spec_rag.models import ModelPair
from spec_rag.prefill import prefill
from spec_rag.pruned_cache import DecodeMasks, PrunedCache
from spec_rag.request import Request, is_pruned
from spec_rag.results import Answer, FinishReason, Timings
from spec_rag.tokens import left_pad

_seeding = threading.Lock()  # torch's generators belong to the whole process


@dataclass(frozen=True)
class SamplingConfig:
    """How the target chooses tokens. Everything in `options` is a field of transformers' GenerationConfig.

    Args:
        max_new_tokens: at most so many tokens.
        stop: the answer ends before the first of these strings.
        seed: makes sampling repeatable; None leaves torch's generators alone.
        options: temperature, top_p, top_k, repetition_penalty, num_beams, eos_token_id, max_time ... A temperature
            of 0 is greedy; a temperature or top_p given without do_sample turns sampling on.

    Raises:
        ConfigError: a value is out of range or an option is unknown.
    """

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.max_new_tokens, bool) or not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r}: must be an integer of at least 1.")
        if any(not isinstance(s, str) or not s for s in self.stop):
            raise ConfigError(f"stop={list(self.stop)!r}: must be strings of at least one character.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0):
            raise ConfigError(f"seed={self.seed!r}: must be a non-negative integer or None.")
        object.__setattr__(self, "options", _checked_options(self.options))

    @classmethod
    def of(cls, max_new_tokens: int, options: dict[str, Any]) -> SamplingConfig:
        """Sort keyword arguments into the config's own fields and generation options."""
        own = {f.name for f in fields(cls)} - {"options", "max_new_tokens"}
        chosen = {name: value for name, value in options.items() if name in own}
        stop = chosen.pop("stop", None)
        chosen["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        rest = {name: value for name, value in options.items() if name not in own}
        return cls(max_new_tokens=max_new_tokens, options=rest, **chosen)

    @property
    def copies(self) -> int:
        return int(self.options.get("num_beams", 1))


_REFUSED = {
    "max_length": "max_new_tokens counts generated tokens alone",
    "assistant_model": "the draft already writes the look-ahead",
    "prompt_lookup_num_tokens": "the pruned cache cannot be rolled back",
    "num_return_sequences": "call generate once per sequence, with different seeds",
    "cache_implementation": "SpecKV brings its own cache",
    "return_dict_in_generate": "an Answer is returned",
    "prefill_chunk_size": "the prefill must be whole to be scored",
    "stop_strings": "use stop",
}


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    known = set(GenerationConfig().to_dict()) | set(GREEDY)
    chosen = {name: value for name, value in options.items() if value is not None}
    for name, value in chosen.items():
        if name in _REFUSED and not (name == "num_return_sequences" and value == 1):
            raise ConfigError(f"{name}={value!r} is not supported: {_REFUSED[name]}.")
        if name not in known:
            raise ConfigError(f"{name}={value!r} is no option of generate() and no field of GenerationConfig.")
    temperature, top_p = chosen.get("temperature"), chosen.get("top_p")
    if temperature is not None and not (isinstance(temperature, int | float) and temperature >= 0):
        raise ConfigError(f"temperature={temperature!r}: must be a number of at least 0 (0 is greedy).")
    if top_p is not None and not (isinstance(top_p, int | float) and 0 < top_p <= 1):
        raise ConfigError(f"top_p={top_p!r}: must be above 0 and at most 1.")
    if temperature == 0:
        chosen.pop("temperature")
        chosen["do_sample"] = False
    elif temperature is not None or top_p is not None:
        chosen.setdefault("do_sample", True)
    if not chosen.get("do_sample", False):
        chosen["do_sample"] = False
        for name in ("temperature", "top_p", "top_k"):
            chosen.pop(name, None)
    return {**GREEDY, **chosen}


@contextlib.contextmanager
def seeded(seed: int | None, model: PreTrainedModel) -> Iterator[None]:
    """Sample repeatably inside the block and leave torch's generators as they were."""
    if seed is None:
        yield
        return
    devices = [model.device] if model.device.type == "cuda" else []
    with _seeding, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def decode(
    pair: ModelPair,
    request: Request,
    speckv: SpecKVConfig | None,
    sampling: SamplingConfig,
    streamer: BaseStreamer | None = None,
    cancelled: threading.Event | None = None,
    backend: str | None = None,
) -> list[Answer]:
    """Prefill the rows and generate their answers; the caller holds the pair's lock.

    Raises:
        ConfigError: the window leaves nothing to prune.
        PromptTooLongError: a row and its answer are beyond the target's context.
    """
    target = pair.require_target()
    pair.check_context(
        target,
        max(int(positions[-1]) + 1 for positions in request.positions) + sampling.max_new_tokens,
        "target",
        "compress the documents first, set SpecPCConfig, or lower max_new_tokens.",
    )
    ids, mask = left_pad(request.rows, pad_token_id(target))
    positions, _ = left_pad(request.positions, 0)
    started = time.perf_counter()
    cache = None
    if is_pruned(ids.shape[1], speckv):
        assert speckv is not None
        if ids.shape[1] < speckv.window_size + 2:
            raise ConfigError(
                f"window_size={speckv.window_size} leaves nothing to prune of {ids.shape[1]} tokens: lower window_size."
            )
        cache = _pruned_cache(target, request, ids, mask, positions, speckv, backend)
    kept = _Kept.of(cache)
    if cache is not None and sampling.copies > 1:
        cache.batch_repeat_interleave(sampling.copies)
    clock = Clock(cancelled)
    sequences = _run(target, ids, mask, request, positions, cache, sampling, streamer, clock, pair)
    ended = time.perf_counter()
    first = clock.first_token_at or ended
    timings = Timings(request.draft_seconds, first - started, ended - first)
    padding = (mask == 0).sum(dim=1).tolist()
    return [
        _answer(pair, request, i, sequences[i, ids.shape[1] :], sampling, kept.row(i, padding[i]), timings, cancelled)
        for i in range(len(request.rows))
    ]


def _pruned_cache(
    target: PreTrainedModel,
    request: Request,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    speckv: SpecKVConfig,
    backend: str | None,
) -> PrunedCache:
    if speckv.lookahead == "target":
        request.lookahead = _own_lookahead(target, ids, mask, positions, speckv, backend)
    elif speckv.lookahead == "none":
        request.lookahead = [torch.empty(0, dtype=torch.long)] * len(request.rows)
    width = max(len(row) for row in request.lookahead)
    lookahead = torch.full((len(request.rows), width), pad_token_id(target), dtype=torch.long)
    lookahead_mask = torch.zeros_like(lookahead, dtype=torch.bool)
    for i, row in enumerate(request.lookahead):
        lookahead[i, : len(row)] = row
        lookahead_mask[i, : len(row)] = True
    return prefill(target, ids, mask, positions, lookahead, lookahead_mask, speckv, backend)


def _own_lookahead(
    target: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    speckv: SpecKVConfig,
    backend: str | None,
    default_tokens: int = 8,
) -> list[Tensor]:
    """The target's first greedy tokens, written from a cache that its window queries alone have pruned."""
    nothing = torch.empty(len(ids), 0, dtype=torch.long)
    cache = prefill(target, ids, mask, positions, nothing, nothing.bool(), speckv, backend)
    masks = capture(target, DecodeMasks(cache, base_attention(target), target)) if cache.needs_masks else None
    with masks or contextlib.nullcontext(), torch.no_grad():
        sequences = target.generate(
            input_ids=ids.to(target.device),
            attention_mask=mask.to(target.device),
            position_ids=positions.to(target.device),
            past_key_values=cache,
            max_new_tokens=speckv.lookahead_tokens or default_tokens,
            pad_token_id=pad_token_id(target),
            **GREEDY,
        )
    ends = torch.tensor(eos_token_ids(target), device=sequences.device)
    written = sequences[:, ids.shape[1] :]
    behind = torch.isin(written, ends).cumsum(dim=1) - torch.isin(written, ends).long() > 0
    return [row[~gone].cpu() for row, gone in zip(written, behind, strict=True)]


def _run(
    target: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    request: Request,
    positions: Tensor,
    cache: PrunedCache | None,
    sampling: SamplingConfig,
    streamer: BaseStreamer | None,
    clock: Clock,
    pair: ModelPair,
) -> Tensor:
    arguments = dict(sampling.options)
    if sampling.stop:
        arguments |= {"stop_strings": list(sampling.stop), "tokenizer": pair.require_tokenizer()}
    if cache is not None:
        arguments["past_key_values"] = cache
    if any(int(p[-1]) != len(p) - 1 for p in request.positions):
        arguments["position_ids"] = positions.to(target.device)
    masks: Any = contextlib.nullcontext()
    if cache is not None and cache.needs_masks:
        masks = capture(target, DecodeMasks(cache, base_attention(target), target))
    with masks, seeded(sampling.seed, target), torch.no_grad():
        return target.generate(  # type: ignore[no-any-return]
            input_ids=ids.to(target.device),
            attention_mask=mask.to(target.device),
            max_new_tokens=sampling.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
            streamer=streamer,
            **{"pad_token_id": pad_token_id(target), **arguments},
        )


@dataclass(frozen=True)
class _Kept:
    """What the prefill of a batch kept, noted before the answer grows the cache."""

    dense_bytes: int = 0
    kept_bytes: int = 0
    rows: int = 1
    layers: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, cache: PrunedCache | None) -> _Kept:
        if cache is None:
            return cls()
        layers = tuple(layer.positions for layer in cache.layers if layer.positions is not None)
        return cls(cache.dense_bytes, cache.kept_bytes, layers[0].shape[0], layers)

    def row(self, index: int, padding: int) -> _Kept:
        """One row's share, its positions counted from its own first token."""
        layers = tuple((layer[index] - padding).clamp(min=-1).cpu() for layer in self.layers)
        return _Kept(self.dense_bytes // self.rows, self.kept_bytes // self.rows, 1, layers)


def _answer(
    pair: ModelPair,
    request: Request,
    index: int,
    generated: Tensor,
    sampling: SamplingConfig,
    kept: _Kept,
    timings: Timings,
    cancelled: threading.Event | None,
) -> Answer:
    eos = sampling.options.get("eos_token_id")
    ends = eos_token_ids(pair.require_target()) if eos is None else eos if isinstance(eos, list) else [eos]
    ids = generated.tolist()
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids if end is None else ids[: end + 1]
    text = pair.tokenizer.decode(ids, skip_special_tokens=True) if pair.tokenizer is not None else ""
    cut = min((at for at in (text.find(s) for s in sampling.stop) if at >= 0), default=None)
    reason: FinishReason = "length"
    if end is not None or cut is not None:
        reason = "stop"
    elif cancelled is not None and cancelled.is_set():
        reason = "cancelled"
    selected = request.selected[index]
    return Answer(
        text=text if cut is None else text[:cut],
        output_ids=ids,
        prompt_tokens=request.prompt_tokens[index],
        target_prompt_tokens=len(request.rows[index]),
        completion_tokens=len(ids),
        finish_reason=reason,
        kv_bytes_dense=kept.dense_bytes,
        kv_bytes_kept=kept.kept_bytes,
        selected_positions=None if selected is None else selected.tolist(),
        layer_positions=kept.layers,
        lookahead_ids=request.lookahead[index].tolist(),
        timings=timings,
    )
