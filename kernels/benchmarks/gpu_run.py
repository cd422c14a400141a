"""Verify the kernels and measure both methods on this machine's GPU, within eight minutes.

    python kernels/benchmarks/gpu_run.py [--out docs/gpu.md] [--seconds 480] [--wheels FOLDER] [--stages NAMES]

Needs the checkout, torch, triton, transformers, pytest and what `import spec_rag.generation` needs, and no network.
Missing packages can be unpacked from a folder of wheels. Every stage runs in its own processes, the most important
first, so that a crash or an out-of-memory error costs one stage. Writes a Markdown page, and its rows as JSON.

`--device cpu` is a rehearsal without a GPU: the same stages on small shapes, the kernels on Triton's interpreter. It
prints its rows and writes nothing. The exit status is 0 only if nothing that ran failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON_PATH = (ROOT, ROOT / "kernels", ROOT / "integrations", HERE)
sys.path[:0] = map(str, PYTHON_PATH)

from gpu_results import (  # noqa: E402
    FAILED,
    NO_TIME,
    OK,
    SKIPPED,
    Recorder,
    Row,
    counted,
    error_line,
    page,
    read_rows,
    rows_table,
)

PACKAGES = ("torch", "triton", "transformers", "flash-attn", "pytest")
RESERVE_SECONDS = 12.0  # for writing the page
GRACE_SECONDS = 5.0  # between a stage's own deadline and the kill


@dataclass(frozen=True)
class Stage:
    """A stage: module and function, its share of the time in seconds, and its number of parallel processes."""

    name: str
    run: str
    seconds: float
    shards: int = 1


# In the order of importance.
STAGES = (
    Stage("correctness", "gpu_kernels:correctness", 110, min(os.cpu_count() or 1, 12)),
    Stage("kernels", "gpu_kernels:times", 65),
    Stage("answers-8B", "gpu_methods:answers", 150),
    Stage("compression", "gpu_methods:compression", 30),
    Stage("tilings", "gpu_kernels:tilings", 60),
    Stage("answers-14B", "gpu_methods:answers", 90),
)


def main() -> int:
    arguments = _arguments()
    if arguments.shard is not None:
        return run_stage(arguments)
    started = time.time()
    names = list(filter(None, arguments.stages.split(",")))
    if unknown := set(names) - {stage.name for stage in STAGES}:
        sys.exit(f"--stages has {', '.join(unknown)}; choose from {', '.join(stage.name for stage in STAGES)}")
    stages = [stage for stage in STAGES if not names or stage.name in names]
    end = started + arguments.seconds - RESERVE_SECONDS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gpu-run-") as folder:
        environment = _environment(arguments, Path(folder))
        gpu = _gpu(environment) if arguments.device == "cuda" else None
        for stage in stages:
            begin = time.time()
            stage_rows = supervise(stage, arguments.device, end, environment, Path(folder))
            rows += stage_rows
            print(f"{stage.name}: {counted(stage_rows)} in {time.time() - begin:.0f} s", file=sys.stderr, flush=True)
    if gpu is None:
        print(rows_table(rows))
    else:
        facts = _facts(gpu, time.time() - started)
        text = page(facts, [stage.name for stage in stages], rows)
        write(arguments.out, text, facts, rows)
        print(text)
    return 1 if any(row.status == FAILED for row in rows) or not any(row.status == OK for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu.md", help="path of the page")
    parser.add_argument("--seconds", type=float, default=480.0, help="time limit of the whole run")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of missing packages")
    parser.add_argument("--stages", default="", help="comma-separated names of the stages to run; default: all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal without a page")
    parser.add_argument("--shard", type=json.loads, help=argparse.SUPPRESS)  # of a child process
    return parser.parse_args()


def run_stage(arguments: argparse.Namespace) -> int:
    """Run one shard of a stage in this process and record its rows."""
    shard = arguments.shard
    recorder = Recorder(shard["stage"], Path(shard["rows"]), shard["deadline"])
    module, function = shard["run"].split(":")
    try:
        getattr(import_module(module), function)(recorder, arguments)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "spec_rag", "spec_rag_kernels") or (HERE / f"{package}.py").exists():
            raise
        recorder.add("the stage", status=SKIPPED, note=f"the package {error.name} is missing (--wheels FOLDER)")
    except Exception as error:
        recorder.add("the stage", status=FAILED, note=error_line(error))
    return 0


def supervise(stage: Stage, device: str, end: float, environment: dict[str, str], folder: Path) -> list[Row]:
    """Run a stage's processes, kill those that exceed their time, and collect their rows."""
    limit = min(stage.seconds, end - time.time())
    if limit < 3 * GRACE_SECONDS:
        return [Row(stage.name, "the stage", status=SKIPPED, note=NO_TIME)]
    environment = {**environment, "SPEC_RAG_TEST_DEVICE": device}
    environment["TRITON_INTERPRET"] = str(int(device == "cpu" and stage.name in ("correctness", "tilings")))
    if stage.name == "tilings":
        environment["SPEC_RAG_KERNELS"] = "triton"
    deadline = time.time() + limit - GRACE_SECONDS

    def run_shard(index: int) -> list[Row]:
        path = folder / f"{stage.name}-{index}.jsonl"
        shard = {"stage": stage.name, "run": stage.run, "rows": str(path), "deadline": deadline}
        options = ["--device", device, "--shard", json.dumps({**shard, "index": index, "count": stage.shards})]
        command = [sys.executable, str(Path(__file__).resolve()), *options]
        note, status = "", FAILED
        try:
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
            )
            if done.returncode:
                note = f"the process ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}"
        except subprocess.TimeoutExpired:
            note = f"stopped after {limit:.0f} s"
            # A check without a result has failed; a measurement without one is only missing.
            status = FAILED if stage.name == "correctness" else SKIPPED
        return read_rows(path) + ([Row(stage.name, "the stage", status=status, note=note)] if note else [])

    with ThreadPoolExecutor(stage.shards) as pool:
        return [row for rows in pool.map(run_shard, range(stage.shards)) for row in rows]


def _environment(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """The environment of the stages: offline, with the checkout first and unpacked wheels last on the path."""
    paths = [*map(str, PYTHON_PATH), *filter(None, [os.environ.get("PYTHONPATH")])]
    if arguments.wheels is not None:
        paths.append(str(folder / "wheels"))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", paths[-1]]
        subprocess.run([*command, *map(str, sorted(arguments.wheels.glob("*.whl")))], check=True)
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths)}


def _gpu(environment: dict[str, str]) -> str:
    """The GPU's name and memory. A child process asks, so that this one holds no device memory.

    Raises:
        SystemExit: there is no GPU, or torch cannot be imported.
    """
    code = "import torch; print(torch.cuda.get_device_properties(0) if torch.cuda.is_available() else '')"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        sys.exit(f"torch cannot be imported: {child.stderr.strip().splitlines()[-1:]}")
    if not child.stdout.strip():
        sys.exit("torch finds no GPU; --device cpu rehearses the stages without one and writes no page")
    return child.stdout.strip()


def _facts(gpu: str, seconds: float) -> dict[str, str]:
    """Machine, versions, command and duration of the run."""
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return {
        "machine": f"{gpu}; {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {installed.get(name, 'missing')}" for name in PACKAGES),
        "command": f"`{' '.join(['python', 'kernels/benchmarks/gpu_run.py', *sys.argv[1:]])}`",
        "date": f"{time.strftime('%Y-%m-%d')}, {seconds:.0f} s",
    }


def write(out: Path, text: str, facts: dict[str, str], rows: list[Row]) -> None:
    """Write the page, and its facts and rows as JSON next to it, each file atomically."""
    from spec_rag.utils.atomic_files import write_whole

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)
    write_whole(out.with_suffix(".json"), json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
