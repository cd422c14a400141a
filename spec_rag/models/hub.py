"""Model files on the Hugging Face hub: completeness of the local cache, download, and output while loading.

The hub library makes every request, so its settings apply (HF_ENDPOINT, HTTPS_PROXY, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE
...) and its errors are passed on.
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
"""Parts to load: the config, the tokenizer, or tokenizer and weights."""

CONFIG = "config.json"
# files that from_pretrained requests but does not require: only the hub knows whether the model has them
_OPTIONAL: dict[Need, tuple[str, ...]] = {
    "config": (),
    "tokenizer": ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"),
    "model": ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"),
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in transformers' order of preference
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".ckpt", ".npz")
_SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".vocab")
_VOCABULARY_SUFFIXES = (".model", ".tiktoken", ".bpe", ".vocab")
_LARGE_JSON = 2**20  # larger JSON files are not parsed as a check, which would take as long as loading them
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
        """The cached snapshot of a revision, or None if its config is not cached.

        Raises:
            huggingface_hub.errors.HFValidationError: the name is not a hub id.
        """
        config = try_to_load_from_cache(name, CONFIG, revision=revision)
        return cls(name, Path(config).parent) if isinstance(config, str) else None

    @property
    def commit(self) -> str:
        """The commit's hash."""
        return self.folder.name

    def missing(self, need: Need) -> list[str]:
        """Required files that are absent or damaged."""
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
        """Optional files that are neither cached nor recorded as absent from the model."""
        return [file for file in _OPTIONAL[need] if not self._settled(file)]

    def damaged(self, file: str) -> bool:
        """Whether the file exists but is empty or truncated."""
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
        """The names of all files of the commit, or None if the cache has no listing."""
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
    """Download the files of a model that the hub cache lacks, with progress for a listener or on a terminal.

    Complete files are not downloaded again. Small files come first, so cached weights imply that all others are cached.

    Args:
        name: hub id.
        revision: branch, tag or commit; None is the main branch.
        need: the parts to download.
        own_code: download the model's Python files too.
        timeout: seconds to wait for the hub's first response.

    Returns:
        The commit's hash, or None if only transformers knows the layout of the model's files.

    Raises:
        ModelNotFoundError: the model has only GGUF files.
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
    """Check TRANSFORMERS_OFFLINE, which the hub library reads only on import, and huggingface_hub 1 never."""
    if os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineModeIsEnabled("Offline mode is enabled: TRANSFORMERS_OFFLINE is set.")


def _listing(name: str, revision: str | None, timeout: float) -> tuple[str | None, list[str]]:
    """The commit of a revision and its files; (None, []) from a mirror that only serves files."""
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
            f"Model {name!r} has only GGUF files on the hub: download one (hf download {name} {gguf[0]}), and give "
            "its path."
        )


def _fetch(name: str, file: str, commit: str) -> None:
    snapshot = Snapshot.find(name, commit)
    again = snapshot is not None and snapshot.damaged(file)
    hf_hub_download(name, file, revision=commit, force_download=again, **_bars())


def _bars() -> dict[str, Any]:
    """Arguments that report a download to the listener, in megabytes; none without a listener."""
    listener = current_listener()
    if listener is None or "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return {}
    report: Listener = listener

    class ListenerBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})
            self._report()

        def update(self, count: float | None = 1) -> bool | None:
            shown: bool | None = super().update(count)
            self._report()
            return shown

        def _report(self) -> None:
            total = max(1, round((self.total or 0) / 1e6))
            done = total if self.total and self.n >= self.total else min(total, int(self.n / 1e6))
            if getattr(self, "_reported", None) != (done, total):
                self._reported = (done, total)
                report(f"Downloading {self.desc.removesuffix(': ')} (MB)", done, total)

    return {"tqdm_class": ListenerBar}


def _record_absence(name: str, file: str, commit: str) -> None:
    """Make the hub library record in the cache that the model lacks the file."""
    if try_to_load_from_cache(name, file, revision=commit) is None:
        with suppress(EntryNotFoundError, OSError):  # without the record the hub is asked again next time
            hf_hub_download(name, file, revision=commit)


def _small_files(files: Sequence[str], own_code: bool) -> Iterator[str]:
    for file in files:
        at_top, suffix = "/" not in file, Path(file).suffix
        small = at_top and suffix in _SMALL_SUFFIXES and not file.endswith((".index.json", "trainer_state.json"))
        code = suffix == ".py" or (at_top and suffix not in (*_SMALL_SUFFIXES, *_WEIGHT_SUFFIXES))
        if small or file.startswith("additional_chat_templates/") or (own_code and code):
            yield file


def _weight_files(name: str, files: Sequence[str], commit: str) -> list[str]:
    """The weight files in the format that transformers prefers; downloads the index of sharded weights."""
    for file in _WEIGHTS:
        if file in files:
            return [file]
        index = f"{file}.index.json"
        if index in files:
            _fetch(name, index, commit)
            return _shards(Path(hf_hub_download(name, index, revision=commit)))
    return []


def _shards(index: Path) -> list[str]:
    """The files named in an index of weights."""
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _is_sound(path: Path) -> bool:
    """Whether the file exists, is not empty, parses if it is JSON, and has its stated length if it is safetensors."""
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
    """Silence the hub library's warnings; errors are still raised."""
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
    transformers.utils.logging.disable_progress_bar()  # this also hides the hub's bars
    if not downloads_hidden and sys.stderr.isatty():
        huggingface_hub.utils.enable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()  # this also shows the hub's bars
        if downloads_hidden:
            huggingface_hub.utils.disable_progress_bars()
        else:
            huggingface_hub.utils.enable_progress_bars()
