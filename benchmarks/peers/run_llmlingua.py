"""Texts that LLMLingua and LongLLMLingua keep of the documents, with the same draft that spec-rag reads with.

`budget` is the share of the documents' tokens that is kept; instruction and question come on top, as in spec-rag.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exchange import arguments, run, run_timings, seconds

METHODS: dict[str, dict[str, Any]] = {
    "LLMLingua": {},
    "LongLLMLingua": {
        "condition_in_question": "after_condition",
        "rank_method": "longllmlingua",
        "reorder_context": "sort",
        "dynamic_context_compression_ratio": 0.3,
        "condition_compare": True,
        "context_budget": "+100",
    },
}


def main() -> None:
    """Run both over the cases."""
    given = arguments(__doc__)
    use_tiktoken_file()
    from llmlingua import PromptCompressor

    with tempfile.TemporaryDirectory() as folder:
        compressor = PromptCompressor(older_checkpoint(given.model, Path(folder)), device_map="cpu")

        version = f"llmlingua {importlib.metadata.version('llmlingua')}"
        if given.timings:
            run_timings(given, "compression", {name: timed(compressor, own) for name, own in METHODS.items()}, version)
        else:
            run(given, {name: kept(compressor, own) for name, own in METHODS.items()}, version)


def kept(compressor: Any, settings: dict[str, Any]) -> Callable[[dict[str, Any], float], dict[str, Any]]:
    """A method that keeps text of a case's documents."""

    def method(case: dict[str, Any], share: float) -> dict[str, Any]:
        documents = [f"{d['title']}\n{d['text']}" if d["title"] else d["text"] for d in case["documents"]]
        found = compressed(compressor, documents, case, share, settings)
        return {"kept": found["compressed_prompt"], "tokens": found["compressed_tokens"]}

    return method


def timed(compressor: Any, settings: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, float]]:
    """A method that tells its seconds, and beside them those of reading the documents as one prompt."""

    def joint(case: dict[str, Any]) -> object:
        with torch.no_grad():
            return compressor.model.model(input_ids=torch.tensor([case["joint_ids"]]), use_cache=True)

    def method(line: dict[str, Any]) -> dict[str, float]:
        taken = []
        for case in [line["questions"][0], *line["questions"]]:
            ask = partial(compressed, compressor, case["documents"], case, line["share"], settings)
            taken.append((seconds(ask), seconds(partial(joint, case))))
        own, plain = zip(*taken[1:], strict=True)  # the first warms up
        return {"seconds": statistics.median(own), "joint_seconds": statistics.median(plain)}

    return method


def compressed(
    compressor: Any, documents: list[str], case: dict[str, Any], share: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """What the peer keeps of documents for a question, at a share of their tokens."""
    found: dict[str, Any] = compressor.compress_prompt(
        documents,
        question=case["question"],
        target_token=int(share * case["document_tokens"]),
        concate_question=False,
        **settings,
    )
    return found


def older_checkpoint(folder: Path, into: Path) -> str:
    """The checkpoint with configs for transformers 4: the rotary base and the tokenizer under their old names."""
    rewritten = ("config.json", "tokenizer_config.json")
    for file in folder.iterdir():
        if file.name not in rewritten:
            (into / file.name).symlink_to(file)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (into / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_theta"] = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 10000.0))
    config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    (into / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(into)


def use_tiktoken_file() -> None:
    """Let tiktoken find the tokenizer file that llama-index-core ships, copied because tiktoken may rewrite it."""
    spec = importlib.util.find_spec("llama_index.core")
    shipped = Path(next(iter(spec.submodule_search_locations or ()))) / "_static" / "tiktoken_cache" if spec else None
    if shipped and shipped.is_dir() and "TIKTOKEN_CACHE_DIR" not in os.environ:
        folder = Path(tempfile.mkdtemp())
        shutil.copytree(shipped, folder, dirs_exist_ok=True)
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)


if __name__ == "__main__":
    main()
