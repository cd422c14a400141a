"""Selection by score: smoothing, top-k within a capacity, the window, neighbours. Pure tensor functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_rag.options.compression import SpecKVConfig, SpecPCConfig

_MAX_SHARE = 2  # of an adaptive head, in shares of an even split


def smooth(scores: Tensor, kernel_size: int, pool_type: str) -> Tensor:
    """Pool scores over a centred window with zero padding; the length is unchanged.

    Args:
        scores: [..., tokens], non-negative.
        kernel_size: width of the window; an even window extends one token further to the right.
        pool_type: "max", "mean" or "avg".

    Returns:
        [..., tokens].
    """
    if not scores.shape[-1]:
        return scores
    left = (kernel_size - 1) // 2
    flat = scores.reshape(-1, 1, scores.shape[-1])
    padded = F.pad(flat, (left, kernel_size - 1 - left))
    pool = F.max_pool1d if pool_type == "max" else F.avg_pool1d
    return pool(padded, kernel_size, stride=1).reshape(scores.shape)


def ranked(scores: Tensor) -> Tensor:
    """Positions by descending score; ties are in ascending order.

    The order of ties in torch's top-k is undefined and depends on k, and max pooling makes many ties.

    Args:
        scores: [..., n].

    Returns:
        int64 [..., n].
    """
    return scores.sort(dim=-1, descending=True, stable=True).indices


def best(scores: Tensor, count: int) -> Tensor:
    """The first `count` positions of `ranked`, ascending; nested: a larger count contains a smaller one.

    Args:
        scores: [..., n].
        count: at most n.

    Returns:
        int64 [..., count].
    """
    return ranked(scores)[..., :count].sort(dim=-1).values


def select_prompt_tokens(importance: Tensor, config: SpecPCConfig) -> Tensor:
    """Select the prompt tokens that the target reads (paper, section 4.2).

    Args:
        importance: [tokens] of one prompt.
        config: capacity, window, smoothing and neighbours.

    Returns:
        int64 [min(tokens, capacity)], ascending: the last `window_size` positions, and the most important others with
        their neighbours.
    """
    tokens = importance.shape[0]
    if tokens <= config.max_capacity_prompt:
        return torch.arange(tokens, device=importance.device)
    smoothed = smooth(importance, config.kernel_size, config.pool_type)
    first = _order_of_any_capacity(smoothed)[: config.max_capacity_prompt]
    neighbors = config.kernel_size if config.neighbor_tokens is None else config.neighbor_tokens
    if neighbors:
        left = (neighbors - 1) // 2
        offsets = torch.arange(-left, neighbors - left, device=first.device)
        offsets = offsets[offsets.abs().argsort(stable=True)]
        first = (first[:, None] + offsets).flatten().clamp(0, tokens - 1)
    window = torch.arange(tokens - config.window_size, tokens, device=first.device)
    return first_distinct(torch.cat([window, first]), config.max_capacity_prompt).sort().values


def _order_of_any_capacity(smoothed: Tensor) -> Tensor:
    """int64 [tokens]: positions by descending score, the same on every device.

    The paper's code uses torch's top-k with k = capacity, whose order of ties depends on k. One k for every capacity
    makes selections nested. A quarter of the prompt, in steps of 32, breaks ties like the paper's code at the
    capacities of the golden cases.
    """
    smoothed = smoothed.cpu()
    tokens = smoothed.shape[0]
    best_first = smoothed.topk(min(tokens, max(96, tokens // 128 * 32)), sorted=True).indices
    rest = torch.ones(tokens, dtype=torch.bool)
    rest[best_first] = False
    order = ranked(smoothed)
    return torch.cat([best_first, order[rest[order]]])


def first_distinct(positions: Tensor, count: int) -> Tensor:
    """The first `count` distinct values of an int64 [n], in their order of appearance."""
    values, inverse = positions.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    order = torch.arange(positions.shape[0], device=positions.device)
    first = torch.full_like(values, positions.shape[0]).scatter_reduce(0, inverse, order, "amin")
    found: Tensor = values[first.argsort()[:count]]
    return found


def select_kv(scores: Tensor, config: SpecKVConfig, key_mask: Tensor | None = None) -> Tensor:
    """Select the key-value pairs that each KV head keeps in addition to the window (paper, section 4.1).

    Args:
        scores: [batch, KV heads, keys before the window], non-negative, not yet smoothed.
        config: capacity, window, smoothing and head budget; `max_capacity_prompt` must be set.
        key_mask: bool [batch, keys before the window], False for left padding; padding is selected only if a row
            has no other keys.

    Returns:
        int64 [batch, KV heads, kept], ascending, with -1 in front for heads that keep fewer than others.
    """
    assert config.max_capacity_prompt is not None
    budget = config.max_capacity_prompt - config.window
    return _per_row(
        scores,
        key_mask,
        lambda row: _select(row, config, min(budget, row.shape[-1])),
        with_padding=not config.adaptive,
    )


def select_slots(scores: Tensor, positions: Tensor, config: SpecKVConfig) -> tuple[Tensor, Tensor]:
    """Select at most `max_capacity_prompt` pairs per KV head among pairs that were selected before.

    Args:
        scores: [batch, KV heads, slots], non-negative, not yet smoothed.
        positions: int64 [batch, KV heads, slots], position of each slot's pair; -1 for an empty slot.
        config: capacity, smoothing and head budget; `max_capacity_prompt` must be set.

    Returns:
        int64 [batch, KV heads, kept] twice: the selected slots, and their positions, ascending, with -1 in front for
        heads that keep fewer than others.
    """
    assert config.max_capacity_prompt is not None
    budget = min(config.max_capacity_prompt, scores.shape[-1])
    smoothed = smooth(scores, config.kernel, config.pool_type).masked_fill(positions < 0, -1.0)
    if config.adaptive:
        slots = _share_among_heads(smoothed, budget, config.head_floor)
    else:
        slots = best(smoothed, budget)
    kept = positions.gather(2, slots.clamp(min=0)).masked_fill(slots < 0, -1)
    order = kept.argsort(dim=-1, stable=True)
    return slots.clamp(min=0).gather(2, order), kept.gather(2, order)


def select_columns(scores: Tensor, config: SpecKVConfig, key_mask: Tensor | None = None) -> Tensor:
    """Select the columns that every query of the sparse prefill attends to (paper, section 4.1).

    Args:
        scores, key_mask: as for `select_kv`.
        config: smoothing and number of columns.

    Returns:
        int64 [batch, KV heads, columns], ascending.
    """

    def columns(row: Tensor) -> Tensor:
        return best(smooth(row, config.kernel, config.pool_type), min(config.prefill_vertical_size, row.shape[-1]))

    return _per_row(scores, key_mask, columns, with_padding=True)


def select_across_layers(scores: Sequence[Tensor], kept: int, first: int, *, adaptive: bool) -> list[Tensor]:
    """Select pairs by the scores of all layers and KV heads, which compete for them.

    Args:
        scores: per layer [KV heads, tokens], non-negative and comparable; may be empty.
        kept: pairs per head on average, at most `tokens`.
        first: number of first tokens that every head keeps, as far as `kept` allows.
        adaptive: False keeps the best `kept` pairs of each head.

    Returns:
        Per layer bool [KV heads, tokens]; in total `kept` x layers x heads are True.
    """
    layers = [layer.clone() for layer in scores]
    for layer in layers:
        layer[:, : min(first, kept)] = torch.inf
    if not adaptive or not layers:
        return [torch.zeros_like(layer, dtype=torch.bool).scatter_(1, best(layer, kept), True) for layer in layers]
    together = torch.cat([layer.flatten().to(layers[0].device) for layer in layers])
    heads = sum(len(layer) for layer in layers)
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[best(together, kept * heads)] = True
    parts = torch.split(chosen, [layer.numel() for layer in layers])
    return [part.view_as(layer).to(layer.device) for part, layer in zip(parts, layers, strict=True)]


def _per_row(scores: Tensor, key_mask: Tensor | None, choose: Callable[[Tensor], Tensor], with_padding: bool) -> Tensor:
    """Select in each row without its padding, so that ties are broken as for the row alone."""
    if key_mask is None:
        return choose(scores)
    rows = []
    for row, mask in zip(scores, key_mask, strict=True):
        first = int(mask.shape[0] - mask.sum())
        selected = choose(row[None, :, first:])[0]
        rows.append(torch.where(selected >= 0, selected + first, selected))
    width = max(row.shape[-1] for row in rows)
    return torch.stack([_filled(row, width, with_padding) for row in rows])


def _filled(positions: Tensor, width: int, with_padding: bool) -> Tensor:
    """[KV heads, width]: a row with too few keys gets -1 in front, or positions of padding, which stays masked."""
    missing = width - positions.shape[-1]
    if not missing:
        return positions
    if not with_padding:
        return F.pad(positions, (missing, 0), value=-1)
    first = int(positions[0, 0]) if positions.shape[-1] else missing
    fill = torch.arange(first - missing, first, device=positions.device)
    return torch.cat([fill.expand(positions.shape[0], -1), positions], dim=-1)


def _select(scores: Tensor, config: SpecKVConfig, budget: int) -> Tensor:
    smoothed = smooth(scores, config.kernel, config.pool_type)
    if config.adaptive:
        return _share_among_heads(smoothed, budget, config.head_floor)
    if smoothed.is_cuda:
        return best(smoothed, budget)
    # max pooling makes ties; on a CPU, torch's top-k of all keys breaks them like the paper's code
    return smoothed.topk(smoothed.shape[-1], dim=-1).indices[..., :budget].sort(dim=-1).values


def _share_among_heads(smoothed: Tensor, budget: int, floor: float) -> Tensor:
    """Distribute heads x budget pairs over the heads of a layer by score.

    Each head keeps at least `floor` and at most twice its even share: memory is determined by the widest head.

    Returns int64 [batch, heads, widest head], ascending, with -1 in front.
    """
    batch, heads, keys = smoothed.shape
    order = ranked(smoothed)
    values = smoothed.gather(-1, order)
    values[..., : max(1, int(floor * budget))] = torch.inf
    values[..., _MAX_SHARE * budget :] = -torch.inf
    chosen = torch.zeros(batch, heads * keys, dtype=torch.bool, device=smoothed.device)
    chosen.scatter_(1, best(values.flatten(1), heads * budget), True)
    chosen = chosen.view(batch, heads, keys)
    positions = order.masked_fill(~chosen, -1)
    widest = int(chosen.sum(-1).max())
    return positions.sort(dim=-1).values[..., keys - widest :]
