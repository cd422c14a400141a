"""The draft's stage: one pass over the prompts gives token importance for SpecPC and the look-ahead for SpecKV."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from spec_rag.attention.capture import capture
from spec_rag.attention.importance import PromptImportance
from spec_rag.attention.token_selection import select_prompt_tokens
from spec_rag.errors import ConfigError
from spec_rag.generation.end_tokens import lookahead_ends
from spec_rag.generation.model_errors import FiniteLogits
from spec_rag.generation.prompt_batch import Batch, PromptRow, lookahead_by
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import GREEDY, pad_token_id
from spec_rag.generation.stop_criteria import CancelCriterion, EndedRows
from spec_rag.generation.unit_selection import select_units
from spec_rag.models.error_context import check_finite
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecPCConfig
from spec_rag.text.tokenization import left_pad


@dataclass(frozen=True)
class DraftReading:
    """The result of the draft for a batch of prompts.

    Attributes:
        importance: [batch, prompt tokens], or None if it was not requested.
        lookahead_ids: int64 [batch, look-ahead], greedy, padded on the right.
        lookahead_mask: bool [batch, look-ahead], False after a row's end token.
    """

    importance: Tensor | None
    lookahead_ids: Tensor
    lookahead_mask: Tensor


def read_with_draft(request: GenerationRequest, batch: Batch) -> None:
    """Run the draft on the prompts that exceed a capacity, apply SpecPC, and store the look-ahead in the batch.

    With both configs the look-ahead has `speckv.lookahead_tokens` tokens, else `specpc.lookahead_tokens` if that is
    above 1, else `max_new_tokens`. Importance always uses its first `specpc.lookahead_tokens` tokens.

    Raises:
        IncompatibleModelsError: draft and target have different tokenizers.
    """
    pair, specpc, speckv = request.pair, request.specpc, request.speckv
    compresses = specpc is not None and batch.longest > specpc.max_capacity_prompt
    observed = specpc.lookahead_tokens if specpc else 1
    steps = 0
    if speckv:
        steps = speckv.lookahead_tokens or (observed if observed > 1 else request.sampling.max_new_tokens)
    lengths = [len(row) for row in batch.rows]
    kept = [min(tokens, specpc.max_capacity_prompt) if specpc else tokens for tokens in lengths]
    batch.lookahead_by = [
        lookahead_by(pair, speckv, left, tokens + steps - 1) for left, tokens in zip(kept, lengths, strict=True)
    ]
    ahead = [i for i, source in enumerate(batch.lookahead_by) if source == "draft"]
    if not compresses and not ahead:
        return
    pair.check_same_tokens()
    read = list(range(len(batch.rows))) if compresses else ahead
    written = max(steps if ahead else 0, observed if compresses else 1)
    cancelled = request.cancelled
    events = [cancelled[i] for i in read] if isinstance(cancelled, Sequence) else cancelled
    started = time.perf_counter()
    read_request = replace(request, specpc=specpc if compresses else None, cancelled=events)
    reading = read_rows(read_request, [batch.rows[i] for i in read], written)
    for i in ahead:
        ids, mask = reading.lookahead_ids[read.index(i)], reading.lookahead_mask[read.index(i)]
        batch.lookahead[i] = ids[mask][:steps].cpu()
    if specpc and reading.importance is not None:
        _drop_tokens(batch, reading.importance, specpc)
    batch.draft_seconds = time.perf_counter() - started


def read_rows(request: GenerationRequest, rows: list[Tensor], lookahead_tokens: int) -> DraftReading:
    """Run the draft once over the prompts and let it write at most `lookahead_tokens` tokens greedily.

    Args:
        request: the job; `specpc` says how importance is reduced, and without it none is computed.
        rows: int64 [tokens] each.
        lookahead_tokens: at least 1; a row's look-ahead ends with its end token.

    Raises:
        ConfigError: there is no draft, or the longest row is shorter than the observation window.
        PromptTooLongError: the longest row exceeds the draft's context.
    """
    pair, specpc = request.pair, request.specpc
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
    is_padded = not bool(mask.all())
    observer = PromptImportance(specpc, mask.bool() if is_padded else None, request.backend) if specpc else None
    ends = lookahead_ends(pair, request.sampling)
    criteria: list[StoppingCriteria] = [CancelCriterion(request.cancelled)]
    if observer is not None:
        criteria.append(EndedRows(ids.shape[1], ends, observer.set_unended_rows))
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
    importance = observer.result() if observer else None
    if importance is not None:
        check_finite(importance.masked_fill(mask == 0, 0), "token importances")
    return DraftReading(importance, lookahead, until_end(lookahead, ends))


def until_end(tokens: Tensor, ends: list[int]) -> Tensor:
    """bool [batch, tokens]: the tokens up to each row's first end token, which is included."""
    ended = torch.isin(tokens, torch.tensor(ends, dtype=torch.long, device=tokens.device))
    return ended.cumsum(dim=1) - ended.long() == 0


def selected_tokens(row: PromptRow, importance: Tensor, specpc: SpecPCConfig) -> Tensor:
    """int64, ascending: the prompt tokens that the target reads; by units where the row has some."""
    if row.units is None or len(importance) <= specpc.max_capacity_prompt:
        return select_prompt_tokens(importance, specpc)
    return select_units(importance, row.units, specpc)


def _drop_tokens(batch: Batch, importance: Tensor, specpc: SpecPCConfig) -> None:
    for i, row in enumerate(batch.rows):
        if len(row) <= specpc.max_capacity_prompt:
            continue
        row_importance = importance[i, importance.shape[1] - len(row) :]  # without the left padding
        selected = selected_tokens(PromptRow(row, batch.units[i]), row_importance, specpc).cpu()
        batch.rows[i] = row[selected.to(row.device)]
        batch.selected[i] = selected
        batch.positions[i] = selected if specpc.positions == "original" else torch.arange(len(selected))
