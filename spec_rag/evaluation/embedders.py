"""Sentence encoders for measurements, from a folder or an installed package."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from spec_rag.errors import ConfigError


def load_embedder(name: str) -> Callable[[list[str]], list[list[float]]]:
    """A function from texts to mean-pooled embeddings, by the folder of an encoder or a package with a MODEL_DIR.

    Raises:
        ConfigError: no such folder or package exists.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    if Path(name).is_dir():
        folder = name
    else:
        try:
            folder = str(importlib.import_module(name).MODEL_DIR)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"embedder={name!r} is neither a folder nor a package with a MODEL_DIR: give one of these."
            ) from error
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), 16):
            batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            vectors += ((hidden * mask).sum(1) / mask.sum(1)).tolist()
        return vectors

    return embed
