"""Token counters for budgets: by the draft's tokenizer, another tokenizer, tiktoken, or a function.

A text that is not blank has at least one token.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.text.tokenization import encodable, text_ids

Counter = Callable[[str], int]


def token_counter(count_with: Any, draft_tokenizer: PreTrainedTokenizerBase) -> Counter:
    """Create a function that counts the tokens of a text.

    Args:
        count_with: "draft"; a tokenizer; the name of a tiktoken encoding or of a model that tiktoken knows; or a
            function from text to a number.
        draft_tokenizer: the tokenizer for "draft".

    Raises:
        ConfigError: tiktoken does not know the name, or cannot fetch its vocabulary.
    """
    if count_with == "draft":
        return lambda text: len(text_ids(draft_tokenizer, text))
    if isinstance(count_with, PreTrainedTokenizerBase):
        return lambda text: len(text_ids(count_with, text))
    if isinstance(count_with, str):
        encoding = _tiktoken_encoding(count_with)
        return lambda text: len(encoding.encode(encodable(text), disallowed_special=()))
    if callable(count_with):
        return _checked(count_with)
    raise ConfigError(f"count_with={count_with!r}: give 'draft', a tokenizer, a tiktoken name, or a function.")


def _checked(given: Callable[[str], Any]) -> Counter:
    """Wrap a function: check its result, and count at least one token for text that is not blank."""

    def count(text: str) -> int:
        tokens = given(text)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise ConfigError(
                f"count_with returned {tokens!r} for a text of {len(text)} characters: it must return the number of "
                "tokens, an integer of at least 0."
            )
        return max(tokens, 1) if text.strip() else tokens

    return count


def _tiktoken_encoding(name: str) -> Any:
    import tiktoken

    bundled = _bundled_tiktoken_files()
    if bundled is not None:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(bundled))
    try:
        return tiktoken.get_encoding(name)
    except ValueError:
        pass  # not an encoding; it may be a model
    except OSError as error:
        raise _not_fetched(name, error) from error
    try:
        return tiktoken.encoding_for_model(name)
    except KeyError as error:
        raise ConfigError(
            f"count_with={name!r} is neither 'draft' nor a name that tiktoken knows: give one of "
            f"{', '.join(tiktoken.list_encoding_names())}, an OpenAI model's name, a tokenizer, or a function."
        ) from error
    except OSError as error:
        raise _not_fetched(name, error) from error


def _not_fetched(name: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"count_with={name!r}: tiktoken has to fetch this vocabulary and cannot ({type(error).__name__}). "
        "Connect to the network once, set TIKTOKEN_CACHE_DIR to a folder that has it, or give a tokenizer; "
        "'cl100k_base' and 'gpt2' come with llama-index-core."
    )


def _bundled_tiktoken_files() -> Path | None:
    """llama-index-core's copies of the cl100k_base and gpt2 vocabularies, if it is installed."""
    spec = find_spec("llama_index")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "core" / "_static" / "tiktoken_cache"
        if folder.is_dir():
            return folder
    return None
