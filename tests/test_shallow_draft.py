"""A draft that is loaded only as deep as the score needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import saved, tiny_model, tiny_tokenizer
from transformers import AutoConfig

from spec_rag import compress
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.errors import ConfigError
from spec_rag.models.loading import LoadedModel, load_model, unload_models
from spec_rag.models.model_config import decoder_layers, keep_first_layers

TEXTS = [
    "The harbour opens at six. Its keeper is Odalys Fenn. Gulls sleep on the wall.",
    "Bread is baked at night. The oven stands in the yard. Nobody knows its age.",
]


@pytest.fixture(params=["llama", "gemma3_text"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    yield saved(tiny_model(request.param, layers=6), tmp_path / "tiny")
    unload_models()


def kept(folder: Path | LoadedModel, **settings: object) -> tuple[str, list[float]]:
    compression = compress(TEXTS, "Who keeps the harbour?", draft=folder, ratio=0.5, **settings)
    return compression.text, [unit.importance for document in compression.documents for unit in document.units]


def test_layers_above_the_last_useful_one_are_not_loaded(folder: Path) -> None:
    kept(folder)
    shallow = load_model(folder, layers=1)
    assert (shallow.loaded_layers, shallow.total_layers) == (4, 6)
    assert len(shallow.model.get_decoder().layers) == 4


def test_a_shallow_draft_scores_as_the_whole_one(folder: Path) -> None:
    few = kept(folder)
    assert load_model(folder, layers=4).loaded_layers == 4
    unload_models()
    whole = load_model(folder)
    assert load_model(folder, layers=4) is whole
    assert kept(whole)[0] == few[0]
    assert kept(whole)[1] == pytest.approx(few[1], abs=1e-5)


def test_what_a_whole_draft_indexed_serves_a_shallow_one(folder: Path, tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path / "index")
    kept(load_model(folder), index=index)
    unload_models()
    again = DocumentIndex(tmp_path / "index")
    kept(folder, index=again)
    assert (again.hits, again.misses) == (2, 0)


def test_other_weights_find_nothing_in_the_index(folder: Path, tmp_path: Path) -> None:
    kept(folder, index=DocumentIndex(tmp_path / "index"))
    unload_models()
    other = load_model(folder).model
    next(other.get_decoder().layers[3].parameters()).data += 1
    again = DocumentIndex(tmp_path / "index")
    kept(LoadedModel(other, tiny_tokenizer(), "other"), index=again)
    assert again.hits == 0


def test_a_draft_with_too_few_layers_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibration='shipped' needs 4 layers .* of which 3 are loaded"):
        kept(load_model(folder, layers=3))


def test_a_joint_prompt_after_a_shallow_reading_loads_the_rest(folder: Path) -> None:
    kept(folder)
    assert kept(folder, scoring="joint")[0]
    assert load_model(folder, layers=4).loaded_layers == 6


def test_leaving_layers_out_is_silent(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        load_model(folder, layers=4)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_settings_per_layer_are_cut_with_the_layers() -> None:
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=6)
    keep_first_layers(config, 4)
    assert decoder_layers(config) == len(config.layer_types) == 4
