"""Features from the draft: the attention of the question to passages, encoded one by one or in one prompt.

Passages are encoded, or taken from the index. This module does not select passages
or units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spec_rag.attention.capture import capture
from spec_rag.attention.importance import PromptImportance
from spec_rag.attention.token_selection import smooth
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoder import PassageEncoder
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.passage_encoding import read_passages
from spec_rag.compression.passages import Passage, frame, question_tokens
from spec_rag.errors import ConfigError, PromptTooLongError
from spec_rag.models.error_context import check_finite
from spec_rag.models.rope import restore_frequencies
from spec_rag.options.compression import SpecPCConfig

_FIRST_JOINT_LAYER = 8 / 30  # of the depth


def cross_attention_features(
    reader: PassageEncoder, inquiry: CompressionRequest, known: Features, chosen: Sequence[int]
) -> Features:
    """With the question's attention to some passages, each encoded on its own, and all visible at once.

    Args:
        chosen: indices of the passages.
    """
    passages = [inquiry.passages[i] for i in chosen]
    encoded = read_passages(reader, passages, inquiry.documents, inquiry.index, inquiry.cancelled)
    rows = [question_tokens(reader.draft.tokenizer, reader.frame, inquiry.question)]
    seen = reader.attention(encoded, rows).float().cpu()
    check_finite(seen, "attention scores")
    attention = torch.zeros(*seen.shape[:3], sum(len(p.ids) for p in inquiry.passages))
    attention[..., _tokens_of(passages)] = seen
    read = torch.zeros(len(inquiry.passages), dtype=torch.bool)
    read[list(chosen)] = True
    return replace(known, attention=attention[0], read=read)


def joint_attention_features(draft: Draft, inquiry: CompressionRequest, known: Features) -> Features:
    """With the attention in one prompt of all documents, as the paper reads them.

    Raises:
        ConfigError: an index was given, which cannot be used.
        PromptTooLongError: the documents are beyond the draft's context.
    """
    if inquiry.index is not None:
        raise ConfigError("scoring='joint' reads all documents in one prompt, so index= has no use: leave it out.")
    importance = joint_importance(draft, inquiry.passages, inquiry.question, inquiry.backend)
    own = sum(len(p.ids) for p in inquiry.passages)
    smoothed = smooth(importance, SpecPCConfig.kernel_size, SpecPCConfig.pool_type)[:own]
    return replace(known, attention=smoothed[None, None])


def joint_importance(draft: Draft, passages: Sequence[Passage], question: str, backend: str | None = None) -> Tensor:
    """The paper's importance of each token, from one prompt of instruction, passages and question (section 4.2).

    Returns:
        float32 [passage tokens + question tokens], not smoothed; the question's frame counts as its own.

    Raises:
        PromptTooLongError: the prompt is beyond the draft's context.
    """
    layout = frame(draft.tokenizer)
    body = [token for passage in passages for token in passage.ids]
    ids = [*layout.head, *body, *question_tokens(draft.tokenizer, layout, question).ids]
    limit = draft.context_tokens
    if limit is not None and len(ids) > limit:
        raise PromptTooLongError(
            f"scoring='joint' needs a prompt of {len(ids)} tokens, but the draft {draft.name!r} takes {limit}: use "
            "scoring='per_document', or fewer documents."
        )
    first_layer = min(round(draft.total_layers * _FIRST_JOINT_LAYER), draft.total_layers - 1)
    settings = SpecPCConfig(
        window_size=min(64, len(ids) - 1), max_capacity_prompt=len(ids), starting_layer_index=first_layer
    )
    observer = PromptImportance(settings, backend=backend)
    prompt = torch.tensor([ids], device=draft.model.device)
    restore_frequencies(draft.model)
    try:
        with capture(draft.model, observer), torch.no_grad():
            draft.model.get_decoder()(input_ids=prompt, use_cache=False)
    finally:  # a long prompt changes the rotary frequencies of LongRoPE and dynamic NTK scaling
        restore_frequencies(draft.model)
    importance = observer.result()[0].float().cpu()
    check_finite(importance, "attention scores")
    return importance[len(layout.head) :]


def _tokens_of(passages: Sequence[Passage]) -> Tensor:
    """int64: where the passages' tokens stand among those of all passages."""
    return torch.cat([torch.arange(p.first_token, p.first_token + len(p.ids)) for p in passages])
