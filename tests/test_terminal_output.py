"""What the command line prints: control characters of documents take no effect on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

testing = pytest.importorskip("typer.testing")

from spec_rag.cli import console  # noqa: E402
from spec_rag.cli.app import app  # noqa: E402

CONTROLS = {*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(0x7F, 0xA0))}


@pytest.mark.parametrize("print_it", [console.say, lambda text: console.print_json({"text": text, text: [text]})])
def test_no_escape_of_a_document_reaches_the_terminal(
    print_it: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    print_it("A\x1b]0;owned\x07 \x1b[2J\x9b31m\x7f\r tank.\tIt\nleaks. \ud800")
    printed = capsys.readouterr().out
    assert not set(printed) & CONTROLS
    assert "tank." in printed


def test_json_says_control_characters_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    text = "A\x1b[2J\x9b\x7f \ud800 é."
    console.print_json({"text": text})
    assert json.loads(capsys.readouterr().out) == {"text": text}


def test_kept_text_is_exact_in_a_pipe_and_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.print_text("a\x1b[2J")
    assert capsys.readouterr().out == "a\x1b[2J\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_text("a\x1b[2J")
    assert capsys.readouterr().out == "a\u241b[2J\n"


def test_an_error_that_quotes_a_file_does_not_command_the_terminal(tmp_path: Path) -> None:
    result = testing.CliRunner().invoke(
        app, ["compress", str(tmp_path / "\x1b[2Jgone.txt"), "--query", "x", "--max-tokens", "9"]
    )
    assert result.exit_code == 2
    assert not set(result.output) & CONTROLS
    assert "gone.txt" in result.output


def test_a_note_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console.note("done")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console.note("done\x1b[2J")
    assert capsys.readouterr().err == "done\u241b[2J\n"
