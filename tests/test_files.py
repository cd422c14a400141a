"""Whatever is written is whole or not there: after kill -9, on a full disk, where nothing may be written."""

from __future__ import annotations

import ast
import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import SafetensorError
from test_layout import CORE
from tiny import random_ids, tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import ContextCache, ModelPair
from spec_rag.errors import FileNotWrittenError, UnreadableFileError
from spec_rag.evaluation.json_lines import append_lines, read_lines
from spec_rag.models import bundled_draft
from spec_rag.utils.atomic_files import UNFINISHED, write_whole

OLD, NEW = b"old " * 300, b"new " * 300


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file of this process may become longer than so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


KILLED = """
import os, signal, sys
from pathlib import Path
from spec_rag.utils.atomic_files import write_whole

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

step = os.replace
setattr(os, *{"while it writes": ("fsync", die), "before it is there": ("replace", die),
              "as soon as it is there": ("replace", lambda *given: (step(*given), die()))}[sys.argv[2]])
write_whole(Path(sys.argv[1]), b"new " * 300)
"""


@pytest.mark.parametrize("when", ["while it writes", "before it is there", "as soon as it is there"])
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path, when: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    done = subprocess.run([sys.executable, "-c", KILLED, path, when], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == (NEW if when == "as soon as it is there" else OLD)
    left = [found.name for found in tmp_path.iterdir() if found != path]
    assert all(name.startswith(".") and name.endswith(UNFINISHED) for name in left)
    write_whole(path, NEW)
    assert path.read_bytes() == NEW


def test_what_a_killed_writer_left_goes_after_an_hour(tmp_path: Path) -> None:
    foreign = tmp_path / ".other.tmp"
    foreign.touch()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, tmp_path / "file", "while it writes"], check=False)
    old, young = tmp_path.glob(f".spec-rag-*{UNFINISHED}")
    for path in (old, foreign):
        os.utime(path, (time.time() - 7200,) * 2)
    write_whole(tmp_path / "another file", NEW)
    assert not old.exists()
    assert young.exists(), "it may still be written"
    assert foreign.exists()


def test_an_error_leaves_nothing_behind_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with (
        full_disk(100),
        pytest.raises(FileNotWrittenError, match=r"cannot be written \(.*\): free disk space") as caught,
    ):
        write_whole(path, NEW)
    assert caught.value.errno == errno.EFBIG
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotWrittenError, match="create its folder"):
        write_whole(tmp_path / "none" / "file", NEW)
    with pytest.raises(FileNotWrittenError, match="create its folder"):
        write_whole(path / "file", NEW)  # a file in the folder's place
    with pytest.raises(FileNotWrittenError, match="give another path"):
        write_whole(tmp_path, NEW)
    assert [found.name for found in tmp_path.parent.iterdir() if found.name.endswith(UNFINISHED)] == []


def test_an_interrupted_writer_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", NEW)
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_a_new_file_as_they_may_any_and_an_old_one_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write_whole(path, NEW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write_whole(path, "ä")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"\xc3\xa4"


# appended lines, the folder of a converted model, and a file descriptor that is only read
OWN_WAYS = {"evaluation/json_lines.py", "utils/atomic_files.py", "models/bundled_draft.py", "loaders/folders.py"}
WRITES = {
    "write_text",
    "write_bytes",
    "open",
    "save_file",
    "save_pretrained",
    "mkstemp",
    "fdopen",
    "NamedTemporaryFile",
    "dump",
}


def test_everything_else_is_written_through_one_door() -> None:
    found = set()
    for path in [*CORE.rglob("*.py"), *(CORE.parent / "integrations").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [getattr(one, "value", "") for one in [*node.args, *(k.value for k in node.keywords)]]
            reads = name == "open" and not any(isinstance(mode, str) and set(mode) & set("wax+") for mode in given)
            picture = name == "savefig" and not (isinstance(node.args[0], ast.Name) and node.args[0].id == "picture")
            if (name in WRITES and not reads) or picture:
                found.add(path.as_posix().removeprefix(f"{CORE}/"))
    assert found == OWN_WAYS


def context_saved(path: Path) -> Callable[[], None]:
    context = ContextCache.read(tiny_pair(), random_ids(60))
    return lambda: context.save(path)


def page_written(path: Path) -> Callable[[], None]:
    from benchmarks.results_page import Section, write_page

    return lambda: write_page("Title", "about", [Section("One", "text " * 500)], path)


def picture_drawn(path: Path) -> Callable[[], None]:
    from spec_rag.evaluation.chart import Point, draw_kept

    return lambda: draw_kept("t", ["1/4"], {"a": [Point(0.5, 0.4, 0.6)]}, path.with_suffix(".svg"))


def answers_kept(path: Path) -> Callable[[], None]:
    from spec_rag.evaluation.answers import right_answers
    from spec_rag.evaluation.questions import AnsweredQuestion

    asked = AnsweredQuestion("Who?", ["Fenn"], [])
    return lambda: right_answers(tiny_pair(), [asked], {"method": lambda *_: "x" * 3000}, path) and None


@pytest.mark.parametrize("writer", [context_saved, page_written, picture_drawn, answers_kept])
def test_on_a_full_disk_every_writer_leaves_what_was_there(tmp_path: Path, writer: Callable) -> None:
    path = tmp_path / "file"
    write = writer(path)
    write()
    (written,) = tmp_path.iterdir()
    whole = written.read_bytes()
    old = b'{"method": "other", "question": "", "answer": ""}\n' if writer is answers_kept else OLD
    written.write_bytes(old)
    with (
        full_disk(1500),
        pytest.raises(FileNotWrittenError, match=f"{written.name} cannot be written .* free disk space"),
    ):
        write()
    assert written.read_bytes() == old
    assert list(tmp_path.iterdir()) == [written]
    write()
    assert len(written.read_bytes()) >= len(whole) > 1500


def number(line: str) -> int:
    return int(line.strip("{} \n"))


def test_a_line_that_was_cut_off_is_left_out_and_then_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    append_lines(path, ["{1}", "{2}"])
    with path.open("ab") as file:
        file.write(b"{3" + b"3" * 70_000)
    cut = path.read_bytes()
    assert read_lines(path, number) == [1, 2]
    assert path.read_bytes() == cut, "whoever only reads may look at what another process is writing"
    append_lines(path, ["{4}"])
    assert path.read_bytes() == b"{1}\n{2}\n{4}\n"
    with full_disk(14), pytest.raises(FileNotWrittenError, match=r"out\.jsonl cannot be written"):
        append_lines(path, ["{5}", "{6}"])
    assert path.read_bytes() == b"{1}\n{2}\n{4}\n"
    assert read_lines(path, number) == [1, 2, 4]


@pytest.mark.parametrize("text", ["my only notes\n", "my only notes", "{1}\nmy notes\n"])
def test_a_file_of_something_else_is_never_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match="give another output file"):
        read_lines(path, number)
    assert path.read_text() == text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, and a tiny model in the place of the default draft's GGUF file."""
    pytest.importorskip("gguf")
    gguf = tmp_path / "tiny.gguf"
    gguf.touch()
    monkeypatch.setattr(bundled_draft, "bundled_gguf", lambda: gguf)
    monkeypatch.setattr(bundled_draft.GgufFile, "read", lambda path: bundled_draft.GgufFile(path, {}, ()))
    monkeypatch.setattr(bundled_draft, "_read", lambda *_: (tiny_model(), tiny_tokenizer()))
    monkeypatch.setenv("SPEC_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "models").iterdir() if path.is_dir()]


def test_the_default_draft_is_converted_whole_or_not_at_all(cache: Path) -> None:
    with (
        full_disk(5000),
        pytest.raises(FileNotWrittenError, match=r"free disk space .*SPEC_RAG_CACHE") as caught,
    ):
        bundled_draft.converted_bundle()
    assert isinstance(caught.value.__cause__, OSError | SafetensorError)
    assert folders(cache) == []
    abandoned = cache / "models" / f".{_name()}~x1{UNFINISHED}"  # by a process that was killed
    abandoned.mkdir()
    other = cache / "models" / f".{_name()}.dev1~x1{UNFINISHED}"  # of another version, which may be at it
    other.mkdir()
    folder = bundled_draft.converted_bundle()
    assert sorted(folders(cache)) == sorted([folder, other])
    assert ModelPair.load(None, folder).target is not None


def _name() -> str:
    import transformers

    return f"tiny-0-transformers-{transformers.__version__}-v{bundled_draft.CONVERSION}"


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(cache: Path) -> None:
    cache.touch()  # a file in the folder's place, which holds for root as well
    with pytest.raises(
        FileNotWrittenError, match=r"cache/models/tiny.* or set SPEC_RAG_CACHE to another writable folder"
    ):
        bundled_draft.converted_bundle()


def test_a_converted_draft_is_read_where_nothing_can_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled_draft.converted_bundle()
    lock = folder.with_name(f"{folder.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # so that it cannot be taken
    assert bundled_draft.converted_bundle() == folder
    shutil.rmtree(folder)
    with pytest.raises(FileNotWrittenError, match="set SPEC_RAG_CACHE"):
        bundled_draft.converted_bundle()
