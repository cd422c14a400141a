"""Runs the benchmark stage by stage, each line written as soon as it is known, so that a run that was cut off goes on.

Quality is measured by several processes of one thread each, which together do more than one of several threads; speed
by one process that has the machine to itself. This module does not know terminals or pages.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import grid, timings
from benchmarks.budgets import budgets_of
from benchmarks.records import Scored, code_version
from benchmarks.stages import STAGES, Stage
from benchmarks.timings import Timed
from spec_rag.compression.document_draft import Draft
from spec_rag.evaluation.embedders import load_embedder
from spec_rag.evaluation.json_lines import append_lines, read_lines
from spec_rag.evaluation.questions import AnsweredQuestion, read_questions
from spec_rag.evaluation.variants import EMBEDDED
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.token_counting import token_counter
from spec_rag.utils.progress import steps

SPEED = ("compression", "generation")
_TIMED_FILES = ("nq-multidoc-10.jsonl.gz", "nq-multidoc-30.jsonl.gz")
_TIMED_QUESTIONS = 3


@dataclass(frozen=True)
class Bench:
    """Where the benchmark reads and writes, and with what.

    Attributes:
        out: folder of the results, a file or several per stage.
        data: folder of questions, or None: generated tasks alone.
        embedder: package or folder of a sentence encoder, or None.
        deadline: of `time.monotonic`; nothing is begun after it.
    """

    out: Path
    data: Path | None = None
    embedder: str | None = None
    deadline: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is begun."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def rows(self, stage: Stage) -> list[Scored]:
        """What is known of a stage, by whichever process."""
        paths = sorted(self.out.glob(f"{stage.name}.*.jsonl"))
        found = {row.key: row for path in paths for row in read_lines(path, Scored.from_json)}
        return list(found.values())

    def latest(self, stage: Stage) -> list[Scored]:
        """The same with one row per case, method and budget, though several versions of the code measured it."""
        found = {replace(row, code="").key: row for row in self.rows(stage)}
        return list(found.values())

    @property
    def timed(self) -> list[Timed]:
        """What is known of speed, the peers' included."""
        paths = sorted(self.out.glob("speed*.jsonl"))
        found = {(row.table, row.size, row.method): row for path in paths for row in read_lines(path, Timed.from_json)}
        return list(found.values())


def stage_names() -> list[str]:
    """All stages, in the order in which they run."""
    return [*SPEED, *(stage.name for stage in STAGES)]


def run_stages(bench: Bench, names: Sequence[str], workers: int) -> None:
    """Run stages by name; quality in so many processes."""
    bench.out.mkdir(parents=True, exist_ok=True)
    with steps("Stages", len(names)) as done:
        for name in names:
            if name == "compression":
                time_compression(bench)
            elif name == "generation":
                time_generation(bench)
            elif not bench.is_over:
                _run_in_processes(bench, name, workers)
            done()


def _run_in_processes(bench: Bench, name: str, workers: int) -> None:
    left = None if bench.deadline is None else (bench.deadline - time.monotonic()) / 60
    given = {"data": bench.data, "embedder": bench.embedder, "minutes": left}
    options = [f"--{key}={value}" for key, value in given.items() if value is not None]
    command = [sys.executable, "-m", "benchmarks", "bench", "--out", str(bench.out), *options]
    single = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with _deaf_to_ctrl_c():  # as processes that are started now will be: this one ends them
        started = [
            subprocess.Popen(
                [*command, "--stages", name, "--worker", f"{number}/{workers}"],
                env=single,
                stdout=subprocess.DEVNULL,
                stderr=None if number == 1 else subprocess.DEVNULL,  # one bar is enough; the others are alike
            )
            for number in range(1, workers + 1)
        ]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
    if any(codes):
        raise RuntimeError(f"stage {name}: a process ended with code {max(codes)}.")


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_quality(bench: Bench, stage: Stage, worker: int = 1, workers: int = 1) -> None:
    """A stage's cases number worker, worker + workers, ... (from 1), written to a file of this worker's own."""
    draft = Draft.of(DEFAULT_DRAFT)
    encoder: Any = load_embedder(bench.embedder) if bench.embedder else None
    names = [name for name in stage.methods if encoder is not None or name not in EMBEDDED]
    pair = ModelPair.load(DEFAULT_DRAFT, DEFAULT_DRAFT) if stage.measure == "answers" else None
    methods = grid.Methods(draft, names, budgets_of(stage.budgets), pair, encoder, bench.embedder)
    known = {row.key for row in bench.rows(stage)}
    out = bench.out / f"{stage.name}.{worker}.jsonl"
    for tasks in stage.made(bench.data, token_counter("draft", draft.tokenizer)):
        own = {
            task: [
                case
                for case in cases[worker - 1 :: workers]
                if not {methods.key(case, name, b) for name in names for b in methods.budgets_for(name)} <= known
            ]
            for task, cases in tasks.cases.items()
        }
        grid.run_grid(replace(tasks, cases=own), methods, out, bench.deadline)


def timed_questions(data: Path | None) -> list[list[AnsweredQuestion]]:
    """Questions over ten and over thirty documents whose compression is timed; none where the files are not there."""
    paths = [data / file for file in _TIMED_FILES] if data else []
    return [read_questions(path, _TIMED_QUESTIONS) for path in paths if path.exists()]


def time_compression(bench: Bench) -> None:
    """Each way of compressing, over ten and over thirty documents."""
    code, path = code_version(), bench.out / "speed.jsonl"
    known = {row.size for row in bench.timed if row.code == code and row.table == "compression"}
    for asked in timed_questions(bench.data):
        if len(asked[0].documents) not in known and not bench.is_over:
            encoder = load_embedder(bench.embedder) if bench.embedder else None
            found = timings.compression(Draft.of(DEFAULT_DRAFT), asked, encoder, code)
            append_lines(path, [row.to_json() for row in found])


def time_generation(bench: Bench) -> None:
    """Each method at each length, once."""
    code, path = code_version(), bench.out / "speed.jsonl"
    known = {(row.size, row.method) for row in bench.timed if row.code == code and row.table == "generation"}
    ways = timings.generations()
    with steps("Generating", len(ways) * len(timings.LENGTHS)) as done:
        for tokens in timings.LENGTHS:
            for name, way in ways.items():
                if (tokens, name) not in known and not bench.is_over:
                    row = Timed("generation", tokens, name, way(tokens), code)
                    append_lines(path, [row.to_json()])
                done()
