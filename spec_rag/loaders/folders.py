"""Access to the files of a folder. Links that lead out of the folder are never followed.

Every reader of folders uses this module: the command line, the MCP server and `read_files`.
A path is resolved first and refused if the result is outside the folder. The file is then opened one path component at
a time without following links, so that a link that is put in place between the two steps is not followed either.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spec_rag.errors import UnreadableFileError

PathLike = str | Path
Skipped = Callable[[UnreadableFileError], None]

_NAMED_LINKS = 5  # names in the message about links that are not followed
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a pipe does not wait for its other end
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | _NONBLOCK | _CLOEXEC | _BINARY
_CAN_WALK = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")


@dataclass(frozen=True)
class FoundFile:
    """A file to read.

    Attributes:
        path: the path that is shown to the user.
        real_path: the same file as an absolute path without links.
        folder: the real path of the folder that the file must not be outside of; None for a file that the user named.
    """

    path: Path
    real_path: Path
    folder: Path | None = None

    def open(self) -> BinaryIO:
        """Open the file for reading.

        Raises:
            UnreadableFileError: it cannot be opened, is not a regular file, or a link has taken its place.
        """
        try:
            if not stat.S_ISREG(os.stat(self.path if self.folder is None else self.real_path).st_mode):
                raise UnreadableFileError(f"{self.path} is a device or a pipe: give a file.")
            descriptor = os.open(self.path, _READ) if self.folder is None else self._open_inside(self.folder)
        except OSError as error:
            raise UnreadableFileError(f"{self.path} cannot be opened: {error.strerror or error}.") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnreadableFileError(f"{self.path} is a device or a pipe: give a file.")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def _open_inside(self, folder: Path) -> int:
        parts = self.real_path.relative_to(folder).parts
        if not _CAN_WALK:  # Windows: the path has been resolved, which is all that can be done
            return os.open(self.real_path, _READ)
        return _open_without_links(folder, parts)


def find_named_file(path: PathLike) -> FoundFile:
    """The file of a path that the user named; if it is a link, the link is followed.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: the path cannot be resolved.
    """
    shown = Path(path)
    real = _resolved(shown)
    if not os.path.exists(real):
        raise FileNotFoundError(f"{shown}: there is no such file or folder. Check the path.")
    return FoundFile(shown, real)


def find_inside(folders: Sequence[Path], path: PathLike) -> FoundFile:
    """The file or folder of a path below one of the folders.

    Args:
        folders: the folders that may be read. A folder may itself be a link.
        path: relative to one of the folders, or absolute.

    Raises:
        UnreadableFileError: there is no such file below the folders, a link leads out of them, or it is hidden. The
            message is the same for all of these and tells nothing about files outside.
    """
    for folder in folders:
        try:
            root = _resolved(folder)
            real = _resolved(root / path)
        except UnreadableFileError:
            continue
        if _is_shown(root, real) and os.path.exists(real):
            return FoundFile(Path(folder) / real.relative_to(root), real, root)
    raise UnreadableFileError(
        f"path={str(path)!r:.200}: there is no such file or folder below the given folders. Hidden files and links "
        "that lead out of the folders are not read."
    )


def list_folder(
    folder: PathLike, suffixes: Sequence[str], skipped: Skipped, *, root: Path | None = None
) -> list[FoundFile]:
    """The files below a folder whose suffix is one of `suffixes`, in alphabetical order.

    Hidden files and folders are left out. A link is listed if it leads to a file inside the folder that is not hidden.

    Args:
        folder: the folder, which may itself be a link.
        suffixes: lower-case, with their dots.
        skipped: called with an error for each entry that cannot be read, and once for all links that lead out.
        root: the folder that links must not lead out of; None is `folder`.
    """
    folder = Path(folder)
    real_folder = _resolved(folder)
    root = real_folder if root is None else root
    found: list[FoundFile] = []
    outside: list[str] = []
    for relative in sorted(_entries(real_folder, suffixes, folder, skipped)):
        entry = _entry(folder / relative, real_folder / relative, root, suffixes, skipped)
        if entry == "outside":
            outside.append(str(relative))
        elif isinstance(entry, FoundFile):
            found.append(entry)
    if outside:
        skipped(_leads_out(folder, outside))
    return found


def _entries(real_folder: Path, suffixes: Sequence[str], shown: Path, skipped: Skipped) -> Iterator[Path]:
    """Relative paths of the files with these suffixes and of all links to folders."""

    def unreadable(error: OSError) -> None:
        place = shown / Path(error.filename).relative_to(real_folder) if error.filename else shown
        skipped(UnreadableFileError(f"{place} cannot be read: {error.strerror or error}."))

    for place, folders, files in os.walk(real_folder, followlinks=False, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(place).relative_to(real_folder)
        yield from (relative / name for name in folders if os.path.islink(os.path.join(place, name)))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield relative / name


def _entry(path: Path, place: Path, root: Path, suffixes: Sequence[str], skipped: Skipped) -> FoundFile | str | None:
    """The file at a place in a folder, "outside" for a link out of the folder, or None for what is left out."""
    is_link = place.is_symlink()
    try:
        real = place.resolve(strict=True) if is_link else place
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        if place.suffix.lower() in suffixes:
            skipped(UnreadableFileError(f"{path} is a link that leads nowhere."))
        return None
    if not real.is_relative_to(root):
        return "outside"
    if is_link and (real.is_dir() or not _is_shown(root, real)):
        return None  # a folder inside is walked at its own place
    if not real.is_file():
        skipped(UnreadableFileError(f"{path} is a device or a pipe: give a file."))
        return None
    return FoundFile(path, real, root)


def _leads_out(folder: Path, names: Sequence[str]) -> UnreadableFileError:
    shown = ", ".join(names[:_NAMED_LINKS]) + (", ..." if len(names) > _NAMED_LINKS else "")
    links = "1 link leads" if len(names) == 1 else f"{len(names)} links lead"
    return UnreadableFileError(
        f"{folder}: {links} out of the folder and cannot be followed ({shown}). Give the files by their own paths to "
        "read them."
    )


def _is_shown(root: Path, real: Path) -> bool:
    """Whether a real path is inside a real folder, and no part of it below the folder is hidden."""
    return real.is_relative_to(root) and not any(part.startswith(".") for part in real.relative_to(root).parts)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a NUL character
        raise UnreadableFileError(f"{str(path)!r:.200} is not a path that can be read: {error}.") from error


def _open_without_links(folder: Path, parts: Sequence[str]) -> int:
    """Open a file below a folder. None of `parts` may be a link.

    Raises:
        OSError: a part is a link, is missing or cannot be read.
    """
    through = os.O_DIRECTORY | os.O_NOFOLLOW | _CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
    place = os.open(folder, through & ~os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            below = os.open(part, through, dir_fd=place)
            os.close(place)
            place = below
        return os.open(parts[-1], _READ | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)
