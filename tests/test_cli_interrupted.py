"""Ctrl-C and readers that leave: one line or none, no traceback, nothing half written, a clean terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import TINY, Shell, until

from benchmarks.records import Scored
from spec_rag.evaluation.json_lines import read_lines

pytest.importorskip("bm25s")
pytest.importorskip("typer")

LONG = "\n\n".join(f"Tank {i} is large and grey. Its fuel burns for {i} hours." for i in range(60))
# the model works until it is told to stop, and says so when it begins
ENDLESS = f"""{TINY}
import time
from pathlib import Path
def slow(*_):
    Path("begun").touch()
    time.sleep(0.02)
for model in (pair.draft, pair.target):
    model.generation_config.eos_token_id = None
    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(slow)
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("shell")) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tanks.md").write_text(LONG)
    for name in ("out", "err"):
        (tmp_path / name).touch()
    return tmp_path


def commands(folder: Path) -> dict[str, list[object]]:
    docs = folder / "docs"
    return {
        "compress": ["compress", docs, "-q", "tank", "--html", folder / "kept.html"],
        "ask": ["ask", docs, "tank?", "--max-new-tokens", 2000, "--ratio", 0.1],
        "demo": ["demo"],
        "evaluate": ["benchmarks", "run", "--tasks", "niah_single_1", "--tokens", 1500, "--cases", 2, "--budgets",
                     "1/2", "--methods", "truncation to the head,default", "--out", folder / "lines.jsonl"],
        "bench": ["benchmarks", "bench", "--stages", "answers-ruler", "--worker", "1/1", "--out", folder / "bench"],
        "calibrate": ["calibrate", "--out", folder / "heads.json"],
    }  # fmt: skip


@pytest.mark.parametrize("command", ["ask", "demo", "evaluate", "bench", "calibrate"])
def test_ctrl_c_is_one_line_and_130(shell: Shell, folder: Path, command: str) -> None:
    running = shell.start(
        commands(folder)[command], folder / "out", folder / "err", f"import os; os.chdir({str(folder)!r})\n{ENDLESS}"
    )
    until((folder / "begun").exists)
    running.interrupt()
    assert running.code() == 130
    assert (folder / "err").read_text() == "interrupted\n"
    assert not (folder / "heads.json").exists()
    assert list(folder.rglob("*.tmp")) == []
    lines = read_lines(folder / "lines.jsonl", Scored.from_json)
    assert [line.method for line in lines] == (["truncation to the head"] if command == "evaluate" else [])


def test_ctrl_c_ends_the_processes_of_the_benchmark(shell: Shell, folder: Path) -> None:
    worker = folder / "worker"  # in Python's place: it says who it is, and hears of Ctrl-C nothing, as real ones
    worker.write_text(f"#!/bin/sh\ntouch {folder}/begun.$$\nexec sleep 600\n")
    worker.chmod(0o755)
    command = ["benchmarks", "bench", "--stages", "answers-ruler", "--workers", 2, "--out", folder / "bench"]
    before = f"import sys; sys.executable = {str(worker)!r}"
    running = shell.start(command, folder / "out", folder / "err", before)
    until(lambda: len(list(folder.glob("begun.*"))) == 2 and running.hears())
    running.interrupt()
    assert running.code() == 130
    assert (folder / "err").read_text() == "interrupted\n"
    for begun in folder.glob("begun.*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(begun.suffix[1:]), 0)


def test_ctrl_c_before_anything_is_loaded_is_one_line_too() -> None:
    code = "import os, signal, sys; sys.argv = ['spec-rag', '--help']\nfrom spec_rag import cli\n"
    code += "def stopped(): os.kill(os.getpid(), signal.SIGINT)\ncli._run = stopped\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_leaves_the_terminal_clean(shell: Shell, folder: Path) -> None:
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                seen.extend(piece)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    name = os.ttyname(theirs)
    running = shell.start(commands(folder)["compress"], name, name, f"import os; os.chdir({str(folder)!r})\n{ENDLESS}")
    until((folder / "begun").exists)
    until(lambda: b"\x1b[?25l" in seen)
    running.interrupt()
    assert running.code() == 130
    os.close(theirs)
    reader.join(20)
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert seen.endswith(b"\r\ninterrupted\r\n")
    assert not (folder / "kept.html").exists()
    assert b"Traceback" not in seen


@pytest.mark.parametrize("command", ["compress", "ask", "demo", "evaluate"])
def test_a_reader_that_leaves_ends_the_command_without_a_word(shell: Shell, folder: Path, command: str) -> None:
    docs = folder / "docs"
    arguments = {
        "compress": ["compress", docs, "-q", "tank"],
        "ask": ["ask", docs, "tank?", "--max-new-tokens", 300, "--ratio", 0.1],
    }.get(command) or commands(folder)[command]
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    before = TINY if command != "ask" else f"{TINY}\npair.target.generation_config.eos_token_id = None"
    if command == "demo":
        before += "\nfrom spec_rag.evaluation import handbook\nhandbook.DEFAULT_TOP_K = 1"
    running: list[object] = []
    starting = threading.Thread(target=lambda: running.append(shell.start(arguments, pipe, folder / "err", before)))
    starting.start()
    with pipe.open("rb", buffering=0) as reader:  # as `head -c 1`
        if command in ("ask", "demo"):
            assert len(reader.read(1)) == 1
    starting.join(20)
    assert running[0].code() in (1, 141)  # type: ignore[attr-defined]
    assert (folder / "err").read_text() == ""
