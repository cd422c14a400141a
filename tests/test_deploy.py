"""What the files in deploy/ name is there, and images install nothing that is not pinned."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))


def lines(dockerfile: Path) -> list[str]:
    """Its instructions, one a line."""
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def installs(dockerfile: Path) -> list[list[str]]:
    """The words of each `pip install`."""
    commands = [part for line in lines(dockerfile) for part in line.split("&&") if "pip install" in part]
    return [shlex.split(command.split("pip install", 1)[1]) for command in commands]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix)
def test_what_an_image_copies_is_there(dockerfile: Path) -> None:
    copied = [line.split()[1:-1] for line in lines(dockerfile) if line.startswith("COPY ") and "--from" not in line]
    assert copied
    for name in [name for names in copied for name in names]:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix)
def test_an_image_installs_what_is_locked(dockerfile: Path) -> None:
    torch = re.search(r"^torch==\S+", (ROOT / "requirements/torch.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert torch is not None
    found = set()
    for words in installs(dockerfile):
        assert "--no-deps" in words
        files = {Path(words[i + 1]).name for i, word in enumerate(words) if word == "-r"}
        found |= files
        if files:
            assert "--require-hashes" in words
            continue
        packages = [word for word in words if not word.startswith(("--", "https://"))]
        assert packages in ([torch[0]], ["/wheels/*.whl"])
        assert "--no-index" in words or packages == [torch[0]]
    assert {"build.txt", "server.txt"} <= found
    assert all((ROOT / "requirements" / name).is_file() for name in found)


def test_what_compose_names_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    build = services["spec-rag"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert (context / build["dockerfile"]).is_file()
    mounted = [volume.split(":")[0] for one in services.values() for volume in one["volumes"]]
    assert all((DEPLOY / path).is_file() for path in mounted if path.startswith("."))
