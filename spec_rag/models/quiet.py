"""What libraries show on standard error while a model is loaded: downloads on a terminal, and nothing else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import huggingface_hub.utils
import transformers


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No list of the weights that were left out on purpose, and no bars but those of downloads on a terminal."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    downloads_hidden = huggingface_hub.utils.are_progress_bars_disabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()  # those of the hub too
    if not downloads_hidden and sys.stderr.isatty():
        huggingface_hub.utils.enable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()  # and, unasked, those of the hub
        if downloads_hidden:
            huggingface_hub.utils.disable_progress_bars()
        else:
            huggingface_hub.utils.enable_progress_bars()
