"""Search in folders whose files are read once, and again when they are modified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spec_rag.answering.chunking import Chunk, ChunkIndex, split_chunks
from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.file_cache import FileCache
from spec_rag.loaders.reading import read_files
from spec_rag.text.documents import Document
from spec_rag.utils.forking import new_lock


@dataclass(frozen=True)
class FoundChunks:
    """The best chunks of a search.

    Attributes:
        chunks: best first.
        texts: the whole texts of the searched files by their ids.
        skipped: why files were left out, a line each.
    """

    chunks: list[Chunk]
    texts: dict[str, str]
    skipped: list[str]


class FolderSearch:
    """Keeps the chunks of files and the words in them between searches. Safe for threads; searches run one by one.

    Args:
        folders: outside of which nothing is read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._files = FileCache()
        self._chunks: dict[int, tuple[Document, list[Chunk]]] = {}  # by the identity of their document
        self._index: tuple[list[Document], ChunkIndex] | None = None
        self._lock = new_lock()

    def search(
        self, question: str, paths: Sequence[str] | None, top_k: int, check: Callable[[], None] = lambda: None
    ) -> FoundChunks:
        """The best chunks for a question.

        Args:
            question: the question.
            paths: files and folders below the folders; None or none searches all of them.
            top_k: number of chunks.
            check: called between the steps; what it raises ends the search.

        Raises:
            ConfigError: the question is empty, or top_k is below 1.
            FileNotFoundError: a path does not exist.
            UnreadableFileError: nothing can be read.
        """
        skipped: list[str] = []
        with self._lock:
            documents = read_files(
                list(paths or self._folders),
                within=self._folders,
                skipped=lambda error: skipped.append(str(error)),
                cache=self._files,
            )
            check()
            index = self._index_of(documents, whole=not paths)
        return FoundChunks(index.retrieve(question, top_k), {str(one.id): one.text for one in documents}, skipped)

    def text(self, path: str) -> str:
        """The text of one file below the folders.

        Raises:
            FileNotFoundError: there is no such file.
            UnreadableFileError: it cannot be read, or it is a folder with other than one file.
        """
        with self._lock:
            found = read_files([path], within=self._folders, cache=self._files)
        if len(found) != 1:
            raise UnreadableFileError(f"{path}: is a folder; name a file.")
        return found[0].text

    def _index_of(self, documents: list[Document], *, whole: bool) -> ChunkIndex:
        """The words of the documents; counted again where one of them was modified."""
        if self._index is not None and _same(self._index[0], documents):
            return self._index[1]
        known = {id(one): self._chunks.get(id(one)) or (one, split_chunks(one)) for one in documents}
        if whole:  # what was read for a search of everything is all there is
            self._chunks = known
            self._files.forget_missing()
        else:
            self._chunks |= known
        index = ChunkIndex([chunk for one in documents for chunk in known[id(one)][1]])
        self._index = (documents, index)
        return index


def _same(known: Sequence[Document], documents: Sequence[Document]) -> bool:
    return len(known) == len(documents) and all(a is b for a, b in zip(known, documents, strict=True))
