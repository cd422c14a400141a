"""Tiny random models and a tokenizer without a download, for tests of behaviour."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from spec_rag import Answer, ModelPair
from spec_rag.generation.generate import answer_together
from spec_rag.generation.request import GenerationRequest

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# what a random model of a family needs beside its sizes
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "gemma3_text": {
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
    },
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and ChatML's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", "<pad>", *alphabet])}
    for word in ("the", "and", string.ascii_lowercase[:3]):
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(kind: str = "llama", seed: int = 0, layers: int = 4, **overrides: object) -> PreTrainedModel:
    """A random decoder of that architecture; float32, 4 heads over 2 KV heads."""
    settings: dict[str, object] = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **overrides,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
    # random embeddings tied to the output repeat their input for ever; an untied head wanders
    return model.eval()


def tiny_pair(kind: str = "llama", **overrides: object) -> ModelPair:
    """A draft and a target of one family with the tiny tokenizer."""
    return ModelPair(
        draft=tiny_model(kind, seed=1, **overrides),
        target=tiny_model(kind, seed=2, layers=3, **overrides),
        tokenizer=tiny_tokenizer(),
        draft_name="tiny-draft",
        target_name="tiny-target",
    )


def target_only(kind: str = "llama") -> ModelPair:
    """A target of that family without a draft."""
    return ModelPair(target=tiny_model(kind, seed=3, layers=3, **FAMILIES[kind]))


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The folder, with the model and the tiny tokenizer in it."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    """int64 [count], without special tokens."""
    return torch.randint(10, 250, (count,), generator=torch.Generator().manual_seed(seed))


def generate_together(pair: ModelPair, prompt: Any, *settings: Any, **options: Any) -> Answer:
    """`generate` in one batch with other threads' requests, as applications use it."""
    return answer_together(GenerationRequest.of(pair, [prompt], *settings, **options))
