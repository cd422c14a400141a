"""The draft's stage: one pass over the prompts gives SpecPC its importance and SpecKV its look-ahead.

The paper's SpecKV-PC needs both from a single pass; SpecPC and SpecKV use one half each; prompts that fit need
neither. This module does not know how the target decodes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from spec_rag.attention.capture import capture
from spec_rag.attention.importance import PromptImportance
from spec_rag.attention.token_selection import select_prompt_tokens
from spec_rag.errors import ConfigError
from spec_rag.generation.end_tokens import lookahead_ends
from spec_rag.generation.model_errors import FiniteLogits
from spec_rag.generation.prompt_batch import Batch, lookahead_by
from spec_rag.generation.sampling import GREEDY, SamplingConfig, pad_token_id
from spec_rag.generation.stop_criteria import CancelCriterion, Cancelled, EndedRows
from spec_rag.generation.unit_selection import select_units
from spec_rag.models.error_context import check_finite
from spec_rag.models.model_pair import ModelPair
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.text.tokenization import left_pad


@dataclass(frozen=True)
class DraftReading:
    """What the draft found in a batch of prompts.

    Attributes:
        importance: [batch, prompt tokens], or None where it was not asked for.
        lookahead_ids: int64 [batch, look-ahead], greedy, padded on the right.
        lookahead_mask: bool [batch, look-ahead], False behind a row's end token.
    """

    importance: Tensor | None
    lookahead_ids: Tensor
    lookahead_mask: Tensor


def read_with_draft(
    pair: ModelPair,
    batch: Batch,
    specpc: SpecPCConfig | None,
    speckv: SpecKVConfig | None,
    max_new_tokens: int,
    cancelled: Cancelled = None,
    backend: str | None = None,
    sampling: SamplingConfig | None = None,
) -> None:
    """Let the draft read what does not fit, drop what SpecPC does not keep, and note the look-ahead.

    With both, the look-ahead is as long as `speckv.lookahead_tokens`, else `specpc.lookahead_tokens` where that is more
    than 1, else `max_new_tokens`; importance always counts the first `specpc.lookahead_tokens` of it. It ends where an
    answer would; `sampling` tells which end tokens the caller chose.

    Raises:
        IncompatibleModelsError: the draft writes other tokens than the target reads.
    """
    compresses = specpc is not None and batch.longest > specpc.max_capacity_prompt
    observed = specpc.lookahead_tokens if specpc else 1
    steps = 0
    if speckv:
        steps = speckv.lookahead_tokens or (observed if observed > 1 else max_new_tokens)
    lengths = [len(row) for row in batch.rows]
    left = [min(tokens, specpc.max_capacity_prompt) if specpc else tokens for tokens in lengths]
    batch.lookahead_by = [
        lookahead_by(pair, speckv, kept, tokens + steps - 1) for kept, tokens in zip(left, lengths, strict=True)
    ]
    ahead = [i for i, writer in enumerate(batch.lookahead_by) if writer == "draft"]
    if not compresses and not ahead:
        return
    pair.check_same_tokens()
    read = list(range(len(batch.rows))) if compresses else ahead
    written = max(steps if ahead else 0, observed if compresses else 1)
    started = time.perf_counter()
    rows = [batch.rows[i] for i in read]
    events = [cancelled[i] for i in read] if isinstance(cancelled, Sequence) else cancelled
    reading = read_rows(pair, rows, specpc if compresses else None, written, events, backend, sampling)
    for i in ahead:
        ids, mask = reading.lookahead_ids[read.index(i)], reading.lookahead_mask[read.index(i)]
        batch.lookahead[i] = ids[mask][:steps].cpu()
    if specpc and reading.importance is not None:
        _drop_tokens(batch, reading.importance, specpc)
    batch.draft_seconds = time.perf_counter() - started


def read_rows(
    pair: ModelPair,
    rows: list[Tensor],
    specpc: SpecPCConfig | None,
    lookahead_tokens: int,
    cancelled: Cancelled = None,
    backend: str | None = None,
    sampling: SamplingConfig | None = None,
) -> DraftReading:
    """Run the draft once over the prompts and let it write at most `lookahead_tokens` tokens greedily.

    Args:
        pair: the models; the draft is needed.
        rows: int64 [tokens] each.
        specpc: how importance is reduced; None leaves it out.
        lookahead_tokens: at least 1; a row's look-ahead ends with its end token.
        cancelled: what ends the look-ahead when it is set: of all rows, or of each.
        backend: kernel backend; None chooses by device.
        sampling: how the answer will be written, for its end tokens.

    Raises:
        ConfigError: there is no draft, or the longest row is shorter than the observation window.
        PromptTooLongError: the longest row is beyond the draft's context.
    """
    draft = pair.require_draft("SpecPC, or SpecKV with lookahead='draft',")
    longest = max(len(row) for row in rows)
    if specpc is not None and longest < specpc.window_size:
        raise ConfigError(
            f"window_size={specpc.window_size} is longer than the prompt of {longest} tokens: lower window_size."
        )
    pair.check_context(
        draft,
        longest + lookahead_tokens - 1,
        "draft",
        "compress the documents one by one with compress() or SpecPCCompressor, take a draft with a longer context, "
        "or, for SpecKV alone, set SpecKVConfig(lookahead='auto'): the target then looks ahead itself.",
    )
    restore_frequencies(draft)
    ids, mask = (x.to(draft.device) for x in left_pad(rows, pad_token_id(draft)))
    padded = not bool(mask.all())
    observer = PromptImportance(specpc, mask.bool() if padded else None, backend) if specpc else None
    ends = lookahead_ends(pair, sampling)
    criteria: list[StoppingCriteria] = [CancelCriterion(cancelled)]
    if observer is not None:
        criteria.append(EndedRows(ids.shape[1], ends, observer.tell_going_on))
    with capture(draft, observer) if observer else contextlib.nullcontext(), torch.no_grad():
        sequences = draft.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=lookahead_tokens,
            stopping_criteria=StoppingCriteriaList(criteria),
            logits_processor=LogitsProcessorList([FiniteLogits()]),
            pad_token_id=pad_token_id(draft),
            eos_token_id=ends or None,
            **GREEDY,
        )
    lookahead = sequences[:, ids.shape[1] :]
    there = before_end(lookahead, ends)
    importance = observer.result() if observer else None
    if importance is not None:
        check_finite(importance.masked_fill(mask == 0, 0), "token importances")
    return DraftReading(importance, lookahead, there)


def before_end(written: Tensor, ends: list[int]) -> Tensor:
    """bool [batch, tokens]: what stands no later than a row's first end token."""
    ended = torch.isin(written, torch.tensor(ends, dtype=torch.long, device=written.device))
    return ended.cumsum(dim=1) - ended.long() == 0


def _drop_tokens(batch: Batch, importance: Tensor, specpc: SpecPCConfig) -> None:
    for i, row in enumerate(batch.rows):
        if len(row) <= specpc.max_capacity_prompt:
            continue
        own, units = importance[i, importance.shape[1] - len(row) :], batch.units[i]
        selected = select_prompt_tokens(own, specpc) if units is None else select_units(own, units, specpc)
        selected = selected.cpu()
        batch.rows[i] = row[selected.to(row.device)]
        batch.selected[i] = selected
        batch.positions[i] = selected if specpc.positions == "original" else torch.arange(len(selected))
