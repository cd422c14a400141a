"""A tiny random model with a byte-level tokenizer, and what watches it: no test needs a download or the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STRICT_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if loop.index0 > 0 and m['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_tokenizer(chat_template: str | None = STRICT_CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
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


def tiny_llama(seed: int, tokenizer: PreTrainedTokenizerFast, context_tokens: int = 8192) -> LlamaForCausalLM:
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
    model = LlamaForCausalLM(config).eval()
    letters = set(tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyzĠ")))
    model.generation_config.suppress_tokens = [i for i in range(len(tokenizer)) if i not in letters]
    return model


class _Events(BaseEventHandler):
    seen: list[BaseEvent] = []  # noqa: RUF012 - a pydantic field

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.seen.append(event)


class Observed:
    """What LlamaIndex's instrumentation saw."""

    def __init__(self) -> None:
        self.events = _Events(seen=[])
        self.spans = SimpleSpanHandler()

    def of(self, event_class: type[BaseEvent]) -> list[Any]:
        return [event for event in self.events.seen if isinstance(event, event_class)]

    @property
    def completed_spans(self) -> list[SimpleSpan]:
        return self.spans.completed_spans


class Steps:
    """Counts the target's forward passes and can slow them down or hold them."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.before_each: Callable[[], None] = lambda: None

    def __call__(self, *_: Any) -> None:
        self.count += 1
        self.before_each()
        time.sleep(self.seconds)


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("spec-rag")]


def wait_for_no_stream_threads(seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while stream_threads():
        assert time.monotonic() < deadline, "a generation thread is left behind"
        time.sleep(0.01)
