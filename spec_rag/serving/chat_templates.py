"""Chat templates with additional variables, and with tool-call ids of other servers."""

from __future__ import annotations

import copy
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.text.prompts import chat_ids

_SHORT_ID = re.compile("[A-Za-z0-9]{9}")


def with_template_variables(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template has additional variables."""
    changed = copy.copy(tokenizer)
    changed.apply_chat_template = functools.partial(tokenizer.apply_chat_template, **variables)
    return changed


def served_chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    assistant_prefix: str = "",
) -> list[int]:
    """Token ids of a chat; see `spec_rag.text.prompts.chat_ids`.

    Some templates (Mistral's) accept only tool-call ids of nine letters and digits. If a template refuses a chat,
    longer ids are replaced by a hash.

    Raises:
        ConfigError: the template refuses the chat.
    """
    try:
        return chat_ids(tokenizer, messages, tools, assistant_prefix)
    except (TemplateError, ConfigError) as error:
        renamed = [_with_short_ids(message) for message in messages]
        if renamed != list(messages):
            try:
                return chat_ids(tokenizer, renamed, tools, assistant_prefix)
            except (TemplateError, ConfigError):
                pass
        if isinstance(error, TemplateError):
            raise ConfigError(f"messages: the model's chat template refuses them: {error}") from error
        raise


def _with_short_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(message)
    if message.get("tool_call_id"):
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "id": _short_id(call["id"])} if call.get("id") else call for call in message["tool_calls"]
        ]
    return changed


def _short_id(name: str) -> str:
    return name if _SHORT_ID.fullmatch(name) else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:9]
