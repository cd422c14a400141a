"""Write docs/licences.md: the licence of every package in the lock files, as its own metadata states it.

    python tools/licences.py --python .venv/bin/python       # needs pip-licenses

What is not installed in that environment (packages of other platforms, and NVIDIA's libraries where torch is a build
for CPUs) is listed without a licence.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
FILES = ("torch", "demo", "server", "tests")
HEAD = """\
# Licences

spec-rag is Apache-2.0. These are the packages of its [lock files](../requirements/demo.txt) with the licences that
their own metadata states; `make licences` writes the page. spec-rag ships none of them: they are installed beside it.
What is in `tests` alone only developers install. NVIDIA's libraries come with torch on Linux and have licences of their
own.

| package | version | licence | in |
|---|---|---|---|
"""


def main() -> None:
    """Ask the environment, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".venv" / "bin" / "python"))
    licences = installed(parser.parse_args().python)
    rows, unknown = [], []
    for (name, version), files in sorted(locked().items()):
        found = licences.get(name)
        if found is None:
            unknown.append(f"`{name}`")
        rows.append(f"| {name} | {version} | {found or 'not installed here'} | {', '.join(files)} |")
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(rows)} packages, {len(unknown)} not installed: {', '.join(unknown)}")


def locked() -> dict[tuple[str, str], list[str]]:
    """Name and version of each package in the lock files -> the files it is in."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in FILES:
        text = (ROOT / "requirements" / f"{file}.txt").read_text(encoding="utf-8")
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE):
            files = found.setdefault((name, version), [])
            files += [file] if file not in files else []
    return found


def installed(python: str) -> dict[str, str]:
    """Normalised name -> licence, of what is installed for that Python."""
    command = [str(Path(sys.executable).parent / "pip-licenses"), "--python", python, "--format=json"]
    command += ["--from=mixed", "--with-system"]
    listed = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {re.sub(r"[-_.]+", "-", one["Name"]).lower(): one_line(one["License"]) for one in listed}


def one_line(licence: str) -> str:
    """A licence fit for a cell; of a whole text the first line."""
    first = next((line.strip() for line in licence.splitlines() if line.strip()), "")
    return first.replace("|", "/")[:80] or "not stated"


if __name__ == "__main__":
    main()
