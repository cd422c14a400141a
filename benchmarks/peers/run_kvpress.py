"""Answers of kvpress's methods: the prompt's cache is pruned, then the answer is written greedily from what is left.

The whole prompt but its last token is read under the press, question included; the last token is the first one that
reads the pruned cache, as in spec-rag. `budget` is the share of pairs that is kept.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import kvpress
import torch
from exchange import arguments, run, run_timings, seconds
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging


def main() -> None:
    """Run the presses over the cases."""
    given = arguments(__doc__)
    logging.disable_progress_bar()
    version = f"kvpress {importlib.metadata.version('kvpress')}"
    if given.timings:
        run_timings(given, "generation", {"kvpress SnapKV": timed}, version)
        return
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()

    def method(press: Callable[[float, int], Any]) -> Callable[[dict[str, Any], float], dict[str, Any]]:
        return lambda case, share: answered(model, tokenizer, case, share, press)

    run(
        given,
        {
            "kvpress SnapKV": method(snapkv),
            "kvpress AdaKV": method(lambda ratio, kept: kvpress.AdaKVPress(snapkv(ratio, kept))),
            "kvpress ExpectedAttention": method(lambda ratio, _: kvpress.ExpectedAttentionPress(ratio)),
            "kvpress KVzip": method(lambda ratio, _: kvpress.KVzipPress(ratio)),
            "kvpress StreamingLLM": method(lambda ratio, _: kvpress.StreamingLLMPress(ratio)),
        },
        version,
    )


def snapkv(ratio: float, kept: int) -> Any:
    """SnapKV with its window of 64, or half of what is kept where that is less."""
    return kvpress.SnapKVPress(ratio, window_size=max(min(64, kept // 2), 1))


def answered(
    model: Any, tokenizer: Any, case: dict[str, Any], share: float, press: Callable[[float, int], Any]
) -> dict[str, Any]:
    """The answer from a cache of so large a share of the prompt's pairs."""
    text = tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text + case["beginning"], add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        cache = read(model, ids, press(1 - share, int(share * ids.shape[1])))
        kv_bytes = bytes_of(cache)
        written = decoded(model, ids, cache, case["max_new_tokens"])
    return {"answer": tokenizer.decode(written, skip_special_tokens=True), "kv_bytes": kv_bytes}


def read(model: Any, ids: torch.Tensor, press: Any = None) -> DynamicCache:
    """The cache of a prompt but its last token, read under a press if there is one."""
    cache = DynamicCache()
    with press(model) if press else nullcontext():
        model.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
    return cache


def bytes_of(cache: DynamicCache) -> int:
    """Of its keys and values."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def decoded(model: Any, ids: torch.Tensor, cache: DynamicCache, new_tokens: int) -> list[int]:
    """Tokens written greedily behind a prompt whose last token has not been read, at the whole prompt's positions."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    last, written = ids[:, -1:], list[int]()
    for step in range(new_tokens):
        position = torch.tensor([[ids.shape[1] - 1 + step]])
        logits = model(input_ids=last, past_key_values=cache, position_ids=position, use_cache=True).logits
        last = logits[:, -1:].argmax(dim=-1)
        written.append(int(last))
        if written[-1] in ends:
            break
    return written


def timed(line: dict[str, Any]) -> dict[str, float]:
    """Seconds to the first token under SnapKV and without a press, tokens per second, and the bytes of the cache."""
    ids = torch.tensor([line["ids"]])
    model = random_model(json.dumps(line["config"]))

    def first_token(press: Any = None) -> DynamicCache:
        cache = read(model, ids, press)
        decoded(model, ids, cache, 1)
        return cache

    with torch.no_grad():
        dense = seconds(first_token)
        kept = int(line["share"] * ids.shape[1])
        held: list[DynamicCache] = []
        first = seconds(lambda: held.append(first_token(snapkv(1 - line["share"], kept))))
        kv_bytes = bytes_of(held[0])
        rest = seconds(lambda: decoded(model, ids, held[0], line["new_tokens"] - 1))
    return {
        "first_token_seconds": first,
        "dense_first_token_seconds": dense,
        "tokens_per_second": (line["new_tokens"] - 1) / rest,
        "kv_bytes": kv_bytes,
        "prompt_tokens": ids.shape[1],
    }


@lru_cache
def random_model(config: str) -> Any:
    """A model of the config's shape with random weights, warmed up."""
    torch.manual_seed(0)
    settings = {name: value for name, value in json.loads(config).items() if name != "dtype"}
    own = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(own, dtype=torch.float32).eval()
    with torch.no_grad():
        read(model, torch.arange(64)[None])
    return model


if __name__ == "__main__":
    main()
