"""Every snippet that the README shows runs, and prints what the README says it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.strip().splitlines()
]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_python_snippet_prints_what_stands_beside_it(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    promised = re.findall(r"^print\(.*\)  # (.+)$", SNIPPETS[number], flags=re.MULTILINE)
    exec(compile(SNIPPETS[number], f"README.md, snippet {number}", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised
    assert "The baker is called Odalys Fenn." in promised


def test_ten_lines_are_ten_lines() -> None:
    assert all(len(snippet.strip().splitlines()) <= 13 for snippet in SNIPPETS)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [shlex.split(line, comments=True)[1] for line in COMMANDS if line.startswith("make ")]
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_pip_extras_exist() -> None:
    extras = re.findall(r"\[([a-z-]+)\]", " ".join(line for line in COMMANDS if line.startswith("pip ")))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras
    assert all(f"\n{extra} = [" in project for extra in extras)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("spec-rag ")])
def test_a_command_line_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from spec_rag.cli.app import app

    (tmp_path / "notes").mkdir()
    for name in ("06-road-and-vehicles.md", "08-kitchen-and-lodging.md"):
        text = (ROOT / "examples" / "handbook" / name).read_text(encoding="utf-8")
        (tmp_path / "notes" / name).write_text("\n\n".join(text.split("\n\n")[:9]), encoding="utf-8")
    kitchen = (tmp_path / "notes" / "08-kitchen-and-lodging.md").read_text(encoding="utf-8")
    (tmp_path / "handbook.md").write_text(kitchen, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("handbook.pdf", "handbook.md"))[1:]
    words = [w for word in words for w in (map(str, Path().glob(word)) if "*" in word else [word])]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    if "--html" in words:
        assert "<html" in (tmp_path / "kept.html").read_text(encoding="utf-8")
