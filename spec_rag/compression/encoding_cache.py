"""Encoded passages kept from query to query: in memory with a byte budget, over a folder on disk.

Content-addressed: the key covers text, title, draft, instruction, depth and storage type, so nothing stale is ever
found. Files are written atomically and carry a checksum; a damaged or foreign file is recomputed, never trusted. This
module does not know models: it stores what it is given.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from spec_rag.compression.kv_quantization import Shape, StorageType, Stored, from_bytes, packed, to_bytes, unpacked
from spec_rag.errors import ConfigError
from spec_rag.utils.atomic_files import write_whole
from spec_rag.utils.forking import new_lock
from spec_rag.utils.lru_cache import LRUCache
from spec_rag.utils.validation import check_integer

if TYPE_CHECKING:
    from spec_rag.compression.passages import EncodedPassage

logger = logging.getLogger(__name__)

_FORMAT = "3"
_ABOUT = "index.json"


def content_address(*parts: str) -> str:
    """A name for what these parts determine; no two lists of parts share one."""
    digest = hashlib.sha256()
    for part in parts:
        # a lone surrogate has no encoding of its own, but is part of what the name stands for
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


class DocumentIndex:
    """A store of encoded passages, safe for several threads and processes.

    Copies are the same store. Pickled, its settings travel, and what is in memory does not.

    Args:
        folder: where files live; None keeps everything in memory.
        memory_bytes: the most that is held in memory; the least recently used passages go first.
        storage: precision of the stored keys and values: "int4" (with scales per layer, KV head and token), "int8",
            "float16" or "float32". None takes the precision that the folder was filled with, and "int4" for a new one.

    Attributes:
        hits, misses: passages found and not found so far.
        write_error: why a passage could last not be written to the folder; None if all could.

    Raises:
        ConfigError: an argument is out of range, `folder` is a file, or it was filled with another precision.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        memory_bytes: int = 2 * 2**30,
        storage: StorageType | None = None,
    ) -> None:
        if folder is not None and not isinstance(folder, str | Path):
            raise ConfigError(f"folder={folder!r} of type {type(folder).__name__}: give a path, or None for memory.")
        check_integer("memory_bytes", memory_bytes, 0)
        if storage is not None and storage not in get_args(StorageType):
            raise ConfigError(f"storage={storage!r}: must be one of {', '.join(get_args(StorageType))}, or None.")
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"folder={str(folder)!r} is a file: give a folder, which will be made if need be.")
        self.storage: StorageType = self._agreed_storage(storage)
        self.hits = 0
        self.misses = 0
        self.write_error: OSError | None = None
        self._memory: LRUCache[str, Stored] = LRUCache(memory_bytes)
        self._lock = new_lock()

    @classmethod
    def of(cls, given: DocumentIndex | str | Path | None) -> DocumentIndex | None:
        """The index that was given as such, or as the path of its folder; None is none.

        Raises:
            ConfigError: it is of another kind.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, str | Path):
            return cls(given)
        raise ConfigError(
            f"index={given!r:.80} of type {type(given).__name__}: give a DocumentIndex, or the path of its folder."
        )

    def key(self, *parts: str) -> str:
        """The address of what is determined by these parts, at this index's precision."""
        return content_address(_FORMAT, self.storage, *parts)

    def get(self, key: str, shape: Shape | None = None, first_layer: int = 0) -> EncodedPassage | None:
        """The passage stored under a key, in float32 or float16, or None.

        Args:
            key: its address.
            shape: [layers, KV heads, tokens, dim] that it must have; a file that says otherwise is not believed.
            first_layer: the layer that its keys and values begin with.
        """
        stored = self._memory.get(key)
        if stored is None and self.folder is not None:
            stored = self._read(key, shape)
            if stored is not None:
                self._hold(key, stored)
        with self._lock:
            self.hits += stored is not None
            self.misses += stored is None
        return None if stored is None else unpacked(stored, self.storage, first_layer)

    def put(self, key: str, passage: EncodedPassage) -> EncodedPassage:
        """Store a passage and return it as `get` will. A full disk costs its reuse later, never the query."""
        stored = packed(passage, self.storage)
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
        return unpacked(stored, self.storage, passage.first_layer)

    def __contains__(self, key: str) -> bool:
        return key in self._memory or (self.folder is not None and self._read(key, None) is not None)

    @property
    def memory_bytes(self) -> int:
        """The most that is held in memory. Lowering it frees at once what is beyond the new bound."""
        return self._memory.max_bytes

    @memory_bytes.setter
    def memory_bytes(self, given: int) -> None:
        check_integer("memory_bytes", given, 0)
        self._memory.max_bytes = given

    @property
    def held_bytes(self) -> int:
        """Bytes held in memory."""
        return self._memory.held_bytes

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

    def __copy__(self) -> DocumentIndex:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DocumentIndex:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return DocumentIndex, (self.folder, self.memory_bytes, self.storage)

    def _agreed_storage(self, wanted: StorageType | None) -> StorageType:
        """The precision that was asked for and the one that the folder was filled with, which must be one."""
        about = self._about()
        if about is None:
            return wanted or "int4"
        if about.get("format") != _FORMAT or about.get("storage") not in get_args(StorageType):
            raise ConfigError(
                f"folder={str(self.folder)!r} holds an index of another version of spec-rag: give another folder, or "
                "delete this one and fill it again with `spec-rag index`."
            )
        filled: StorageType = about["storage"]
        if wanted not in (None, filled):
            raise ConfigError(
                f"storage={wanted!r}, but folder={str(self.folder)!r} was filled with {filled!r}: leave storage out to "
                "use what is there, or give another folder."
            )
        return filled

    def _about(self) -> dict[str, Any] | None:
        """What the folder says of itself; None where nothing was ever written."""
        if self.folder is None or not self.folder.is_dir():
            return None
        try:
            about = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return (
                {} if any(self.folder.glob("??/*.safetensors")) else None
            )  # files of the first format had no such page
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def _hold(self, key: str, stored: Stored) -> None:
        self._memory.put(key, stored, sum(tensor.nbytes for tensor in stored.values()))

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"

    def _write(self, key: str, stored: Stored) -> None:
        assert self.folder is not None
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _ABOUT).exists():
            write_whole(self.folder / _ABOUT, json.dumps({"format": _FORMAT, "storage": self.storage}))
        write_whole(path, to_bytes(key, stored))

    def _read(self, key: str, shape: Shape | None) -> Stored | None:
        path = self._path(key)
        try:
            # the bytes themselves, not a mapping: what was checked is what is used
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("Ignoring %s: %s. It will be computed anew.", path, error)
            return None
        try:
            return from_bytes(data, key, self.storage, shape)
        except ValueError as error:
            logger.warning("Ignoring %s: %s. It will be computed anew.", path, error)
            return None
