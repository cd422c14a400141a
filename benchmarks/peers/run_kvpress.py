"""Answers of kvpress's methods: the prompt's cache is pruned, then the answer is written greedily from what is left.

The whole prompt but its last token is read under the press, question included; the last token is the first one that
reads the pruned cache, as in spec-rag. `budget` is the share of pairs that is kept.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import kvpress
import torch
from exchange import arguments, run
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


def main() -> None:
    """Run the presses over the cases."""
    given = arguments(__doc__)
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
        f"kvpress {importlib.metadata.version('kvpress')}",
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
    tokens = ids.shape[1]
    cache = DynamicCache()
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    written: list[int] = []
    with torch.no_grad():
        with press(1 - share, int(share * tokens))(model):
            model.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
        kv_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        last = ids[:, -1:]
        for step in range(case["max_new_tokens"]):
            position = torch.tensor([[tokens - 1 + step]])
            logits = model(input_ids=last, past_key_values=cache, position_ids=position, use_cache=True).logits
            last = logits[:, -1:].argmax(dim=-1)
            written.append(int(last))
            if written[-1] in ends:
                break
    return {"answer": tokenizer.decode(written, skip_special_tokens=True), "kv_bytes": kv_bytes}


if __name__ == "__main__":
    main()
