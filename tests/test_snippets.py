"""Every snippet of the README and the docs runs, and prints what stands beside it; what cannot run here says so."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from snippets import ROOT, SNIPPETS, Snippet

PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]
SHELL = [snippet for snippet in SNIPPETS if snippet.language == "bash"]
RUNNING = [
    words
    for snippet in SHELL
    if snippet.needs is None
    for words in snippet.commands
    if Path(words[0]).name in ("spec-rag", "python")
]
PROMISE = re.compile(r"^print\(.*\)  # (.+)$", flags=re.MULTILINE)
SERVED = 'base_url="http://127.0.0.1:8000'


def runs() -> Iterator[tuple[str, list[Snippet]]]:
    """What runs together: a snippet of the README by itself, all snippets of another page in one go."""
    for page in dict.fromkeys(snippet.page for snippet in PYTHON):
        on_page = [snippet for snippet in PYTHON if snippet.page == page and snippet.needs is None]
        if page == "README.md":
            yield from ((snippet.place, [snippet]) for snippet in on_page)
        elif on_page:
            yield page, on_page


RUNS = dict(runs())


@pytest.mark.parametrize("place", RUNS)
def test_python_runs_and_prints_what_stands_beside_it(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = [snippet.code for snippet in RUNS[place]]
    promised = [line for one in code for line in PROMISE.findall(one)]
    if not promised:
        request.getfixturevalue("tiny_by_default")
    if any(SERVED in one for one in code):
        url, model = request.getfixturevalue("tiny_server")
        code = [one.replace("http://127.0.0.1:8000", url) for one in code]
        code = [one.replace("HuggingFaceTB/SmolLM2-135M-Instruct", model) for one in code]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    for snippet, one in zip(RUNS[place], code, strict=True):
        exec(compile("\n" * snippet.line + one, snippet.page, "exec"), names)
    assert capsys.readouterr().out.splitlines() == promised


@pytest.fixture
def tiny_server() -> Iterator[tuple[str, str]]:
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    from serving.helpers import MODEL, engine, served

    with served(own=engine()) as url:
        yield url, MODEL


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda snippet: snippet.place)
def test_python_compiles(snippet: Snippet) -> None:
    compile(snippet.code, snippet.place, "exec")


def test_a_snippet_says_its_language() -> None:
    languages = {"python", "bash", "text", "yaml"}
    assert [snippet.place for snippet in SNIPPETS if snippet.language not in languages] == []


def test_what_is_not_run_says_what_it_needs() -> None:
    assert [one.place for one in SNIPPETS if one.language in ("yaml", "text") and one.needs] == []
    assert len([one for one in PYTHON + SHELL if one.needs is None]) >= 20


def test_shell_is_shell() -> None:
    script = "\n".join(f": {snippet.place}\n{snippet.code}" for snippet in SHELL)
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert checked.stderr == ""


@pytest.mark.parametrize("snippet", SHELL, ids=lambda snippet: snippet.place)
def test_a_command_has_the_options_that_it_shows(snippet: Snippet) -> None:
    for words in snippet.commands:
        CHECKS[Path(words[0]).name](words[1:])


def check_spec_rag(words: list[str]) -> None:
    pytest.importorskip("typer")
    from typer.main import get_command

    from spec_rag.cli.app import app

    command = get_command(app)
    context = command.make_context("spec-rag", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_parser(context).parse_args(list(words))


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [name for word in words for found in re.findall(r"^spec-rag\[(.+)\]$", word) for name in found.split(",")]
    assert set(named) <= extras.keys()
    assert words[0] == "install"


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, given, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if given else rf"^{name}:", makefile, flags=re.MULTILINE), word


def check_docker(words: list[str]) -> None:
    files = [words[i + 1] for i, word in enumerate(words) if word == "-f"]
    assert all((ROOT / file).is_file() for file in files)


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        package = words[1].split(".")[0]
        assert importlib.util.find_spec(package) is not None or (ROOT / "integrations" / package).is_dir(), words
    elif words[0] == "-c":
        compile(words[1], "-c", "exec")
    else:
        assert (ROOT / words[0]).is_file(), words


def check_serve(words: list[str]) -> None:
    module, name = words[1].split(":")
    source = ROOT / "integrations" / (module.replace(".", "/") + ".py")
    assert f"def {name}(" in source.read_text(encoding="utf-8")


CHECKS = {
    "spec-rag": check_spec_rag,
    "pip": check_pip,
    "make": check_make,
    "docker": check_docker,
    "python": check_python,
    "serve": check_serve,
}


@pytest.mark.parametrize("words", RUNNING, ids=shlex.join)
def test_a_command_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if Path(words[0]).name == "python":
        assert words[1] == "-c"
        exec(compile(words[2].replace("your_model_type", "llama"), "-c", "exec"), {})
        assert capsys.readouterr().out.strip()
        return
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from spec_rag.cli.app import app

    (tmp_path / "notes").mkdir()
    for name in ("06-road-and-vehicles.md", "08-kitchen-and-lodging.md"):
        text = (ROOT / "examples" / "handbook" / name).read_text(encoding="utf-8")
        (tmp_path / "notes" / name).write_text("\n\n".join(text.split("\n\n")[:9]), encoding="utf-8")
    kitchen = (tmp_path / "notes" / "08-kitchen-and-lodging.md").read_text(encoding="utf-8")
    (tmp_path / "handbook.md").write_text(kitchen, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = [word.replace("handbook.pdf", "handbook.md") for word in words[1:]]
    given = [w for word in given for w in (map(str, sorted(Path().glob(word))) if "*" in word else [word])]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    if "--html" in given:
        assert "<html" in (tmp_path / "kept.html").read_text(encoding="utf-8")
