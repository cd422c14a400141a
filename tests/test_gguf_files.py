"""GGUF files: text is split as in training, and rotary frequencies are scaled as the file says.

Written for transformers 5.23, which reads neither `tokenizer.ggml.pre` of every family, nor
`tokenizer.ggml.add_space_prefix`, nor `*.rope.scaling.*`, nor the tensor `rope_freqs.weight`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_model
from tokenizers import pre_tokenizers
from transformers import Gemma3TextConfig, Phi3Config, PretrainedConfig, PreTrainedModel
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from spec_rag.errors import UnsupportedModelError
from spec_rag.models.gguf_files import GgufFile, correct_config
from spec_rag.models.loading import LoadedModel, load_model
from spec_rag.text.tokenization import text_ids
from spec_rag.utils.progress import listening

gguf = pytest.importorskip("gguf")

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CONTROL = ["<|im_start|>", "<|im_end|>", "<pad>"]
ORIGINAL = 64  # tokens of the training, before the context was extended


def byte_level(writer: Any, pre: str) -> None:
    """A byte-level vocabulary with the merge of two spaces."""
    tokens = [*CONTROL, *BYTES, "ĠĠ", "19"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(["Ġ Ġ", "1 9"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)


def sentencepiece(writer: Any, space_prefix: bool | None) -> None:
    """A sentencepiece vocabulary of bytes and a few pieces."""
    pieces = ["\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if space_prefix is not None:
        writer.add_add_space_prefix(space_prefix)


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in the order in which llama.cpp keeps the queries and keys of Llama."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def written(
    path: Path,
    model: PreTrainedModel,
    tokenizer: Callable[[Any], None],
    more: Callable[[Any], None] = lambda writer: None,
    context: int = 4096,
) -> Path:
    """The model as a GGUF file of Llama's architecture."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokenizer(writer)
    more(writer)
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for i in range(config.num_hidden_layers):
        tensors |= {f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in names.items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = model.state_dict()
    for theirs, ours in tensors.items():
        weight, kind = state[f"{theirs}.weight"], ours.split(".")[-1]
        writer.add_tensor(f"{ours}.weight", (permuted(weight, heads[kind]) if kind in heads else weight).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_file(path: Path, pre: str = "gpt-2", more: Callable[[Any], None] = lambda writer: None) -> LoadedModel:
    """A random model of a GGUF file with a byte-level vocabulary, loaded."""
    return load_model(
        written(path / "tiny.gguf", tiny_model(vocab_size=261), lambda writer: byte_level(writer, pre), more)
    )


def same_as(path: Path, rope: dict[str, Any], more: Callable[[Any], None]) -> LoadedModel:
    """The model of a GGUF file, which computes what the model of these rope parameters does, far beyond ORIGINAL."""
    original = tiny_model(vocab_size=261, rope_parameters={"rope_theta": 10000.0, **rope})
    file = written(path / "tiny.gguf", original, lambda writer: byte_level(writer, "gpt-2"), more)
    loaded = load_model(file)
    ids = random_ids(3 * ORIGINAL)[None]
    with torch.inference_mode():
        expected, plain = original(ids).logits, tiny_model(vocab_size=261)(ids).logits
        found = loaded.model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (plain - expected).abs().max() > 0.1, "without the scaling it computes something else"
    return loaded


# tokenizers


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"])
def test_digits_are_tokens_of_their_own_and_spaces_before_them_stay_together(tmp_path: Path, pre: str) -> None:
    tokenizer = tiny_file(tmp_path, pre).tokenizer
    assert tokenizer is not None
    assert tokenizer.tokenize("a  1911") == ["a", "ĠĠ", "1", "9", "1", "1"]


@pytest.mark.parametrize(("pre", "pieces"), [("stablelm2", ["1", "9", "1", "1"]), ("gpt-2", ["19", "1", "1"])])
def test_other_families_split_digits_in_their_way(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    tokenizer = tiny_file(tmp_path, pre).tokenizer
    assert tokenizer is not None
    assert tokenizer.tokenize("1911") == pieces


@pytest.mark.parametrize(("pre", "warns"), [("viking", True), ("gpt-2", False), ("llama-bpe", False), ("qwen2", False)])
def test_a_pre_tokenizer_that_nobody_knows_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pre: str, warns: bool
) -> None:
    with caplog.at_level(logging.WARNING, "spec_rag"):
        tiny_file(tmp_path, pre)
    assert any(f"pre-tokenizer {pre!r} is read as GPT-2's" in line for line in caplog.messages) == warns


@pytest.mark.parametrize(("space_prefix", "first"), [(False, "ab"), (True, "\u2581ab"), (None, "\u2581ab")])
def test_a_sentencepiece_text_begins_with_a_space_only_where_the_file_says_so(
    tmp_path: Path, space_prefix: bool | None, first: str
) -> None:
    file = tmp_path / "tiny.gguf"
    model = tiny_model(vocab_size=265)
    tokenizer = load_model(written(file, model, lambda writer: sentencepiece(writer, space_prefix))).tokenizer
    assert tokenizer is not None
    assert tokenizer.tokenize("ab") == [first]
    for text in ("ab", " ab", "a b  ab é", "  ") if space_prefix is False else ("ab", "a b  ab é"):
        assert tokenizer.decode(text_ids(tokenizer, text)) == text


def test_the_default_draft_splits_numbers_as_its_training_did(smollm2: Any) -> None:
    tokenizer = smollm2.require_tokenizer()
    assert tokenizer.tokenize("a  1911") == ["a", "ĠĠ", "1", "9", "1", "1"]
    table = "| year | births |\n|------|--------|\n| 1901 |    312 |\n| 1911 |    334 |\n"
    assert len(text_ids(tokenizer, table)) == 38


# rotary frequencies


def test_yarn_is_read(tmp_path: Path) -> None:
    def more(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL)

    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
    loaded = same_as(tmp_path, rope, more)
    assert loaded.context_tokens == 4096


def test_the_details_of_yarn_are_read(tmp_path: Path) -> None:
    def more(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(8.0)
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
        writer.add_rope_scaling_yarn_beta_fast(16.0)
        writer.add_rope_scaling_yarn_beta_slow(2.0)

    rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": ORIGINAL}
    same_as(tmp_path, {**rope, "beta_fast": 16.0, "beta_slow": 2.0}, more)


def test_linear_scaling_is_read(tmp_path: Path) -> None:
    def more(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    same_as(tmp_path, {"rope_type": "linear", "factor": 4.0}, more)


def llama3() -> dict[str, Any]:
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL}
    return {"rope_type": "llama3", "factor": 8.0, **bounds}


def frequencies(writer: Any) -> None:
    """The factors of Llama 3.1's scaling, as files of it have them."""
    scaled = tiny_model(vocab_size=261, rope_parameters={"rope_theta": 10000.0, **llama3()})
    plain, divided = (model.model.rotary_emb.inv_freq for model in (tiny_model(vocab_size=261), scaled))
    writer.add_tensor("rope_freqs.weight", (plain / divided).numpy())


def test_the_frequencies_of_llama_3_1_are_read(tmp_path: Path) -> None:
    same_as(tmp_path, llama3(), frequencies)


def test_the_first_layers_alone_have_the_same_frequencies(tmp_path: Path) -> None:
    file = written(tmp_path / "a.gguf", tiny_model(vocab_size=261), lambda w: byte_level(w, "gpt-2"), frequencies)
    shallow, whole = load_model(file, layers=2), load_model(file, {"dtype": "float32"})
    assert shallow.loaded_layers == 2
    first, second = (loaded.model.model.rotary_emb.inv_freq for loaded in (shallow, whole))
    assert torch.equal(first, second)


def config_of(path: Path, config: PretrainedConfig, architecture: str, fill: Callable[[Any], None]) -> PretrainedConfig:
    """The config, corrected by a file of that architecture without weights."""
    writer = gguf.GGUFWriter(str(path), architecture)
    byte_level(writer, "gpt-2")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    correct_config(config, GgufFile.read(path))
    return config


def test_longrope_and_partial_rotation_are_read(tmp_path: Path) -> None:
    def fill(writer: Any) -> None:
        writer.add_rope_dimension_count(12)
        writer.add_rope_scaling_orig_ctx_len(4096)
        writer.add_rope_scaling_attn_factors(1.25)
        for name, first in (("short", 1.0), ("long", 2.0)):
            writer.add_tensor(f"rope_factors_{name}.weight", torch.arange(first, first + 6).numpy())

    config = Phi3Config(hidden_size=64, num_attention_heads=4, max_position_embeddings=131072, pad_token_id=0)
    config = config_of(tmp_path / "a.gguf", config, "phi3", fill)
    rope = config.rope_parameters
    assert (rope["rope_type"], rope["original_max_position_embeddings"]) == ("longrope", 4096)
    assert (rope["short_factor"], rope["long_factor"][0]) == ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2.0)
    assert (rope["attention_factor"], rope["partial_rotary_factor"]) == (1.25, 0.75)
    assert config.original_max_position_embeddings == 4096
    assert Phi3RotaryEmbedding(config).inv_freq.shape == (6,)


def test_of_two_kinds_of_layers_the_full_ones_are_scaled(tmp_path: Path) -> None:
    def fill(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)

    config = config_of(tmp_path / "a.gguf", Gemma3TextConfig(), "gemma3", fill)
    full, sliding = (config.rope_parameters[f"{kind}_attention"] for kind in ("full", "sliding"))
    assert (full["rope_type"], full["factor"], full["rope_theta"]) == ("linear", 8.0, 1_000_000.0)
    assert (sliding["rope_type"], sliding["rope_theta"]) == ("default", 10_000.0)


def test_scaling_that_cannot_be_expressed_limits_the_context_and_names_both_lengths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def more(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(1024)
        writer.add_rope_scaling_yarn_ext_factor(0.5)

    with caplog.at_level(logging.WARNING, "spec_rag"):
        loaded = tiny_file(tmp_path, more=more)
    assert loaded.context_tokens == 1024
    assert any("limited to the 1024 tokens" in line and "the 4096 that it states" in line for line in caplog.messages)


def test_scaling_of_an_unknown_original_length_is_refused(tmp_path: Path) -> None:
    def more(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)

    with pytest.raises(UnsupportedModelError, match=r"'longrope'.*for which part of its 4096 tokens"):
        tiny_file(tmp_path, more=more)


@pytest.mark.parametrize("kind", ["NONE", None])
def test_a_file_without_scaling_is_left_as_it_is(tmp_path: Path, kind: str | None) -> None:
    def more(writer: Any) -> None:
        if kind is not None:
            writer.add_rope_scaling_type(gguf.RopeScalingType[kind])

    loaded = tiny_file(tmp_path, more=more)
    assert loaded.model.config.rope_parameters["rope_type"] == "default"
    assert loaded.context_tokens == 4096


# reading


def test_reading_a_file_says_how_far_it_is_and_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int, int]] = []
    with listening(lambda *what: told.append(what)):
        tiny_file(tmp_path)
    assert told[0] == ("Reading tiny.gguf", 0, 39)
    assert told[-1] == ("Reading tiny.gguf", 39, 39)
    assert capfd.readouterr().err == ""
