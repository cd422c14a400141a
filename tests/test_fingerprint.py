"""Which weights a model has: every tensor takes part, and where it was loaded from does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from spec_rag import DocumentIndex, compress
from spec_rag.compression.document_draft import Draft
from spec_rag.models.fingerprint import fingerprint, quick_checksum
from spec_rag.models.model_config import keep_first_layers

LAYERS = 4


def scale_first_layer(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for parameter in model.get_decoder().layers[0].parameters():
            parameter.mul_(3)


def one_number_in_the_middle(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.up_proj.weight[17, 5] += 1e-3


def one_embedding(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[300] *= 2


def replaced_tensor(model: PreTrainedModel) -> None:
    projection = model.get_decoder().layers[2].self_attn.v_proj
    projection.weight = torch.nn.Parameter(projection.weight.detach() + 1)


def through_data(model: PreTrainedModel) -> None:
    model.get_decoder().layers[0].self_attn.q_proj.weight.data.mul_(1.5)


CHANGES: list[Callable[[PreTrainedModel], None]] = [
    scale_first_layer,
    one_number_in_the_middle,
    one_embedding,
    replaced_tensor,
    through_data,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_tensor_is_another_fingerprint_also_in_place(change: Any) -> None:
    model = tiny_model(layers=LAYERS)
    before = fingerprint(model, LAYERS, LAYERS)
    assert fingerprint(model, LAYERS, LAYERS) == before
    other = copy.deepcopy(model)
    assert fingerprint(other, LAYERS, LAYERS) == before
    change(model)
    assert fingerprint(model, LAYERS, LAYERS) != before
    change(other)
    assert fingerprint(other, LAYERS, LAYERS) == fingerprint(model, LAYERS, LAYERS)


def test_layers_that_are_not_read_do_not_take_part() -> None:
    model = tiny_model(layers=LAYERS)
    before = [fingerprint(model, depth, LAYERS) for depth in (2, 3, LAYERS)]
    replaced_tensor(model)  # in the third layer
    after = [fingerprint(model, depth, LAYERS) for depth in (2, 3, LAYERS)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]
    assert len({*before, *after}) == 5


def test_the_output_head_takes_part_where_the_whole_model_is_read() -> None:
    model = tiny_model(layers=LAYERS)
    before = [fingerprint(model, depth, LAYERS) for depth in (3, LAYERS)]
    with torch.no_grad():
        model.get_output_embeddings().weight[5] += 1
    after = [fingerprint(model, depth, LAYERS) for depth in (3, LAYERS)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_the_first_layers_loaded_alone_have_the_fingerprint_of_the_whole_model_at_that_depth(tmp_path: Path) -> None:
    whole = tiny_model(layers=LAYERS)
    whole.save_pretrained(tmp_path)
    config = copy.deepcopy(whole.config)
    keep_first_layers(config, 2)
    shallow = AutoModelForCausalLM.from_pretrained(tmp_path, config=config)
    assert len(shallow.get_decoder().layers) == 2
    assert fingerprint(shallow, 2, LAYERS) == fingerprint(whole, 2, LAYERS)
    moved = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert fingerprint(moved, LAYERS, LAYERS) == fingerprint(whole, LAYERS, LAYERS)


def test_the_same_numbers_in_another_precision_or_under_another_config_are_another_model() -> None:
    model = tiny_model(layers=LAYERS)
    assert fingerprint(model.to(torch.bfloat16), LAYERS, LAYERS) != fingerprint(
        tiny_model(layers=LAYERS), LAYERS, LAYERS
    )
    other = tiny_model(layers=LAYERS)
    other.config.rms_norm_eps = 1e-3
    assert fingerprint(other, LAYERS, LAYERS) != fingerprint(tiny_model(layers=LAYERS), LAYERS, LAYERS)


def test_a_glimpse_stays_while_nothing_changes_and_moves_with_any_tensor() -> None:
    model = tiny_model(layers=LAYERS)
    seen = quick_checksum(model, 2)
    assert quick_checksum(model, 2) == seen
    replaced_tensor(model)
    assert quick_checksum(model, 2) == seen
    through_data(model)
    assert quick_checksum(model, 2) != seen


@pytest.mark.parametrize("change", [scale_first_layer, one_embedding])
def test_a_changed_draft_finds_nothing_in_the_index(tmp_path: Path, change: Any) -> None:
    texts = ["One is red. Two is blue.", "Three is green. Four is grey."]
    model, tokenizer = tiny_model(layers=LAYERS), tiny_tokenizer()

    def hits() -> int:
        index = DocumentIndex(tmp_path)
        draft = Draft(model, tokenizer, "tiny", LAYERS)
        compress(texts, "Which?", draft=draft, ratio=0.5, index=index)
        return index.hits

    assert [hits(), hits()] == [0, 2]
    change(model)
    assert [hits(), hits()] == [0, 2]
