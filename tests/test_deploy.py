"""What the files in deploy/ name is there, and images install nothing that is not pinned."""

from __future__ import annotations

import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def environment(dockerfile: Path) -> dict[str, str]:
    """What its ENV lines set."""
    pairs = [word for line in lines(dockerfile) if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return dict(pair.split("=", 1) for pair in pairs)


def test_images_share_a_numeric_user_that_owns_the_volumes() -> None:
    users = {line for path in DOCKERFILES for line in lines(path) if line.startswith(("USER ", "RUN groupadd"))}
    assert len(users) == 2
    uid = next(re.fullmatch(r"USER (\d+):\1", line) for line in users if line.startswith("USER "))
    assert uid is not None
    made = next(line for line in users if line.startswith("RUN"))
    assert f"--uid {uid[1]} " in made
    assert f"chown {uid[1]}:{uid[1]} /models /index" in made


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix)
def test_host_and_port_hold_for_every_command_of_an_image(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from spec_rag.cli import serve
    from spec_rag.cli.app import app

    for name, value in environment(dockerfile).items():
        if name.startswith("SPEC_RAG_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(serve, "run", lambda settings, host, port: print(host, port))
    command = json.loads(next(line for line in lines(dockerfile) if line.startswith("CMD "))[4:])
    for words in (command, ["serve", "--upstream", "http://vllm:8000/v1"]):
        assert "0.0.0.0 8000" in CliRunner().invoke(app, [word for word in words if "index" not in word]).output


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix)
def test_an_image_is_complete(dockerfile: Path) -> None:
    assert any("pip check" in line for line in lines(dockerfile) if "/wheels/*.whl" in line)
    text = "".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in ("server.txt", "torch.txt"))
    locked = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    for name in locked | {"spec-rag"}:
        try:
            requirements = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            continue
        for needed in requirements:
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, f"{name} needs {needed}"


def test_compose_hands_on_the_keys() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["spec-rag"]
    assert {"SPEC_RAG_API_KEYS", "SPEC_RAG_UPSTREAM_KEY"} <= set(service["environment"])
    assert "--host" not in service["command"]
