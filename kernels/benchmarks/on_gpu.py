"""Prove the kernels and measure both methods on this machine's GPU, within eight minutes.

    python kernels/benchmarks/on_gpu.py [--out docs/gpu] [--seconds 480] [--wheels FOLDER] [--stages NAMES]

Needs the checkout, and beside it torch, triton, transformers, pytest and what `import spec_rag.generation` needs;
no network. Packages that are missing can lie as wheels in a folder. Every stage runs in a process of its own, the most
important first, so that a crash or a full device costs one row. Without a GPU the same stages run small on the CPU, the
kernels on Triton's interpreter. Writes OUT.md, OUT.json and, with matplotlib, OUT.png. The exit status is 0 only if
nothing that ran failed.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
for folder in (ROOT / "integrations", ROOT / "kernels", ROOT, HERE):
    sys.path.insert(0, str(folder))

from gpu_goals import MISSED, goals  # noqa: E402
from gpu_rows import FAILED, OK, SKIPPED, Recorder, Row, draw, grid, markdown, read_rows, told, whole_file  # noqa: E402
from measure import table  # noqa: E402
from roofline import LENGTHS, MODELS, issue_seconds  # noqa: E402

PACKAGES = ("torch", "triton", "transformers", "flash-attn", "pytest")
RESERVE_SECONDS = 12.0  # for the pages
NO_GPU = "no GPU"
ISSUE = f"µs to issue, {MODELS[0].model}, {LENGTHS[1]:,}"
GRACE_SECONDS = 5.0  # a stage stops by itself before it is stopped


@dataclass(frozen=True)
class Stage:
    """One process, or several side by side: its name, its share of the time, and in how many shards it may run."""

    name: str
    title: str
    seconds: float
    shards: int = 1


def stages(on_gpu: bool) -> list[Stage]:
    """What runs, in the order of importance."""
    cores = os.cpu_count() or 1
    if not on_gpu:
        return [
            Stage("correctness", "Correctness", 150, min(cores, 2)),
            Stage("compile", "Kernels compiled ahead for sm_90", 120),
            Stage("kernels", "Kernels", 60),
            Stage("tilings", "Other tilings, on the interpreter", 60),
            Stage("methods-8B", "Whole answers, tiny models", 60),
            Stage("compression", "Compression of documents", 60),
        ]
    return [
        Stage("correctness", "Correctness", 110, min(cores, 12)),
        Stage("kernels", "Kernels", 65),
        Stage("methods-8B", "Whole answers: draft 1B, target 8B", 150),
        Stage("compression", "Compression of documents", 30),
        Stage("tilings", "Other tilings", 60),
        Stage("methods-14B", "Whole answers: draft 0.5B, target 14B", 90),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu", help="path of the pages, without a suffix")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of packages that are missing")
    parser.add_argument("--stages", default="", help="names of the stages to run, with commas; all by default")
    parser.add_argument("--device", default="", help="cuda or cpu; by default what is there")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--shard", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        return run_stage(given)
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as folder:
        environment = _environment(given.wheels, Path(folder))
        device = given.device or _device(environment)
        on_gpu = device != "cpu"
        planned = stages(on_gpu)
        asked = {name for name in given.stages.split(",") if name}
        if unknown := asked - {stage.name for stage in planned}:
            names = ", ".join(stage.name for stage in planned)
            parser.error(f"--stages {','.join(sorted(unknown))}: on this device there are {names}")
        end = started + given.seconds - RESERVE_SECONDS
        rows: list[Row] = []
        for stage in planned:
            if asked and stage.name not in asked:
                continue
            begun = time.time()
            rows += supervise(stage, device, end, environment, Path(folder))
            print(f"{stage.title}: {_counted(rows, stage)} in {time.time() - begun:.0f} s", file=sys.stderr, flush=True)
    ran = [stage for stage in planned if not asked or stage.name in asked]
    verdicts = goals(rows, on_gpu)
    facts = _facts(device, time.time() - started)
    summary = [[stage.title, _counted(rows, stage), ""] for stage in ran] + verdicts
    _write(given.out, facts, ran, rows, verdicts, summary)
    for row in rows:
        if row.status == FAILED:
            print(f"FAILED {row.stage}: {row.case}: {row.note}")
    print(table(["", "found", "verdict"], summary))
    return 1 if any(row.status == FAILED for row in rows) or not any(row.status == OK for row in rows) else 0


def run_stage(given: argparse.Namespace) -> int:
    """The inside of a stage's process."""
    recorder = Recorder(given.stage, given.rows, given.deadline)
    small = given.device == "cpu"
    try:
        if given.stage == "correctness":
            from gpu_correctness import run

            run(recorder, given.shard, given.shards)
        elif given.stage == "compile":
            _compile_ahead(recorder)
        elif given.stage == "kernels":
            from gpu_kernels import run as run_kernels

            run_kernels(recorder, given.device)
        elif given.stage == "tilings":
            from gpu_tuning import run as run_tilings

            run_tilings(recorder, given.device)
        elif given.stage == "compression":
            from gpu_methods import compression

            compression(recorder, given.device, small)
        else:
            from gpu_methods import run as run_methods

            run_methods(recorder, given.device, given.stage.removeprefix("methods-"), small)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] in ("spec_rag", "spec_rag_kernels", "gpu_methods"):
            raise
        recorder.add("the stage", status=SKIPPED, note=f"the package {error.name} is missing (--wheels FOLDER)")
    except Exception as error:
        recorder.add("the stage", status=FAILED, note=told(error))
    return 0


def supervise(stage: Stage, device: str, end: float, environment: dict[str, str], folder: Path) -> list[Row]:
    """Run a stage's processes, stop what does not stop by itself, and collect the rows."""
    limit = min(stage.seconds, end - time.time())
    if limit < 3 * GRACE_SECONDS:
        return [Row(stage.name, "the stage", status=SKIPPED, note="no time was left")]
    hard = time.time() + limit
    environment = {**environment, "SPEC_RAG_TEST_DEVICE": device}
    environment.pop("TRITON_INTERPRET", None)
    if device == "cpu" and stage.name in ("correctness", "tilings"):
        environment["TRITON_INTERPRET"] = "1"
    if stage.name == "tilings":
        environment["SPEC_RAG_KERNELS"] = "triton"
    processes = []
    for shard in range(stage.shards):
        path = folder / f"{stage.name}-{shard}.jsonl"
        command = [sys.executable, str(Path(__file__).resolve()), "--stage", stage.name, "--rows", str(path)]
        command += ["--deadline", str(hard - GRACE_SECONDS), "--device", device]
        command += ["--shard", str(shard), "--shards", str(stage.shards)]
        output = (folder / f"{stage.name}-{shard}.txt").open("w+b")
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        processes.append((process, path, output))
    rows: list[Row] = []
    for process, path, output in processes:
        note = ""
        try:
            code = process.wait(max(0.1, hard - time.time()))
            if code:
                output.seek(0)
                last = output.read()[-600:].decode(errors="replace")
                note = f"the process ended with {code}: {' '.join(last.split())[-300:]}"
        except subprocess.TimeoutExpired:
            note = f"stopped after {limit:.0f} s"
        finally:
            _stop(process)
            output.close()
        rows += read_rows(path)
        if note:
            # a check that never ends has not passed; a measurement that takes too long has only not been taken
            slow = note.startswith("stopped") and stage.name != "correctness"
            rows.append(Row(stage.name, "the stage", status=SKIPPED if slow else FAILED, note=note))
    return rows


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _compile_ahead(recorder: Recorder) -> None:
    """A row for every kernel: what the assembler says that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-W", "ignore", str(HERE / "compile_ahead.py"), "--targets", "sm_90", "--quick"]
        run = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, check=False)
        if run.returncode:
            recorder.add("compile_ahead.py", status=FAILED, note=" ".join(run.stderr.split())[-300:])
            return
        for row in json.loads(path.read_text()):
            names = ("registers", "spill_bytes", "shared_bytes", "instructions_per_logit", "exponentials_per_logit")
            figures = {name.replace("_", " "): row[name] for name in names if row[name] is not None}
            if row["instructions_per_logit"] is not None and row["head_dim"] == MODELS[0].dim:
                figures[ISSUE] = 1e6 * issue_seconds(row["kernel"], row["instructions_per_logit"])
            case = f"{row['kernel']}, {row['dtype']}, dim {row['head_dim']}, {row['options']}"
            spills = bool(row["spill_bytes"])
            recorder.add(case, figures, FAILED if spills else OK, "registers are spilled" if spills else "")


def _environment(wheels: Path | None, folder: Path) -> dict[str, str]:
    """What the stages start with: the checkout first on the path, unpacked wheels last, and nothing from a network."""
    places = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "integrations"), str(HERE)]
    if os.environ.get("PYTHONPATH"):
        places.append(os.environ["PYTHONPATH"])
    if wheels is not None:
        target = folder / "wheels"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
        subprocess.run([*command, str(target), *map(str, sorted(wheels.glob("*.whl")))], check=True)
        places.append(str(target))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(places)}


def _device(environment: dict[str, str]) -> str:
    """Asked in a process of its own, so that this one holds nothing on the device."""
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    told_device = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if told_device.returncode:
        sys.exit(f"torch cannot be imported: {told_device.stderr.strip().splitlines()[-1:]}")
    return told_device.stdout.split()[-1]


def _facts(device: str, seconds: float) -> dict[str, str]:
    """Machine, versions and command."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            machine = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip() + "; " + machine
        except (OSError, subprocess.CalledProcessError):
            machine = f"{device}; {machine}"
    command = " ".join(["python", "kernels/benchmarks/on_gpu.py", *sys.argv[1:]])
    return {
        "machine": machine if device != "cpu" else f"{NO_GPU}; {machine}",
        "versions": ", ".join(versions),
        "command": command,
        "taken": f"{time.strftime('%Y-%m-%d')}, {seconds:.0f} s",
    }


def _counted(rows: Sequence[Row], stage: Stage) -> str:
    own = [row for row in rows if row.stage == stage.name]
    counts = {status: sum(row.status == status for row in own) for status in (OK, FAILED, SKIPPED)}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing"


def _by_test(rows: Sequence[Row]) -> list[Row]:
    """Hundreds of checks as one row per test."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.case.partition("[")[0], []).append(row)
    short = []
    for name, own in sorted(groups.items()):
        counts = {status: sum(row.status == status for row in own) for status in (OK, FAILED, SKIPPED)}
        worst = FAILED if counts[FAILED] else SKIPPED if counts[SKIPPED] else OK
        note = next((row.note for row in own if row.status == worst and row.note), "")
        short.append(Row(own[0].stage, name, dict(counts), worst, note))
    return short


def _write(
    out: Path,
    facts: dict[str, str],
    ran: Sequence[Stage],
    rows: Sequence[Row],
    verdicts: Sequence[Sequence[str]],
    summary: list[list[str]],
) -> None:
    on_cpu = facts["machine"].startswith(NO_GPU)
    page = out.with_suffix(".json")
    if on_cpu and page.exists() and not json.loads(page.read_text())["machine"].startswith(NO_GPU):
        out = out.with_name(f"{out.name}-on-cpu")  # what a GPU has measured stays
    lines = ["# On a GPU", "", "Written by `make gpu`; every figure of this page is from one run.", ""]
    if on_cpu:
        lines += [
            "**No GPU was there.** The kernels ran on Triton's interpreter and were compiled ahead for sm_90, and the "
            "methods ran on tiny models on the CPU, by the same lines of code. Nothing here says how fast a GPU is. "
            "Left out: times on CUDA, shares of the roofline, memory, models of 8B and 14B, graphs and flash-attn.",
            "",
        ]
    lines += [f"- {name}: {f'`{value}`' if name == 'command' else value}" for name, value in facts.items()]
    missed = any(row[2] == MISSED for row in verdicts)
    lines += ["", "## Goals", "", markdown(["goal", "found", "verdict"], verdicts)]
    if missed:
        lines += [
            "",
            "What is missed is to be profiled: `--stages kernels` or `--stages methods-8B` repeats a stage alone. "
            "A tiling that is faster than the one in use belongs into the kernel's `tiling.py`.",
        ]
    for stage in ran:
        own = [row for row in rows if row.stage == stage.name]
        if stage.name == "correctness":
            own = _by_test(own)
        lines += ["", f"## {stage.title}", "", markdown(*grid(own))]
    with whole_file(out.with_suffix(".md")) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with whole_file(out.with_suffix(".json")) as path:
        found = {**facts, "goals": [list(line) for line in verdicts], "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    try:
        with whole_file(out.with_suffix(".png")) as path:
            title = f"{facts['machine']}\n{facts['versions']}\n{facts['command']}; {facts['taken']}"
            draw(title, ["", "found", "verdict"], summary, path)
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
