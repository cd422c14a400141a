"""End tokens of an answer: the caller's, or those of checkpoint, tokenizer and chat template."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.generation.sampling import SamplingConfig, eos_token_ids
from spec_rag.models.model_pair import ModelPair
from spec_rag.text.chat_format import turn_end_ids


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The distinct ids that end a text of this model.

    The union of those of the generation config, of the tokenizer, and of the end of the assistant's turn in its chat
    template. Each of the three may be missing or differ from the others.
    """
    ends = eos_token_ids(model)
    if tokenizer is not None:
        end = tokenizer.eos_token_id
        ends = [*ends, *([] if end is None else [int(end)]), *turn_end_ids(tokenizer)]
    vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
    return [token for token in dict.fromkeys(ends) if token >= 0 and (vocabulary is None or token < vocabulary)]


def answer_ends(pair: ModelPair, sampling: SamplingConfig | None = None) -> list[int]:
    """The ids that end an answer of the pair's target: the caller's `eos_token_id`, else those of `end_token_ids`."""
    requested = None if sampling is None else sampling.options.get("eos_token_id")
    if requested is not None:
        return [token for token in requested if token >= 0]
    return end_token_ids(pair.require_target(), pair.tokenizer or pair.draft_tokenizer)


def lookahead_ends(pair: ModelPair, sampling: SamplingConfig | None = None) -> list[int]:
    """The ids that end a draft's look-ahead: those of the answer and those of the draft."""
    if sampling is not None and sampling.options.get("eos_token_id") is not None:
        return answer_ends(pair, sampling)
    draft_ends = end_token_ids(pair.require_draft("a look-ahead"), pair.draft_tokenizer or pair.tokenizer)
    target_ends = answer_ends(pair) if pair.target is not None and pair.shares_tokens else []
    return list(dict.fromkeys([*draft_ends, *target_ends]))
