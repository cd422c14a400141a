"""Settings by name: in the core, in both adapters, and on the command line."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_pair

from spec_rag import compress
from spec_rag.cli.compression_options import compression_settings
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.presets import COMPRESSION_PRESETS, with_preset

TEXTS = [f"Hut {i} sleeps {i + 4}. Its warden is number {i * 31}. The stove burns oak." for i in range(8)]
QUERY = "Who is the warden of hut 3?"


@pytest.mark.parametrize("name", COMPRESSION_PRESETS)
def test_a_preset_is_its_settings(name: str) -> None:
    assert CompressionConfig.from_dict({"preset": name}) == CompressionConfig(**COMPRESSION_PRESETS[name])
    assert CompressionConfig.from_dict({"preset": name, "unit": "document"}).unit == "document"
    pair = tiny_pair(num_hidden_layers=8)
    by_name = compress(TEXTS, QUERY, draft=pair, ratio=0.3, preset=name)
    assert by_name.text == compress(TEXTS, QUERY, draft=pair, ratio=0.3, **COMPRESSION_PRESETS[name]).text


def test_presets_differ_in_what_they_keep() -> None:
    pair = tiny_pair(num_hidden_layers=8)
    kept = {compress(TEXTS, QUERY, draft=pair, ratio=0.4, preset=name).text for name in COMPRESSION_PRESETS}
    assert len(kept) == len(COMPRESSION_PRESETS)


def test_the_papers_preset_is_one_prompt_and_single_tokens() -> None:
    config = CompressionConfig.from_dict({"preset": "paper"})
    assert (config.scoring, config.unit, config.title_links, config.calibration) == ("joint", "token", False, None)


def test_what_is_given_changes_the_preset_and_none_of_both_is_touched() -> None:
    given = {"preset": "paper", "retrieval": True}
    assert with_preset(given)["retrieval"] is True
    assert given == {"preset": "paper", "retrieval": True}
    assert COMPRESSION_PRESETS["paper"]["retrieval"] is False


def test_a_removed_option_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="likelihood=False: this option was removed, since the score no longer uses"):
        compress(TEXTS, QUERY, draft=tiny_pair(), likelihood=False)


def test_an_unknown_preset_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"preset='papr': must be one of 'default', 'paper'"):
        compress(TEXTS, QUERY, draft=tiny_pair(), preset="papr")


def test_langchain_s_compressor_takes_a_preset_and_keeps_its_name() -> None:
    compressor = pytest.importorskip("langchain_spec_rag").SpecPCCompressor
    paper = compressor(preset="paper", title_links=True)
    assert (paper.preset, paper.scoring, paper.unit, paper.title_links) == ("paper", "joint", "token", True)
    assert compressor(**paper.to_json()["kwargs"]) == paper
    pair = tiny_pair(num_hidden_layers=8)
    from langchain_core.documents import Document

    documents = [Document(text) for text in TEXTS]
    given = {"documents": documents, "query": QUERY}
    now = [d.page_content for d in compressor(draft=pair, ratio=0.4).invoke(given, preset="paper")]
    before = [d.page_content for d in compressor(draft=pair, ratio=0.4, preset="paper").invoke(given)]
    assert now == before
    with pytest.raises(ValueError, match="preset='papr'"):
        compressor(preset="papr")


def test_llama_index_s_compressor_takes_a_preset_and_keeps_its_name() -> None:
    compressor = pytest.importorskip("llama_index.postprocessor.spec_rag").SpecPCCompressor
    paper = compressor(preset="paper")
    assert (paper.preset, paper.scoring, paper.unit) == ("paper", "joint", "token")
    again = compressor.from_dict(json.loads(json.dumps(paper.to_dict())))
    assert (again.preset, again.scoring, again.unit) == ("paper", "joint", "token")


def test_the_commands_read_only_what_was_given_over_the_preset() -> None:
    settings = compression_settings(preset="paper", unit=None, calibration=None, ratio=0.5)
    assert CompressionConfig.from_dict(settings) == CompressionConfig.from_dict({"preset": "paper", "ratio": 0.5})
    assert compression_settings(calibration="none") == {"calibration": None}
    assert compression_settings() == {}
