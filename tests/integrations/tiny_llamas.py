"""Tiny random Llamas with a byte-level tokenizer, whose answers are text; and a hold on their passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

Llama = TypeVar("Llama", bound=LlamaForCausalLM)


def byte_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """One token per byte; an opening token is added to plain text, as Llama's tokenizer does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=chat_template,
    )


def tiny_llama(kind: type[Llama], seed: int, tokenizer: PreTrainedTokenizerFast, context_tokens: int = 8192) -> Llama:
    """Random weights; it only ever writes small letters and spaces, so that its text is text."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_tokens,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = kind(config).eval()
    letters = set(tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyzĠ")))
    model.generation_config.suppress_tokens = [i for i in range(len(tokenizer)) if i not in letters]
    return model


class Held:
    """A model that waits at each pass until it may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.passes = 0

    def __call__(self, *_: object) -> None:
        self.passes += 1
        self.begun.set()
        self.may_go_on.wait(20)


@contextmanager
def held(model: PreTrainedModel) -> Iterator[Held]:
    """Hold the model's decoder at its passes."""
    hold = Held()
    hook = model.get_decoder().register_forward_pre_hook(hold)
    try:
        yield hold
    finally:
        hook.remove()
