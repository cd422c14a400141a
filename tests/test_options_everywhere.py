"""Options are the same in the core, both adapters, HTTP, the command line and docs/options.md."""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from spec_rag.cli.ask import ask
from spec_rag.cli.compress import compress as compress_command
from spec_rag.cli.compression_options import DEFAULTS, compression_settings
from spec_rag.cli.index import index
from spec_rag.cli.serve import serve
from spec_rag.errors import ConfigError
from spec_rag.options.compression import (
    CompressionConfig,
    CompressionOptions,
    bounds_of,
    choices_of,
    extra,
)
from spec_rag.options.definitions import fields_of
from spec_rag.options.generation import GenerationOptions
from spec_rag.options.loading import LoadOptions
from spec_rag.options.speckv import SpecKVConfig
from spec_rag.options.specpc import SpecPCConfig
from spec_rag.serving.document_schemas import CompressRequest
from spec_rag.serving.settings import ServerSettings

ROOT = Path(__file__).parent.parent
OPTIONS = CompressionOptions.model_fields
WRONG: dict[str, Any] = {
    "max_tokens": 0,
    "min_tokens": -1,
    "ratio": 1.5,
    "coverage": 0,
    "scoring": "fast",
    "unit": "page",
    "language": "xx",
    "cascade": "sometimes",
    "calibration": " ",
    "keep": ["number"],
    "keep_first": -1,
    "keep_last": -1,
    "context_before": -1,
    "context_after": -1,
    "threshold": float("inf"),
    "document_min_tokens": -1,
    "document_max_tokens": 0,
    "context": "full",
    "order": "random",
    "preset": "papr",
}
"""A value out of range of each option that the command line can give one for."""


def adapters() -> list[type[BaseModel]]:
    return [
        pytest.importorskip("langchain_spec_rag").SpecPCCompressor,
        pytest.importorskip("llama_index.postprocessor.spec_rag").SpecPCCompressor,
    ]


def command_options(command: Any) -> dict[str, tuple[Any, Any]]:
    """Default and typer's option of each parameter of a command."""
    parameters = inspect.signature(command).parameters.values()
    return {one.name: (one.default, get_args(one.annotation)[1]) for one in parameters if get_args(one.annotation)}


def tables_tool() -> Any:
    spec = importlib.util.spec_from_file_location("options_tables", ROOT / "tools" / "options_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_option_is_described_and_has_a_level() -> None:
    for name, field in OPTIONS.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert extra(field)["level"] in ("common", "expert"), name
    assert 1 <= sum(extra(field)["level"] == "common" for field in OPTIONS.values()) <= 8
    assert OPTIONS.keys() - CompressionConfig.model_fields.keys() == {"preset"}


def test_adapters_and_requests_have_the_same_options() -> None:
    for model in (CompressionConfig, CompressRequest, *adapters()):
        fields = model.model_fields
        assert not OPTIONS.keys() - fields.keys() - ({"preset"} if model is CompressionConfig else set()), model
        for name in OPTIONS.keys() & fields.keys():
            mine, other = OPTIONS[name], fields[name]
            assert (other.default, other.description) == (mine.default, mine.description), (model, name)
            assert (other.annotation, bounds_of(other)) == (mine.annotation, bounds_of(mine)), (model, name)


def test_the_api_s_schema_says_defaults_bounds_and_descriptions() -> None:
    properties = CompressRequest.model_json_schema()["properties"]
    for name, field in OPTIONS.items():
        assert properties[name]["description"] == field.description
        assert properties[name]["default"] == json.loads(json.dumps(field.default))
        for keyword, bound in zip(("minimum", "exclusiveMinimum", "maximum"), ("ge", "gt", "le"), strict=True):
            assert (f'"{keyword}"' in json.dumps(properties[name])) == (bound in bounds_of(field)), name
    assert properties["keep"]["items"] == {"type": "string"}


def test_the_command_line_has_the_same_options() -> None:
    options = command_options(compress_command)
    assert not OPTIONS.keys() - options.keys()
    for command in (compress_command, ask, index, serve):
        for name, (default, option) in command_options(command).items():
            # --context of `ask` is a file
            if name in OPTIONS and (command, name) not in ((serve, "index"), (ask, "context")):
                assert option.help == OPTIONS[name].description, (command, name)
                assert default == DEFAULTS.get(name), "an option that is not given has the default of the definition"
    assert compression_settings(language="en") == {}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_out_of_range_is_refused_everywhere(name: str) -> None:
    value = WRONG[name]
    with pytest.raises(ConfigError, match=f"{name}=") as core:
        CompressionConfig.from_dict({name: value})
    with pytest.raises(ConfigError, match=f"{name}="):
        compression_settings(**{name: value})
    with pytest.raises(ConfigError, match=f"{name}="):
        ServerSettings().compression_with({name: value})
    for model in adapters():
        with pytest.raises(ValidationError) as raised:
            model(**{name: value})
        assert str(core.value) in str(raised.value)


def test_a_wrong_value_is_tried_of_every_option_with_bounds_or_choices() -> None:
    flags = {name for name, field in OPTIONS.items() if set(choices_of(field.annotation)) <= {True, False, "auto"}}
    choices = {name for name, field in OPTIONS.items() if choices_of(field.annotation)} - flags
    assert choices | {name for name, field in OPTIONS.items() if bounds_of(field)} <= WRONG.keys()


def test_the_tables_of_the_page_are_those_of_the_definition() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert tables_tool().with_tables(page) == page, "run python tools/options_tables.py"
    for name in OPTIONS:
        assert page.count(f"\n| `{name}` | ") >= 1, name


def llms() -> list[type[BaseModel]]:
    langchain = pytest.importorskip("langchain_spec_rag")
    return [langchain.SpecKVLLM, langchain.ChatSpecKV, pytest.importorskip("llama_index.llms.spec_rag").SpecKVLLM]


def test_the_llms_have_the_same_options_of_generation() -> None:
    for model in llms():
        for name, field in GenerationOptions.model_fields.items():
            other = model.model_fields[name]
            assert (other.default, other.description) == (field.default, field.description), (model, name)
            assert (other.annotation, bounds_of(other)) == (field.annotation, bounds_of(field)), (model, name)


@pytest.mark.parametrize("kind", [SpecPCConfig, SpecKVConfig, LoadOptions])
def test_each_option_of_the_models_is_described_in_help_and_on_the_page(kind: type) -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert f"<!-- options: {kind.__name__} -->" in page
    for name, field in fields_of(kind).items():
        assert field.description is not None
        assert field.description.endswith("."), name
        assert extra(field)["level"] in ("common", "expert"), name
        assert f"    {name}: {field.description}" in (kind.__doc__ or "")
        assert f" {field.description} |" in page, name


@pytest.mark.parametrize("kind", [SpecPCConfig, SpecKVConfig])
def test_each_option_of_the_models_is_validated_by_its_definition(kind: Any) -> None:
    for name, field in fields_of(kind).items():
        if name in kind._unchecked:
            continue
        assert kind(**{name: field.default}) == kind()
        with pytest.raises(ConfigError, match=f"{name}=.*must be"):
            kind(**{name: object()})
        for bound, value in bounds_of(field).items():
            wrong = value + 1 if bound == "le" else value if bound == "gt" else value - 1
            with pytest.raises(ConfigError, match=f"{name}={wrong}: must be"):
                kind(**{name: wrong})


def test_the_former_name_of_an_option_is_accepted_everywhere() -> None:
    assert CompressionConfig(links=False) == CompressionConfig.from_dict({"links": False})
    assert CompressionConfig(links=False).title_links is False
    assert CompressionConfig.overridden({"title_links": True}, {"links": False})["title_links"] is False
    assert CompressRequest(documents=["x"], query="y", links=False).settings() == {"title_links": False}
    for model in adapters():
        assert model(links=False).title_links is False  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"title_links=True and links=False are the same option: give title_links"):
        CompressionConfig(title_links=True, links=False)


def test_a_request_s_null_is_the_server_s_setting_and_the_page_order_is_refused_by_name() -> None:
    body = CompressRequest(documents=["x"], query="y", keep_first=None, ratio=None, preset=None, unit="token")
    assert body.settings() == {"unit": "token"}
    server = ServerSettings(compression=CompressionConfig(ratio=0.5, keep_first=2))
    assert server.compression_with(body.settings()) == CompressionConfig(ratio=0.5, keep_first=2, unit="token")
    with pytest.raises(ConfigError, match="order='relevance'"):
        server.compression_with({"order": "relevance"})


def test_a_config_is_frozen_compared_by_value_hashed_shown_and_pickled() -> None:
    config = CompressionConfig(max_tokens=5, keep="numbers")
    assert config == CompressionConfig(keep=["numbers"], max_tokens=5) != CompressionConfig()
    assert {config: 1}[CompressionConfig(keep=("numbers",), max_tokens=5)] == 1
    assert pickle.loads(pickle.dumps(config)) == config
    assert str(config).startswith("CompressionConfig(max_tokens=5, ")
    assert config.changed(unit="token").unit == "token"
    with pytest.raises(ConfigError, match="unit='page'"):
        config.changed(unit="page")
    with pytest.raises(ValidationError, match="frozen"):
        config.unit = "token"
    with pytest.raises(ConfigError, match="no field 'ratios': did you mean 'ratio'"):
        CompressionConfig(ratios=0.5)
