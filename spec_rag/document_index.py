"""Encoded passages kept from query to query: in memory with a byte budget, over a folder on disk.

Content-addressed: the key covers text, title, draft, instruction, depth and storage type, so nothing stale is ever
found. Files are written atomically and carry a checksum; a damaged or foreign file is recomputed, never trusted. This
module does not know models: it stores what it is given.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from spec_rag.document_reader import EncodedPassage
from spec_rag.errors import ConfigError

logger = logging.getLogger(__name__)

StorageType = Literal["float32", "float16", "int8"]
_FORMAT = "1"
_UNFINISHED = ".tmp"
_ABANDONED_SECONDS = 3600  # no write takes as long


def content_address(*parts: str) -> str:
    """A name for what these parts determine; no two lists of parts share one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part.encode()).to_bytes(8, "little"))
        digest.update(part.encode())
    return digest.hexdigest()


class DocumentIndex:
    """A store of encoded passages, safe for several threads and processes.

    Args:
        folder: where files live; None keeps everything in memory.
        memory_bytes: the most that is held in memory; the least recently used passages go first.
        storage: precision of the stored keys and values: "float16" halves float32 without measurable loss, "int8"
            (one scale per layer, KV head and token) halves it again.

    Attributes:
        hits, misses: passages found and not found so far.
        write_error: why a passage could last not be written to the folder; None if all could.

    Raises:
        ConfigError: an argument is out of range, or `folder` is a file.
    """

    def __init__(
        self, folder: str | Path | None = None, memory_bytes: int = 2 * 2**30, storage: StorageType = "float16"
    ) -> None:
        if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes < 0:
            raise ConfigError(f"memory_bytes={memory_bytes!r}: must be a non-negative integer.")
        if storage not in get_args(StorageType):
            raise ConfigError(f"storage={storage!r}: must be one of {', '.join(get_args(StorageType))}.")
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"folder={str(folder)!r} is a file: give a folder, which will be made if need be.")
        self.memory_bytes = memory_bytes
        self.storage: StorageType = storage
        self.hits = 0
        self.misses = 0
        self.write_error: OSError | None = None
        self._memory: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def key(self, *parts: str) -> str:
        """The address of what is determined by these parts, at this index's precision."""
        return content_address(_FORMAT, self.storage, *parts)

    def get(self, key: str) -> EncodedPassage | None:
        """The passage stored under a key, in float32 or float16, or None."""
        with self._lock:
            stored = self._memory.get(key)
            if stored is not None:
                self._memory.move_to_end(key)
        if stored is None and self.folder is not None:
            stored = self._read(key)
            if stored is not None:
                self._hold(key, stored)
        with self._lock:
            self.hits += stored is not None
            self.misses += stored is None
        return None if stored is None else _unpacked(stored)

    def put(self, key: str, passage: EncodedPassage) -> EncodedPassage:
        """Store a passage and return it as `get` will. A full disk costs its reuse later, never the query."""
        stored = _packed(passage, self.storage)
        self._hold(key, stored)
        if self.folder is not None:
            try:
                self._write(key, stored)
            except OSError as error:
                if self.write_error is None:
                    logger.warning(
                        "The index in %s cannot be written (%s): passages are only kept in memory.", self.folder, error
                    )
                self.write_error = error
        return _unpacked(stored)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            if key in self._memory:
                return True
        return self.folder is not None and self._read(key) is not None

    @property
    def held_bytes(self) -> int:
        """Bytes held in memory."""
        return self._held_bytes

    def stored_bytes(self, key: str) -> int:
        """Bytes of a passage's file; 0 where there is none."""
        try:
            return 0 if self.folder is None else self._path(key).stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files of the folder."""
        if self.folder is None or not self.folder.is_dir():
            return 0
        return sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors"))

    def _hold(self, key: str, stored: dict[str, Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in stored.values())
        with self._lock:
            old = self._memory.pop(key, None)
            if old is not None:
                self._held_bytes -= sum(tensor.nbytes for tensor in old.values())
            if size > self.memory_bytes:
                return
            self._memory[key] = stored
            self._held_bytes += size
            while self._held_bytes > self.memory_bytes:
                _, dropped = self._memory.popitem(last=False)
                self._held_bytes -= sum(tensor.nbytes for tensor in dropped.values())

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"

    def _write(self, key: str, stored: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        metadata = {"key": key, "sha256": _checksum(stored)}
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=_UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(stored, metadata=metadata))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _read(self, key: str) -> dict[str, Tensor] | None:
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("key") == key and metadata.get("sha256") == _checksum(stored):
                return stored
            reason = "its checksum or key does not match"
        except (SafetensorError, OSError, ValueError) as error:
            reason = str(error)
        logger.warning("Ignoring %s: %s. It will be computed anew.", path, reason)
        return None


def _remove_abandoned(folder: Path) -> None:
    """Take away what writers that were killed long ago left unfinished."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _checksum(stored: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(stored):
        tensor = stored[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _packed(passage: EncodedPassage, storage: StorageType) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, tensor in (("keys", passage.keys), ("values", passage.values)):
        tensor = tensor.detach().to("cpu", torch.float32)
        if storage == "int8":
            scale = tensor.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
            stored[name] = (tensor / scale).round().to(torch.int8).contiguous()
            stored[f"{name}_scale"] = scale.to(torch.float16).contiguous()
        else:
            stored[name] = tensor.to(getattr(torch, storage)).contiguous()
    return stored


def _unpacked(stored: dict[str, Tensor]) -> EncodedPassage:
    if "keys_scale" in stored:
        keys, values = (stored[name].float() * stored[f"{name}_scale"].float() for name in ("keys", "values"))
        return EncodedPassage(keys, values)
    return EncodedPassage(stored["keys"], stored["values"])
