"""A tokenizer with a strict chat template, and what watches models and LlamaIndex's instrumentation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from integrations.tiny_llamas import byte_tokenizer
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from transformers import PreTrainedTokenizerFast

STRICT_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if loop.index0 > 0 and m['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def strict_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose chat template wants turns to alternate."""
    return byte_tokenizer(STRICT_CHAT_TEMPLATE)


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
