"""docs/options.md and the README list the options that there are, with their defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from spec_rag import LoadOptions, SpecKVConfig, SpecPCConfig, compress
from spec_rag.options.compression import CompressionOptions

ROOT = Path(__file__).parent.parent
OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
OF_THE_ADAPTERS = {
    "metadata_format": "nested",
    "metadata_mode": "none",
    "keep_empty": False,
    "originals": None,
    "show_handle": False,
    "on_error": "original",
    "deadline_seconds": None,
}


def rows(page: str, heading: str, default_column: int) -> dict[str, object]:
    """Each option of the first table under the heading, with its default."""
    section = page.split(heading, 1)[1].split("\n## ", 1)[0]
    found: dict[str, object] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.match(r"\| `\w", line):
            shown = cells[default_column].strip("`")
            default = SpecKVConfig() if shown == "SpecKVConfig()" else ast.literal_eval(shown)
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), default)
    return found


def defaults(config: type) -> dict[str, object]:
    if issubclass(config, BaseModel):
        return {name: field.default for name, field in config.model_fields.items()}
    return {field.name: field.default for field in dataclasses.fields(config)}


@pytest.mark.parametrize(
    ("config", "heading", "default_column"),
    [
        (SpecPCConfig, "## `SpecPCConfig`", 1),
        (SpecKVConfig, "## `SpecKVConfig`", 1),
        (LoadOptions, "## `LoadOptions`", 1),
    ],
)
def test_the_page_lists_a_config_s_fields_with_their_defaults(config: type, heading: str, default_column: int) -> None:
    assert rows(OPTIONS, heading, default_column) == defaults(config)


def test_the_page_lists_what_compress_and_the_compressors_take() -> None:
    parameters = inspect.signature(compress).parameters.values()
    own = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert rows(OPTIONS, "## `compress`", 1) == own | defaults(CompressionOptions) | OF_THE_ADAPTERS


def test_the_page_lists_what_both_compressors_take() -> None:
    langchain = pytest.importorskip("langchain_spec_rag").SpecPCCompressor
    llama_index = pytest.importorskip("llama_index.postprocessor.spec_rag").SpecPCCompressor
    listed = rows(OPTIONS, "## `compress`", 1)
    missing = {"tokenizer", "backend", "cancelled"}
    for compressor, not_there in (
        (langchain, missing | {"metadata_mode", "show_handle"}),
        (llama_index, missing | {"metadata_format"}),
    ):
        fields = {name: field for name, field in compressor.model_fields.items() if name in listed}
        assert listed.keys() - fields.keys() == not_there
        given = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        given = {name: None if value == LoadOptions() else value for name, value in given.items()}
        assert given == {name: listed[name] for name in fields}


def test_the_page_lists_the_llms_fields() -> None:
    langchain = pytest.importorskip("langchain_spec_rag")
    llama_index = pytest.importorskip("llama_index.llms.spec_rag")
    base = pytest.importorskip("langchain_core.language_models")
    foreign = base.BaseChatModel.model_fields.keys() | base.BaseLLM.model_fields.keys()
    foreign |= pytest.importorskip("llama_index.core.llms").LLM.model_fields.keys()
    given = {}
    for llm in (langchain.ChatSpecKV, langchain.SpecKVLLM, llama_index.SpecKVLLM):
        for name in llm.model_fields.keys() - foreign:
            default = llm.model_fields[name].get_default(call_default_factory=True)
            given[name] = None if default == LoadOptions() else default
    assert rows(OPTIONS, "## `generate`", 1) == given


def test_the_readme_names_options_that_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Options at a glance")[1]
    first_cells = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    known = rows(OPTIONS, "## `compress`", 1).keys() | {
        "preset",
        "embeddings",
        "embed_model",
        "target",
        "specpc",
        "speckv",
    }
    assert named
    assert named <= known
    assert len(first_cells) <= 8  # a reader's first options; docs/options.md has all
