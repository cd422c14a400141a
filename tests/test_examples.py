"""The examples run as they are: ten scripts of at most forty lines."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from spec_rag import ModelPair

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
# talks to a server in a process of its own, so it needs the real model
SERVED = FOLDER / "langchain_openai_server.py"


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    """With an event loop to be had, as a script has; `asyncio.run` in a test before leaves none."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


def run(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()


def test_there_are_ten_examples_of_at_most_forty_lines() -> None:
    assert len(EXAMPLES) == 10
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES}
    assert {name: length for name, length in lengths.items() if not 10 <= length <= 40} == {}


@pytest.mark.usefixtures("tiny_by_default")
@pytest.mark.parametrize("path", [path for path in EXAMPLES if path != SERVED], ids=lambda path: path.stem)
def test_an_example_runs_and_prints_something(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path)
    printed = capsys.readouterr().out
    assert printed.strip()
    assert "Empty Response" not in printed


def test_the_served_model_answers_from_the_compressed_chapter(
    smollm2: ModelPair, capsys: pytest.CaptureFixture[str]
) -> None:
    run(SERVED)
    assert "Beck" in capsys.readouterr().out
