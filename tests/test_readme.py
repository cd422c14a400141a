"""The README's promises of shape: ten lines per framework, two commands. That its snippets run is in test_snippets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub import Repo, fresh_environment, run, running_hub
from snippets import ROOT, SNIPPETS
from tiny import saved, tiny_model

from spec_rag.options.loading import DEFAULT_DRAFT

README = [snippet for snippet in SNIPPETS if snippet.page == "README.md"]


def test_ten_lines_are_ten_lines() -> None:
    python = [snippet.code for snippet in README if snippet.language == "python"]
    assert len(python) == 3
    assert all(len(code.strip().splitlines()) <= 13 for code in python)


def test_each_framework_s_lines_end_in_the_answer() -> None:
    python = [snippet.code for snippet in README if snippet.language == "python"]
    assert all("# The baker is called Odalys Fenn." in code for code in python)


PYTHON = [snippet.code for snippet in README if snippet.language == "python"]
FRAMEWORKS = ["langchain", "llama_index", "none"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder into which the first snippet converts the default draft."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("code", PYTHON, ids=FRAMEWORKS)
def test_a_snippet_answers_on_a_fresh_machine_and_writes_no_warning(code: str, tmp_path: Path, converted: str) -> None:
    """It is online, and the hub has no default draft, so that this comes from its wheel."""
    with running_hub() as hub:
        out, err = run(code, fresh_environment(tmp_path, hub.url, SPEC_RAG_CACHE=converted))
        assert hub.requests
    assert out.splitlines()[-1] == "The baker is called Odalys Fenn."
    assert err == ""


@pytest.mark.parametrize("code", PYTHON[:1], ids=FRAMEWORKS[:1])
def test_a_snippet_writes_no_warning_where_the_hub_has_the_model_or_cannot_be_reached(
    code: str, tmp_path: Path, converted: str
) -> None:
    with running_hub() as hub:
        hub.repos[DEFAULT_DRAFT] = Repo.of_folder(saved(tiny_model(), tmp_path / "tiny"))
        assert run(code, fresh_environment(tmp_path / "online", hub.url))[1] == ""
        assert "model.safetensors" in hub.downloads()
    out, err = run(code, fresh_environment(tmp_path / "offline", hub.url, SPEC_RAG_CACHE=converted))
    assert (out, err) == ("The baker is called Odalys Fenn.\n", "")


def test_nothing_of_the_readme_needs_more_than_the_package() -> None:
    assert [snippet.place for snippet in README if snippet.needs] == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [words for snippet in README if snippet.language == "bash" for words in snippet.commands]
    assert [words[1:] for words in commands if words[0] == "make"] == [["demo"], ["test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in ("demo", "test"))
