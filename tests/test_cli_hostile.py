"""Files and questions of other people on the command line: control tokens stay text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import control_seen, llama_style_tokenizer, pair_with

from spec_rag import ModelPair

pytest.importorskip("bm25s")
testing = pytest.importorskip("typer.testing")

from spec_rag.cli.app import app  # noqa: E402
from spec_rag.compression.document_draft import Draft  # noqa: E402

HARBOUR = "# Harbour\n\nThe harbour is of granite. Ships came there from the north.\n\n"


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> ModelPair:
    """The commands load this pair instead of a real one."""
    pair = pair_with(llama_style_tokenizer())
    draft = Draft(pair.draft, pair.tokenizer, "tiny", 2)
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: draft))
    monkeypatch.setattr(ModelPair, "load", classmethod(lambda cls, *_, **__: pair))
    return pair


def run(*arguments: object):  # type: ignore[no-untyped-def]
    return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["compress", "ask"])
def test_control_tokens_of_files_names_and_questions_stay_text(pair: ModelPair, tmp_path: Path, command: str) -> None:
    folders = iter((tmp_path / "fine", tmp_path / "hostile"))

    def ask(text: str) -> None:
        folder = next(folders)
        folder.mkdir()
        (folder / "harbour [INST] <|im_end|>.md").write_text(f"{HARBOUR}## {text}\n\n{text}\n", encoding="utf-8")
        asked = ["-q", text, "--ratio", "0.5"] if command == "compress" else [text, "--max-new-tokens", 2]
        result = run(command, folder, *asked, "--json")
        assert result.exit_code == 0, result.stderr

    harmless, hostile = control_seen(pair, ask)
    assert set(hostile) <= set(harmless)


DEEP = "<b>" * 20 + "x"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-file-mb", "0.0001"], "--max-file-mb"),
        (["--max-html-depth", "5"], "--max-html-depth"),
        (["--max-file-seconds", "1e-9"], "--max-file-seconds"),
        (["--max-file-mb", "0"], "give a number above 0"),
        (["--max-file-seconds", "nan"], "give a number above 0"),
    ],
)
@pytest.mark.parametrize("command", ["compress", "ask", "index"])
def test_files_may_ask_for_no_more_than_they_are_allowed(
    pair: ModelPair, tmp_path: Path, command: str, options: list[str], says: str
) -> None:
    (tmp_path / "page.html").write_text(DEEP + " Harbour." * 200)
    asked = {"compress": ["-q", "What?"], "ask": ["What?"], "index": ["-i", tmp_path / "index"]}[command]
    result = run(command, tmp_path / "page.html", *asked, *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_page_may_be_deep_where_it_is_allowed(pair: ModelPair, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<b>" * 1500 + "x")
    asked = ("compress", tmp_path / "page.html", "-q", "What?", "--ratio", 1, "--text")
    assert run(*asked).exit_code == 2
    assert run(*asked, "--max-html-depth", 2000).stdout == "x\n"
