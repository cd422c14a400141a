"""Which decoder-only families of the installed transformers work with SpecPC, SpecKV and compress, by trying them.

Each family is built tiny and random from its own config class. It works if its attention is captured in every layer
and if decoding from a pruned cache that dropped nothing gives the dense tokens; else it is refused, with the reason.
Families that work are also tried as drafts of `compress`.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from spec_rag.compression.compress import compress
from spec_rag.errors import UnsupportedModelError
from spec_rag.generation.generate import generate, score_prompt
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig

PROMPT_TOKENS = 72
_SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "sliding_window": 64,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 128,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "n_inner": 64,
    "ffn_dim": 64,
    "word_embed_proj_dim": 64,
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "rotary_dim": 8,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
# latent attention: as many KV heads as heads, and rotary embedding on a part of a head
_SMALL_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 8}


@dataclass(frozen=True)
class Finding:
    """Result for one family: `works`, or the reason; families that are not `built` or do not run were not tried.

    Attributes:
        error: the error of transformers, where it cannot build or run the family.
        compress_error: why `compress` refuses the family as a draft; "" where it works.
    """

    family: str
    works: bool
    reason: str = ""
    built: bool = True
    error: str = ""
    compress_error: str = ""


def families() -> list[str]:
    """Model types that transformers can build for causal language modelling."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str) -> Any:
    """The family's config with every known size made small; sizes it does not have are left out."""
    defaults = AutoConfig.for_model(family)
    sizes = _SMALL | (_SMALL_LATENT if hasattr(defaults, "kv_lora_rank") else {})
    known = {name: value for name, value in sizes.items() if hasattr(defaults, name)}
    config = AutoConfig.for_model(family, **known)
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type"):
        listed = getattr(config, name, None)
        if isinstance(listed, list) and len(listed) != 2:
            setattr(config, name, listed[:1] + listed[-1:])
    return config


def try_family(family: str, max_parameters: int = 20_000_000) -> Finding:
    """Build the family tiny and run SpecPC and SpecKV on it."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(0)
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(tiny_config(family)).parameters())
            if size > max_parameters:
                return Finding(family, False, f"cannot be built tiny: {size:,} parameters remain", built=False)
            model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32).eval()
        except Exception as error:
            return Finding(
                family, False, "cannot be built tiny from its config alone", built=False, error=_short(error)
            )
        if kinds := other_layers(family):
            return Finding(family, False, f"has layers of type {', '.join(sorted(kinds))}")
        try:
            causal = _is_causal(model)
        except Exception as error:
            return Finding(family, False, "does not run by itself", built=False, error=_short(error))
        if not causal:
            return Finding(family, False, "reads ahead: no decoder, or not without further settings")
        try:
            return _check(family, ModelPair(draft=model, target=model))
        except UnsupportedModelError as error:
            return Finding(family, False, str(error))
        except Exception as error:
            return Finding(family, False, "fails", error=_short(error))


def other_layers(family: str) -> set[str]:
    """Kinds of layers, in the family's own default size, that hold something other than keys and values."""
    kinds = getattr(AutoConfig.for_model(family).get_text_config(decoder=True), "layer_types", None) or []
    return set(kinds) - {"full_attention", "sliding_attention"}


def _check(family: str, pair: ModelPair) -> Finding:
    prompt = _prompt()
    dense = generate(pair, prompt, max_new_tokens=6).output_ids
    score = score_prompt(pair, prompt, SpecPCConfig(max_capacity_prompt=40, window_size=16, starting_layer_index=0))
    if not bool(torch.isfinite(score.importance).all()) or len(score.selected) != 40:
        return Finding(family, False, "importance is not finite")
    whole = SpecKVConfig(max_capacity_prompt=PROMPT_TOKENS - 1, window_size=16, lookahead="none")
    if generate(pair, prompt, speckv=whole, max_new_tokens=6).output_ids != dense:
        return Finding(family, False, "decoding with every pair kept is not the dense decoding")
    pruned = generate(pair, prompt, speckv=SpecKVConfig(max_capacity_prompt=32, window_size=8), max_new_tokens=6)
    if any(len(head) != 32 for layer in pruned.kept_positions for head in layer):
        return Finding(family, False, "a layer does not hold its capacity")
    return Finding(family, True, compress_error=_compress_error(pair.target))


def _compress_error(draft: Any) -> str:
    """Why `compress` refuses a model as its draft, or ""; a model that is refused must work with scoring="joint"."""
    words = Tokenizer(models.WordLevel({"?": 0} | {f"w{i}": i for i in range(1, 128)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    texts = [" ".join(f"w{10 * i + j}" for j in range(10)) + "." for i in range(1, 5)]
    settings: dict[str, Any] = {"draft": draft, "tokenizer": tokenizer, "ratio": 0.5, "calibration": None}
    try:
        compress(texts, "w11 w25", **settings)
    except UnsupportedModelError as error:
        compress(texts, "w11 w25", scoring="joint", **settings)
        return re.sub(r"^draft=.* of type \S+ has", "The draft has", str(error).split(": choose another draft")[0])
    return ""


def _prompt() -> torch.Tensor:
    return torch.randint(3, 120, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1))


def _is_causal(model: PreTrainedModel) -> bool:
    """Whether the first half's logits stay as they are when the second half changes."""
    prompt = _prompt()
    half = len(prompt) // 2
    changed = prompt.clone()
    changed[half:] = changed[half:].flip(0)
    with torch.no_grad():
        first, second = (model(ids[None]).logits[0, :half] for ids in (prompt, changed))
    return bool(torch.allclose(first, second, atol=1e-4))


def _short(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:110]}"


def as_markdown(findings: list[Finding]) -> str:
    """The page that lists what works and what is refused."""
    works = [finding.family for finding in findings if finding.works]
    refused = [finding for finding in findings if finding.built and not finding.works]
    no_compress = [finding for finding in findings if finding.works and finding.compress_error]
    unbuilt = [finding for finding in findings if not finding.built]
    lines = [
        "# Architectures",
        "",
        f"Tried with transformers {transformers.__version__}: every decoder-only family that can be built tiny and "
        f"random from its own config. With SpecPC and SpecKV {len(works)} work and {len(refused)} are refused. "
        f"{len(unbuilt)} could not be built that way or do not run by themselves, so they were not tried.",
        "",
        "Works: " + ", ".join(f"`{family}`" for family in works) + ".",
        "",
        f"As a draft of `compress`, {len(works) - len(no_compress)} of these work. The others are refused there, and "
        'work with `scoring="joint"`:',
        "",
        "| refused by `compress` | reason |",
        "|---|---|",
        *(f"| `{f.family}` | {f.compress_error.replace('|', '/')} |" for f in no_compress),
    ]
    for heading, found in (("refused", refused), ("not tried", unbuilt)):
        lines += ["", f"| {heading} | reason |", "|---|---|"]
        lines += [f"| `{f.family}` | {f.reason.replace('|', '/')} |" for f in found]
    return "\n".join(lines) + "\n"
