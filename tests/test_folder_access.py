"""Links inside a folder do not lead a reader out of it, whichever way the folder is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders import folders as folders_module
from spec_rag.loaders.folders import find_inside, list_folder
from spec_rag.loaders.reading import read_file, read_files

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and named pipes")
SECRET = "The password is orchid-seven."


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder with one file, next to a folder that must not be read."""
    folder, outside = tmp_path / "served", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    (outside / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("The vault is in the cellar.")
    for path in (outside / "secret.txt", outside / "deep" / "secret.md", tmp_path / "served2.txt"):
        path.write_text(SECRET)
    return folder


def link_to_file(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder.parent / "outside" / "secret.txt")


def relative_link(folder: Path) -> None:
    (folder / "sub" / "link.txt").symlink_to("../../outside/secret.txt")


def link_to_a_link(folder: Path) -> None:
    (folder / "first.txt").symlink_to("second.txt")
    (folder / "second.txt").symlink_to("sub/third.txt")
    (folder / "sub" / "third.txt").symlink_to("../../outside/secret.txt")


def link_to_a_folder(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "outside", target_is_directory=True)


def link_through_a_folder(folder: Path) -> None:
    (folder / "up").symlink_to("..", target_is_directory=True)
    (folder / "link.txt").symlink_to("up/outside/secret.txt")


def link_to_a_name_that_begins_alike(folder: Path) -> None:
    (folder / "link.txt").symlink_to("../served2.txt")


LINKS = [
    link_to_file,
    relative_link,
    link_to_a_link,
    link_to_a_folder,
    link_through_a_folder,
    link_to_a_name_that_begins_alike,
]


def texts(paths: Sequence[Path], **options: object) -> list[str]:
    return [document.text for document in read_files(paths, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", LINKS)
def test_a_link_out_of_a_folder_is_left_out_and_reported_once(served: Path, make: Callable[[Path], None]) -> None:
    make(served)
    errors: list[UnreadableFileError] = []
    assert texts([served], skipped=errors.append) == ["The vault is in the cellar."]
    (error,) = errors
    assert "out of the folder" in str(error)
    assert "secret" not in str(error)
    assert texts([served], within=[served], skipped=[].append) == ["The vault is in the cellar."]
    with pytest.raises(UnreadableFileError, match="out of the folder"):
        read_files([served])


@pytest.mark.parametrize(
    "path",
    [
        "link.txt",
        "./link.txt",
        "sub/../link.txt",
        "link",
        "link/secret.txt",
        "link/deep",
        "up/outside/secret.txt",
        "../outside/secret.txt",
        "sub/../../outside",
        "..",
        "../served2.txt",
        "{}/outside/secret.txt",
        "/etc/passwd",
        "/dev/null",
        "/proc/self/environ",
        "~/.bashrc",
        "\x00",
        "notes.txt\x00.md",
        "x" * 5000,
        "loop.txt",
        "loop.txt/x",
        ".hidden.txt",
        "shown.txt",
        ".git/config",
        "nothing.txt",
        "notes.txt/..",
    ],
)
def test_only_files_inside_the_folder_can_be_named(served: Path, path: str) -> None:
    link_to_file(served)
    link_to_a_folder(served)
    (served / "up").symlink_to("..", target_is_directory=True)
    (served / "loop.txt").symlink_to("loop.txt")
    (served / ".hidden.txt").write_text(SECRET)
    (served / "shown.txt").symlink_to(".hidden.txt")
    (served / ".git").mkdir()
    (served / ".git" / "config").write_text(SECRET)
    if path == "notes.txt/..":
        assert find_inside([served], path).real_path == served.resolve()
        return
    with pytest.raises(UnreadableFileError, match="no such file or folder below"):
        read_files([path.replace("{}", str(served.parent))], within=[served])


def test_files_inside_are_read_by_relative_and_absolute_paths_and_by_links_inside(served: Path) -> None:
    (served / "sub" / "more.txt").write_text("More.")
    (served / "again.txt").symlink_to("sub/more.txt")
    (served / "round").symlink_to("sub", target_is_directory=True)
    for path in ("sub/more.txt", "sub", "again.txt", "round", "round/more.txt", str(served / "sub/more.txt")):
        assert texts([Path(path)], within=[served]) == ["More."]
    assert sorted(texts([served])) == ["More.", "The vault is in the cellar."]


def test_the_folder_itself_may_be_a_link(served: Path) -> None:
    link = served.parent / "alias"
    link.symlink_to(served, target_is_directory=True)
    link_to_file(served)
    errors: list[UnreadableFileError] = []
    (document,) = read_files([link], skipped=errors.append)
    assert document.metadata["source"] == str(link / "notes.txt")
    assert len(errors) == 1
    assert texts([Path("notes.txt")], within=[link]) == ["The vault is in the cellar."]


def test_a_link_that_the_user_names_is_followed(served: Path) -> None:
    link_to_file(served)
    assert read_file(served / "link.txt").text == SECRET
    assert texts([served / "link.txt"]) == [SECRET]


def test_the_command_line_reports_links_once(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = pytest.importorskip("spec_rag.cli.console")
    for i in range(8):
        (served / f"link{i}.txt").symlink_to(served.parent / "outside" / "secret.txt")
    (document,) = console.FileReader.of(None, 1, 60, 1000).read([served, served])
    assert document.text == "The vault is in the cellar."
    told = capsys.readouterr().err
    assert told.count("skipped:") == 1
    assert "8 links lead out of the folder" in told
    assert SECRET not in told


def test_loops_broken_links_and_pipes_in_a_folder_are_skipped_without_being_opened(served: Path) -> None:
    (served / "a.txt").symlink_to("b.txt")
    (served / "b.txt").symlink_to("a.txt")
    (served / "gone.txt").symlink_to("nothing.txt")
    (served / "sub" / "again").symlink_to("..", target_is_directory=True)
    os.mkfifo(served / "pipe.txt")
    errors: list[UnreadableFileError] = []
    assert texts([served], skipped=errors.append) == ["The vault is in the cellar."]
    said = "\n".join(map(str, errors))
    assert said.count("leads nowhere") == 3
    assert said.count("pipe") == 2, said
    with pytest.raises(UnreadableFileError, match="pipe"):
        read_files(["pipe.txt"], within=[served])


def test_a_folder_that_may_not_be_listed_is_reported(served: Path) -> None:
    closed = served / "sub"
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read everything")
        errors: list[UnreadableFileError] = []
        texts([served], skipped=errors.append)
        assert "sub cannot be read" in str(errors[0])
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize("part", ["file", "folder"])
def test_a_link_that_takes_the_place_of_a_file_before_it_is_opened_is_not_followed(served: Path, part: str) -> None:
    (served / "sub" / "secret.txt").write_text("Harmless.")
    (found,) = list_folder(served / "sub", (".txt",), pytest.fail, root=served.resolve())
    (served / "sub" / "secret.txt").unlink()
    if part == "file":
        (served / "sub" / "secret.txt").symlink_to("../../outside/secret.txt")
    else:
        (served / "sub").rmdir()
        (served / "sub").symlink_to("../outside", target_is_directory=True)
    assert folders_module._CAN_WALK
    with pytest.raises(UnreadableFileError, match="cannot be opened"):
        found.open()
