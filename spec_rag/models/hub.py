"""Model files on the Hugging Face hub: whether the local cache has all that a load needs, and their download.

The hub library makes every request, so its settings hold (HF_ENDPOINT, HTTPS_PROXY, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE
...) and its errors pass through. This module does not load models.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import huggingface_hub
import huggingface_hub.utils
import transformers
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RemoteEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from spec_rag.errors import ModelNotFoundError
from spec_rag.utils.progress import Listener, current_listener

Need: TypeAlias = Literal["config", "tokenizer", "model"]
"""What is loaded: the config alone, the tokenizer, or tokenizer and weights."""

CONFIG = "config.json"
# what from_pretrained asks for and does without, so that only the hub knows whether the model has it
_OPTIONAL: dict[Need, tuple[str, ...]] = {
    "config": (),
    "tokenizer": ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"),
    "model": ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"),
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the order in which transformers looks for them
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".ckpt", ".npz")
_SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".vocab")
_VOCABULARY_SUFFIXES = (".model", ".tiktoken", ".bpe", ".vocab")
_LARGE_JSON = 2**20  # reading a large tokenizer.json only to check it would take as long as loading it
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit in the hub cache.

    Attributes:
        name: the model's hub id.
        folder: the folder of the commit, which is named by its hash.
    """

    name: str
    folder: Path

    @classmethod
    def find(cls, name: str, revision: str | None) -> Snapshot | None:
        """The snapshot that the cache has of that revision, or None if it has no config of it.

        Raises:
            huggingface_hub.errors.HFValidationError: the name is no hub id.
        """
        config = try_to_load_from_cache(name, CONFIG, revision=revision)
        return cls(name, Path(config).parent) if isinstance(config, str) else None

    @property
    def commit(self) -> str:
        """The commit's hash."""
        return self.folder.name

    def missing(self, need: Need) -> list[str]:
        """The files that a load cannot do without and that are absent or damaged."""
        absent = [CONFIG] if not self._has(CONFIG) else []
        if need == "config":
            return absent
        listed = self._listed()
        for file in _OPTIONAL[need]:
            known_to_exist = listed is not None and file in listed
            if not self._has(file) and (
                known_to_exist or (file == "tokenizer_config.json" and not self._settled(file))
            ):
                absent.append(file)
        absent += [file for file in self._missing_vocabulary() if file not in absent]
        return absent + (self._missing_weights() if need == "model" else [])

    def unsettled(self, need: Need) -> list[str]:
        """The optional files that are absent and of which the cache does not record that the model has none."""
        return [file for file in _OPTIONAL[need] if not self._settled(file)]

    def damaged(self, file: str) -> bool:
        """Whether the file is there and cannot be what the hub has: empty, or weights that are cut off."""
        path = self.folder / file
        return path.is_file() and not _is_sound(path)

    def _has(self, file: str) -> bool:
        return _is_sound(self.folder / file)

    def _settled(self, file: str) -> bool:
        if self._has(file):
            return True
        listed = self._listed()
        if listed is not None:
            return file not in listed
        known = try_to_load_from_cache(self.name, file, revision=self.commit)
        return known is not None and not isinstance(known, str)

    def _listed(self) -> set[str] | None:
        """The names of all files of the commit, or None where the cache has no listing."""
        if not hasattr(huggingface_hub, "get_cached_repo_tree"):
            return None  # huggingface_hub 1
        try:
            return {file.path for file in huggingface_hub.get_cached_repo_tree(self.name, revision=self.commit)}
        except huggingface_hub.errors.CachedRepoTreeNotFoundError:
            return None

    def _missing_vocabulary(self) -> list[str]:
        files = {path.name for path in self.folder.iterdir() if self._has(path.name)}
        if "tokenizer.json" not in files and "vocab.json" in files and "merges.txt" not in files:
            return ["merges.txt"]
        found = files.intersection(_VOCABULARIES) or [file for file in files if file.endswith(_VOCABULARY_SUFFIXES)]
        return [] if found else ["tokenizer.json"]

    def _missing_weights(self) -> list[str]:
        gaps: list[str] = []
        for file in _WEIGHTS:
            if self._has(file):
                return []
            index = self.folder / f"{file}.index.json"
            if _is_sound(index):
                shards = [shard for shard in _shards(index) if not self._has(shard)]
                if not shards:
                    return []
                gaps = gaps or shards
        return gaps or [_WEIGHTS[0]]


def download(name: str, revision: str | None, need: Need, *, own_code: bool, timeout: float) -> str | None:
    """Download what the hub cache lacks of a model; a listener, or else a terminal, is shown each file's progress.

    Files that are whole in the cache are not downloaded again. The small files come first, so weights in the cache
    mean that everything else is there.

    Args:
        name: hub id.
        revision: branch, tag or commit; None is the main branch.
        need: what will be loaded.
        own_code: download the model's Python files too.
        timeout: seconds to wait for the hub's first answer.

    Returns:
        The commit's hash, or None if the model's files are of a layout that only transformers knows.

    Raises:
        ModelNotFoundError: the model is there as GGUF files alone.
        Exception: whatever the hub library raises; see `hub_errors.explanation`.
    """
    with _quiet_hub():
        _refuse_offline()
        commit, files = _listing(name, revision, timeout)
        _refuse_gguf(name, files)
        with suppress(RemoteEntryNotFoundError):
            hf_hub_download(
                name, CONFIG, revision=revision, **_bars()
            )  # by the revision's name, which the cache then resolves
        if commit is None or CONFIG not in files:
            return None
        for file in _small_files(files, own_code) if need != "config" else [CONFIG]:
            _fetch(name, file, commit)
        if need == "model":
            weights = _weight_files(name, files, commit)
            if not weights:
                return None
            for file in weights:
                _fetch(name, file, commit)
        for file in set(_OPTIONAL[need]).difference(files):
            _record_absence(name, file, commit)
        return commit


def _refuse_offline() -> None:
    """The hub library reads TRANSFORMERS_OFFLINE at its import alone, and huggingface_hub 1 not at all."""
    if os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineModeIsEnabled("Offline mode is enabled: TRANSFORMERS_OFFLINE is set.")


def _listing(name: str, revision: str | None, timeout: float) -> tuple[str | None, list[str]]:
    """The commit that the revision names, and its files; None and none from a mirror that only serves files."""
    try:
        about = HfApi().model_info(name, revision=revision or constants.DEFAULT_REVISION, timeout=timeout)
    except HfHubHTTPError as error:
        if type(error) is HfHubHTTPError and error.response.status_code == 404:
            return None, []
        raise
    return about.sha, [file.rfilename for file in about.siblings or []]


def _refuse_gguf(name: str, files: Sequence[str]) -> None:
    gguf = [file for file in files if file.endswith(".gguf")]
    if gguf and CONFIG not in files:
        raise ModelNotFoundError(
            f"Model {name!r} is on the hub as GGUF files alone: download one (hf download {name} {gguf[0]}), and give "
            "its path."
        )


def _fetch(name: str, file: str, commit: str) -> None:
    snapshot = Snapshot.find(name, commit)
    again = snapshot is not None and snapshot.damaged(file)
    hf_hub_download(name, file, revision=commit, force_download=again, **_bars())


def _bars() -> dict[str, Any]:
    """How a download shows how far it is: to a listener, as megabytes; else by the hub library's own bars."""
    listener = current_listener()
    if listener is None or "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return {}
    report: Listener = listener

    class Told(tqdm):  # type: ignore[misc]
        def __init__(self, *given: Any, **settings: Any) -> None:
            super().__init__(*given, **{**settings, "file": io.StringIO()})
            self._tell()

        def update(self, count: float | None = 1) -> bool | None:
            shown: bool | None = super().update(count)
            self._tell()
            return shown

        def _tell(self) -> None:
            total = max(1, round((self.total or 0) / 1e6))
            done = total if self.total and self.n >= self.total else min(total, int(self.n / 1e6))
            if getattr(self, "_told", None) != (done, total):
                self._told = (done, total)
                report(f"Downloading {self.desc.removesuffix(': ')} (MB)", done, total)

    return {"tqdm_class": Told}


def _record_absence(name: str, file: str, commit: str) -> None:
    """Let the hub library note in the cache that the model has no such file."""
    if try_to_load_from_cache(name, file, revision=commit) is None:
        with suppress(EntryNotFoundError, OSError):  # without the note the hub is asked again next time
            hf_hub_download(name, file, revision=commit)


def _small_files(files: Sequence[str], own_code: bool) -> Iterator[str]:
    for file in files:
        at_top, suffix = "/" not in file, Path(file).suffix
        small = at_top and suffix in _SMALL_SUFFIXES and not file.endswith((".index.json", "trainer_state.json"))
        code = suffix == ".py" or (at_top and suffix not in (*_SMALL_SUFFIXES, *_WEIGHT_SUFFIXES))
        if small or file.startswith("additional_chat_templates/") or (own_code and code):
            yield file


def _weight_files(name: str, files: Sequence[str], commit: str) -> list[str]:
    """The weights in the form that transformers prefers; of sharded ones the index is downloaded here."""
    for file in _WEIGHTS:
        if file in files:
            return [file]
        index = f"{file}.index.json"
        if index in files:
            _fetch(name, index, commit)
            return _shards(Path(hf_hub_download(name, index, revision=commit)))
    return []


def _shards(index: Path) -> list[str]:
    """The files that an index of weights names."""
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _is_sound(path: Path) -> bool:
    """Whether the file is there and not empty, if JSON, complete, and if safetensors, as long as its header says."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt"):
                return True
        if path.suffix == ".json" and path.stat().st_size < _LARGE_JSON:
            json.loads(path.read_bytes())
        return path.stat().st_size > 0
    except (OSError, ValueError, SafetensorError):
        return False


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """No warnings of the hub library about retries, missing tokens and transports; its errors are raised."""
    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' warnings and progress bars while a model is loaded; downloads on a terminal keep their bar."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    downloads_hidden = huggingface_hub.utils.are_progress_bars_disabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()  # those of the hub too
    if not downloads_hidden and sys.stderr.isatty():
        huggingface_hub.utils.enable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()  # and, unasked, those of the hub
        if downloads_hidden:
            huggingface_hub.utils.disable_progress_bars()
        else:
            huggingface_hub.utils.enable_progress_bars()
