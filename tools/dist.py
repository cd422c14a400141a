"""Build the sdist and the wheel twice, under other circumstances, and keep them only if both times gave the same bytes.

    python tools/dist.py [--out dist]       # needs build and twine

The second build has another folder, time zone, umask and hash seed, and makes its wheel from the sdist. The time in the
archives is that of the last commit, or SOURCE_DATE_EPOCH where it is set.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Build, compare, check, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    time = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct").strip()
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        tree = Path(folder) / "another place" / "tree"
        copy_tree(tree)
        # both at once: an sdist and a wheel of the tree
        build(ROOT, first, time, {}, "--sdist", "--wheel")
        # the sdist, and from it the wheel, as a packager does
        build(tree, second, time, {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "77", "UMASK": "077"})
        found, again = hashes(first), hashes(second)
        for name in sorted(found.keys() | again.keys()):
            print(f"{found.get(name, 'missing')}  {name}")
        if found != again:
            sys.exit(f"The second build differs: {again}")
        files = sorted(first.iterdir())
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, out / file.name)
    print(f"The same bytes twice; in {out}")


def copy_tree(to: Path) -> None:
    """The files that git knows or would add, as they are now."""
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def git(*words: str) -> str:
    """What a git command prints about this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def build(tree: Path, out: Path, time: str, circumstances: dict[str, str], *what: str) -> None:
    """Build what is asked for, or the sdist and from it the wheel."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": time, **circumstances}
    umask = int(environment.pop("UMASK", "022"), 8)
    command = [sys.executable, "-m", "build", "--outdir", str(out), *what, str(tree)]
    done = subprocess.run(command, env=environment, umask=umask, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


if __name__ == "__main__":
    main()
