"""A draft with weights of eight bits."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from tiny import saved, tiny_model
from torch import nn

from spec_rag import DocumentIndex, LoadOptions, compress
from spec_rag.errors import ConfigError
from spec_rag.models.fingerprint import fingerprint
from spec_rag.models.int8 import Int8Linear, quantize_linears
from spec_rag.models.loading import load_model, unload_models

INT8 = LoadOptions(quantize="int8", device="cpu")
TEXTS = [
    "The lighthouse was built in 1871. Its lamp is old. It is white.",
    "Bread is warm. The baker is Fenn. Snow fell.",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tiny_model(layers=6), tmp_path)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_says_almost_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(96, 64, bias=bias), torch.randn(3, 5, 96)
    rounded = Int8Linear(layer)
    assert rounded(x).shape == (3, 5, 64)
    assert torch.cosine_similarity(rounded(x), layer(x), dim=-1).min() > 0.999
    assert rounded.weight_int8.dtype == torch.int8
    assert (rounded.weight_int8.float() * rounded.scale[:, None] - layer.weight).abs().max() < 0.002
    for again in (copy.deepcopy(rounded), pickle.loads(pickle.dumps(rounded))):
        assert torch.equal(again(x), rounded(x))


def test_a_row_of_zeros_stays_one() -> None:
    layer = nn.Linear(8, 2, bias=False)
    nn.init.zeros_(layer.weight)
    assert Int8Linear(layer)(torch.randn(1, 8)).tolist() == [[0.0, 0.0]]


def test_every_linear_layer_of_the_decoder_is_rounded_and_the_head_is_not(folder: Path) -> None:
    model = load_model(folder, INT8).model
    kinds = [type(layer) for layer in model.get_decoder().modules() if isinstance(layer, nn.Linear | Int8Linear)]
    assert kinds == [Int8Linear] * (6 * 7)
    assert isinstance(model.get_output_embeddings(), nn.Linear)
    assert load_model(folder, INT8).model is model
    assert load_model(folder, LoadOptions(device="cpu")).model is not model


def test_documents_are_compressed_and_filed_apart_from_those_of_the_whole_weights(folder: Path, tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path / "index")
    settings = {"ratio": 0.5, "index": index, "calibration": None}
    plain = compress(TEXTS, "Who bakes?", draft=str(folder), draft_options=LoadOptions(device="cpu"), **settings)
    read = index.misses
    assert read
    rounded = compress(TEXTS, "Who bakes?", draft=str(folder), draft_options=INT8, **settings)
    assert index.misses == 2 * read, "nothing of the one is taken for the other's"
    assert compress(TEXTS, "Who bakes?", draft=str(folder), draft_options=INT8, **settings).text == rounded.text
    assert index.misses == 2 * read
    assert rounded.tokens_after <= plain.budget_tokens


def test_first_layers_alone_have_the_fingerprint_that_they_have_in_the_whole_model(folder: Path) -> None:
    shallow = load_model(folder, INT8, layers=3).model
    first = fingerprint(shallow, 3, 6)
    unload_models()
    whole = load_model(folder, INT8).model
    assert fingerprint(whole, 3, 6) == first
    assert fingerprint(load_model(folder, LoadOptions(device="cpu")).model, 3, 6) != first


def test_a_model_travels_by_name_and_is_rounded_again_where_it_arrives(folder: Path) -> None:
    loaded = load_model(str(folder), INT8)
    data = pickle.dumps(loaded)
    assert len(data) < 2000
    unload_models()
    again = pickle.loads(data)
    ids = torch.arange(20, 40)[None]
    assert again.options.quantize == "int8"
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)


def test_options_are_written_and_read_and_what_does_not_go_together_is_refused() -> None:
    assert LoadOptions.from_dict(INT8.to_dict()) == INT8
    for wrong, message in (
        ({"quantize": "int4"}, "quantize='int4'"),
        ({"quantize": "int8", "device_map": "auto"}, "without device_map"),
        ({"quantize": "int8", "quantization_config": {"bits": 4}}, "without quantization_config"),
        ({"quantize": "int8", "dtype": "bfloat16"}, "dtype='bfloat16'"),
    ):
        with pytest.raises(ConfigError, match=message):
            LoadOptions(**wrong)


def test_layers_in_lists_and_blocks_are_found() -> None:
    nested = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])})
    assert quantize_linears(nested) == 2
    assert not any(isinstance(one, nn.Linear) for one in nested.modules())
