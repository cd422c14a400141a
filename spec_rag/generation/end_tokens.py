"""Which tokens end an answer: those of the checkpoint, of its tokenizer and of its chat template, or the caller's.

This module does not know prompts or caches.
"""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.generation.sampling import SamplingConfig, eos_token_ids
from spec_rag.models.model_pair import ModelPair
from spec_rag.text.chat_format import turn_end_ids


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The ids that end a text of this model, without repetition.

    They are the union of generation_config's, the tokenizer's, and the one that closes the assistant's turn in its chat
    template. Any of the three may be missing or name another token than the rest.
    """
    ends = eos_token_ids(model)
    if tokenizer is not None:
        own = tokenizer.eos_token_id
        ends = [*ends, *([] if own is None else [int(own)]), *turn_end_ids(tokenizer)]
    embedding = model.get_input_embeddings()
    known = getattr(embedding, "num_embeddings", None)
    return [token for token in dict.fromkeys(ends) if token >= 0 and (known is None or token < known)]


def answer_ends(pair: ModelPair, sampling: SamplingConfig | None = None) -> list[int]:
    """The ids that end an answer of the pair's target: the caller's `eos_token_id`, else those of `end_token_ids`."""
    given = None if sampling is None else sampling.options.get("eos_token_id")
    if given is not None:
        return [token for token in given if token >= 0]
    return end_token_ids(pair.require_target(), pair.tokenizer or pair.draft_tokenizer)


def lookahead_ends(pair: ModelPair, sampling: SamplingConfig | None = None) -> list[int]:
    """The ids that end a draft's look-ahead: those of the answer, and the draft's own."""
    if sampling is not None and sampling.options.get("eos_token_id") is not None:
        return answer_ends(pair, sampling)
    own = end_token_ids(pair.require_draft("a look-ahead"), pair.draft_tokenizer or pair.tokenizer)
    theirs = answer_ends(pair) if pair.target is not None and pair.shares_tokens else []
    return list(dict.fromkeys([*own, *theirs]))
