"""The README's promises of shape: ten lines per framework, two commands. That its snippets run is in test_snippets."""

from __future__ import annotations

from snippets import ROOT, SNIPPETS

README = [snippet for snippet in SNIPPETS if snippet.page == "README.md"]


def test_ten_lines_are_ten_lines() -> None:
    python = [snippet.code for snippet in README if snippet.language == "python"]
    assert len(python) == 3
    assert all(len(code.strip().splitlines()) <= 13 for code in python)


def test_each_framework_s_lines_end_in_the_answer() -> None:
    python = [snippet.code for snippet in README if snippet.language == "python"]
    assert all("# The baker is called Odalys Fenn." in code for code in python)


def test_nothing_of_the_readme_needs_more_than_the_package() -> None:
    assert [snippet.place for snippet in README if snippet.needs] == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [words for snippet in README if snippet.language == "bash" for words in snippet.commands]
    assert [words[1:] for words in commands if words[0] == "make"] == [["demo"], ["test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in ("demo", "test"))
