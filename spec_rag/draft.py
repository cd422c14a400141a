"""One pass of the draft: the importance of each prompt token, and the look-ahead it writes.

The paper's SpecKV-PC needs both from a single pass; SpecPC and SpecKV use one half each. This module does not know the
target.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_rag.attention_capture import capture
from spec_rag.config import SpecPCConfig
from spec_rag.importance import PromptImportance


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


GREEDY: dict[str, Any] = {
    # every field that a checkpoint's generation_config may set is given, so that none of them joins in
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "return_dict_in_generate": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
}


def read_prompts(
    draft: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    specpc: SpecPCConfig | None,
    lookahead_tokens: int,
    stopping_criteria: Any = None,
    backend: str | None = None,
) -> DraftReading:
    """Run the draft once over a left-padded batch and let it write at most `lookahead_tokens` tokens greedily.

    Args:
        draft: the draft model.
        input_ids: int64 [batch, prompt tokens].
        attention_mask: [batch, prompt tokens], 0 where a row is padded.
        specpc: how importance is reduced; None leaves it out.
        lookahead_tokens: at least 1; a row's look-ahead ends with its end token.
        stopping_criteria: transformers' StoppingCriteriaList, to cancel.
        backend: kernel backend; None chooses by device.
    """
    input_ids, attention_mask = input_ids.to(draft.device), attention_mask.to(draft.device)
    padded = not bool(attention_mask.all())
    observer = PromptImportance(specpc, attention_mask.bool() if padded else None, backend) if specpc else None
    with capture(draft, observer) if observer else contextlib.nullcontext(), torch.no_grad():
        sequences = draft.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=lookahead_tokens,
            stopping_criteria=stopping_criteria,
            pad_token_id=pad_token_id(draft),
            **GREEDY,
        )
    lookahead = sequences[:, input_ids.shape[1] :]
    ended = torch.isin(lookahead, torch.tensor(eos_token_ids(draft), device=lookahead.device))
    behind = ended.cumsum(dim=1) - ended.long() > 0
    return DraftReading(observer.result() if observer else None, lookahead, ~behind)


def eos_token_ids(model: PreTrainedModel) -> list[int]:
    """The ids that end a sequence of this model; empty if it names none."""
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    if eos is None:
        return []
    return [int(i) for i in eos] if isinstance(eos, list | tuple) else [int(eos)]


def pad_token_id(model: PreTrainedModel) -> int:
    """The id that fills padded places; masked everywhere, so an end token serves as well."""
    pad = model.generation_config.pad_token_id if model.generation_config is not None else None
    if pad is not None:
        return int(pad)
    return next(iter(eos_token_ids(model)), 0)
