"""The default draft of the installed wheel: where it stops, and what is refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from spec_rag.errors import MissingDependencyError, ModelNotFoundError
from spec_rag.models import bundled_draft, checkpoints
from spec_rag.options.loading import LoadOptions


def named(tokenizer: Any, **settings: Any) -> GenerationConfig:
    """What a model with this generation config has when its ends were named."""
    model = SimpleNamespace(generation_config=GenerationConfig(**settings))
    bundled_draft.name_end_of_turn(model, tokenizer)
    return model.generation_config


def test_a_model_stops_where_its_template_ends_a_turn_also_where_its_file_names_another_end() -> None:
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert named(tokenizer, eos_token_id=5).eos_token_id == end
    assert named(tokenizer).eos_token_id == end
    assert named(tokenizer, eos_token_id=[5, end]).eos_token_id == [5, end], "it is among them"
    tokenizer.chat_template = "{{ messages }}</s>"
    assert named(tokenizer, eos_token_id=5).eos_token_id == 5, "the template ends turns with something else"


def test_an_end_of_turn_that_the_tokenizer_takes_for_text_is_left_out_of_answers() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<pad>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in tokenizer.all_special_ids
    named(tokenizer, eos_token_id=end)
    assert tokenizer.eos_token == "<|im_end|>"


def test_padding_is_named_where_nobody_has_named_it() -> None:
    tokenizer = tiny_tokenizer()
    assert named(tokenizer).pad_token_id == tokenizer.pad_token_id
    assert named(tokenizer, pad_token_id=7).pad_token_id == 7
    tokenizer.pad_token = None
    assert named(tokenizer).pad_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"


def test_a_model_that_cannot_generate_is_left_as_it_is() -> None:
    model = SimpleNamespace(generation_config=None)
    bundled_draft.name_end_of_turn(model, tiny_tokenizer())
    assert model.generation_config is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    gguf = tmp_path / "tiny.gguf"
    gguf.touch()
    monkeypatch.setattr(bundled_draft, "bundled_gguf", lambda: gguf)
    monkeypatch.setattr(bundled_draft.GgufFile, "read", lambda path: bundled_draft.GgufFile(path, {}, ()))
    monkeypatch.setattr(bundled_draft, "_read", lambda *_: (tiny_model(), tiny_tokenizer()))
    monkeypatch.setenv("SPEC_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_a_conversion_that_changes_the_tokenizer_is_refused_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    other = tiny_tokenizer()
    other.add_tokens(["2023"])
    monkeypatch.setattr(bundled_draft.AutoTokenizer, "from_pretrained", lambda _: other)
    with pytest.raises(ModelNotFoundError, match=r"reads the tokenizer of .+ back wrongly"):
        bundled_draft.converted_bundle()
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_another_version_of_the_conversion_converts_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    first = bundled_draft.converted_bundle()
    assert bundled_draft.converted_bundle() == first
    monkeypatch.setattr(bundled_draft, "CONVERSION", bundled_draft.CONVERSION + 1)
    second = bundled_draft.converted_bundle()
    assert second != first
    assert (second / "config.json").is_file()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_conversion_shows_how_far_it_is_on_a_terminal_and_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], terminal: bool
) -> None:
    pytest.importorskip("gguf")
    from test_gguf_files import byte_level, written

    file = written(tmp_path / "tiny.gguf", tiny_model(vocab_size=261), lambda writer: byte_level(writer, "smollm"))
    monkeypatch.setattr(bundled_draft, "bundled_gguf", lambda: file)
    monkeypatch.setenv("SPEC_RAG_CACHE", str(tmp_path / "cache"))
    shown = io.StringIO()
    shown.isatty = lambda: terminal  # type: ignore[method-assign]
    capfd.readouterr()
    monkeypatch.setattr(sys, "stderr", shown)
    folder = bundled_draft.converted_bundle()
    assert ("Converting tiny.gguf, once" in shown.getvalue()) == terminal
    assert terminal or shown.getvalue() == ""
    assert capfd.readouterr() == ("", "")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("a  1911") == ["a", "ĠĠ", "1", "9", "1", "1"]


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_missing_reader_of_gguf_files_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def found(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(bundled_draft.importlib.util, "find_spec", found)
    with pytest.raises(MissingDependencyError, match=f"the {missing} package that reads it is missing: pip install"):
        bundled_draft.converted_bundle()
    monkeypatch.setattr(checkpoints, "find_spec", found)
    file = cache.parents[1] / "tiny.gguf"
    with pytest.raises(MissingDependencyError, match=rf"needs {missing}: pip install \"spec-rag\[gguf\]\""):
        checkpoints.locate(str(file), LoadOptions())
