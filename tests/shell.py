"""The command line in processes of their own, as a shell starts them; its packages are imported once.

`Shell` starts one process that imports what commands need; each command is a copy of it (a fork) with arguments,
streams and an end of its own. `before` is code that runs in the copy first, with `pair`, tiny models; TINY puts them
into the place of the default.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

START = """
import importlib, json, os, signal, sys
import torch, transformers, bm25s
import spec_rag.cli.app, spec_rag.answering.answer, spec_rag.answering.chunking, spec_rag.loaders.reading
import spec_rag.compression.compress, spec_rag.generation.streaming, benchmarks.grid, benchmarks.results_page
import tiny
from spec_rag import compress, generate
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, even where the tests run in the background
pair = tiny.tiny_pair()
compress(["Gates open. They close.", "Keys turn."] * 3, "Gates?", draft=pair, ratio=0.5, calibration=None)
generate(pair, [5] * 90, max_new_tokens=2)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    process = os.fork()
    if not process:
        for number, path in enumerate(job["streams"]):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY), number)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
        sys.argv = ["spec-rag", *job["arguments"]]
        exec(job["before"], {"pair": pair})
        importlib.import_module(job["program"]).main()
        sys.exit(0)
    print(process, flush=True)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

TINY = """
from spec_rag import ModelPair
from spec_rag.compression.document_draft import Draft
Draft.of = classmethod(lambda cls, *_, **__: Draft(pair.draft, pair.tokenizer, "tiny", 4))
ModelPair.load = classmethod(lambda cls, *_, **__: pair)
"""


class Running:
    """One command."""

    def __init__(self, shell: subprocess.Popen[str], process: int) -> None:
        self._shell = shell
        self._process = process

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        os.kill(self._process, signal.SIGINT)

    def hears(self) -> bool:
        """Whether Ctrl-C is not ignored now; told by Linux."""
        status = Path(f"/proc/{self._process}/status").read_text()
        ignored = int(status.split("SigIgn:")[1].split()[0], 16)
        return not ignored >> (signal.SIGINT - 1) & 1

    def code(self) -> int:
        """Its exit code, when it has ended; negative after a signal. After a minute it is killed."""
        assert self._shell.stdout is not None
        patience = threading.Timer(60, os.kill, (self._process, signal.SIGKILL))
        patience.start()
        try:
            return int(self._shell.stdout.readline())
        finally:
            patience.cancel()


class Shell:
    """Starts commands, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "80"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)

    def start(self, arguments: Sequence[object], out: str | Path, err: str | Path, before: str = TINY) -> Running:
        """Run `spec-rag`, or `python -m benchmarks` where that is the first argument, with these arguments.

        The streams are opened by their paths.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        is_benchmark = arguments[0] == "benchmarks"
        job: Mapping[str, Any] = {
            "program": "benchmarks.__main__" if is_benchmark else "spec_rag.cli",
            "arguments": [str(argument) for argument in arguments[is_benchmark:]],
            "streams": [os.devnull, str(out), str(err)],
            "before": before,
        }
        self._process.stdin.write(f"{json.dumps(job)}\n")
        self._process.stdin.flush()
        return Running(self._process, int(self._process.stdout.readline()))


def until(holds: Callable[[], bool]) -> None:
    """Wait until it does; fails after a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
