"""The LlamaIndex examples run as they are, with a tiny model under the default model's name."""

from __future__ import annotations

import importlib.util
import weakref
from pathlib import Path

import pytest

from spec_rag import models
from spec_rag.models import LoadedModel, LoadOptions, ModelPair

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("llama_index_*.py"))


@pytest.fixture
def _tiny_by_default(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, options: LoadOptions) -> LoadedModel:
        assert name == models.DEFAULT_DRAFT, "an example needs no other model than the default one"
        return LoadedModel(pair.target, pair.tokenizer, name)

    monkeypatch.setattr(models, "_load", load)
    monkeypatch.setattr(models, "_loaded", weakref.WeakValueDictionary())


def test_there_are_four_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.usefixtures("_tiny_by_default")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_is_short(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(path.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()
    printed = capsys.readouterr().out
    assert printed.strip()
    assert "Empty Response" not in printed
