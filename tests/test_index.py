"""What the index gives back is what was put in, or nothing."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_pair

from spec_rag import DocumentIndex, compress
from spec_rag.compression.encoding_cache import content_address
from spec_rag.compression.kv_quantization import from_bytes, to_bytes
from spec_rag.compression.passages import EncodedPassage
from spec_rag.errors import ConfigError

TEXTS = [
    f"Gate {i} opens at {i + 5} o'clock. Keeper {i} holds key {i * 17}. The path there is steep." for i in range(6)
]
QUERY = "Who holds key 51?"


def passage(seed: int = 0, tokens: int = 20) -> EncodedPassage:
    generator = torch.Generator().manual_seed(seed)
    return EncodedPassage(*(torch.randn(4, 2, tokens, 16, generator=generator) for _ in range(2)))


@pytest.mark.parametrize(("storage", "error"), [("float32", 0.0), ("float16", 2e-3), ("int8", 2e-2), ("int4", 0.25)])
def test_a_passage_comes_back_from_disk_within_its_precision(tmp_path: Path, storage: str, error: float) -> None:
    DocumentIndex(tmp_path, storage=storage).put("ab" * 32, passage())
    back = DocumentIndex(tmp_path, storage=storage).get("ab" * 32)
    assert back is not None
    assert float((back.keys.float() - passage().keys).abs().max()) <= error * 4
    assert float((back.values.float() - passage().values).abs().max()) <= error * 4


def test_memory_stays_within_its_budget_and_drops_the_least_recently_used(tmp_path: Path) -> None:
    one = 2 * 4 * 2 * 20 * 16 * 2
    index = DocumentIndex(memory_bytes=2 * one, storage="float16")
    for name in "abc":
        index.put(name, passage())
        if name == "b":
            index.get("a")
    assert index.held_bytes <= 2 * one
    assert [index.get(name) is not None for name in "abc"] == [True, False, True]


def only_file(folder: Path) -> Path:
    return next(folder.glob("*/*.safetensors"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


def foreign(path: Path) -> None:
    path.write_text("not an index file")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, flipped, foreign, empty])
def test_a_damaged_file_is_computed_anew(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    pair = tiny_pair()
    fresh = compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex(tmp_path))
    for path in tmp_path.glob("*/*.safetensors"):
        damage(path)
    again = compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex(tmp_path))
    assert again.text == fresh.text
    healed = DocumentIndex(tmp_path)
    assert compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=healed).text == fresh.text
    assert healed.misses == 0


def test_a_file_under_another_key_is_not_trusted(tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path)
    index.put("ab" * 32, passage())
    path = only_file(tmp_path)
    other = "ab" + "c" * 62
    path.rename(path.with_name(f"{other}.safetensors"))
    assert DocumentIndex(tmp_path).get(other) is None


def test_a_full_disk_costs_no_answer_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    expected = compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex()).text

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex(tmp_path)).text == expected
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def write_for_ever(folder: str, seed: int) -> None:
    index = DocumentIndex(folder, memory_bytes=0)
    while True:
        for i in range(50):
            index.put(f"{i:064x}", passage(i))


def test_killed_and_concurrent_writers_leave_only_whole_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_for_ever, args=(str(tmp_path), i), daemon=True) for i in range(2)]
    for writer in writers:
        writer.start()
    deadline = time.time() + 60
    while time.time() < deadline and len(list(tmp_path.glob("*/*.safetensors"))) < 20:
        time.sleep(0.05)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    index = DocumentIndex(tmp_path)
    found = [i for i in range(50) if index.get(f"{i:064x}") is not None]
    assert len(found) >= 20
    assert len(found) == len(list(tmp_path.glob("*/*.safetensors")))
    for i in found:
        assert float((index.get(f"{i:064x}").keys.float() - passage(i).keys).abs().max()) < 0.25


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"memory_bytes": -1}, "memory_bytes=-1"), ({"storage": "int3"}, "storage='int3'")],
)
def test_bad_settings_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DocumentIndex(**settings)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        DocumentIndex(tmp_path / "x")


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_questions_use_a_folder_at_the_precision_it_was_filled_with(tmp_path: Path, storage: str) -> None:
    pair = tiny_pair()
    compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex(tmp_path, storage=storage))
    again = DocumentIndex(tmp_path)
    assert again.storage == storage
    compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=again)
    assert (again.hits, again.misses) == (6, 0)
    assert DocumentIndex(tmp_path / "new").storage == "int4"
    assert not (tmp_path / "new").exists(), "looking at a folder makes none"


def test_a_folder_is_not_opened_at_another_precision_than_its_own(tmp_path: Path) -> None:
    DocumentIndex(tmp_path, storage="int8").put("ab" * 32, passage())
    with pytest.raises(ConfigError, match=r"storage='float32', but folder=.* was filled with 'int8'"):
        DocumentIndex(tmp_path, storage="float32")


@pytest.mark.parametrize(
    "about",
    [
        '{"format": "1", "storage": "float16"}',
        "{",
        "[]",
        '{"storage": "int4"}',
        '{"format": "2", "storage": "float16"}',
        None,
    ],
)
def test_a_folder_of_another_version_is_refused_with_the_way_out(tmp_path: Path, about: str | None) -> None:
    DocumentIndex(tmp_path).put("ab" * 32, passage())
    if about is None:
        (tmp_path / "index.json").unlink()
    else:
        (tmp_path / "index.json").write_text(about)
    with pytest.raises(ConfigError, match="another version of spec-rag"):
        DocumentIndex(tmp_path)


def test_what_is_held_in_memory_is_what_was_checked_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    key = "ab" * 32
    DocumentIndex(tmp_path).put(key, passage())
    index = DocumentIndex(tmp_path)
    before = index.get(key).keys.clone()
    path = only_file(tmp_path)
    with path.open("r+b") as file:  # in place, as another program would that has the file mapped
        file.seek(400)
        file.write(b"\xff" * 2000)
    assert torch.equal(index.get(key).keys, before)
    with path.open("r+b") as file:
        file.truncate(100)
    assert torch.equal(index.get(key).keys, before)
    assert DocumentIndex(tmp_path).get(key) is None


def test_a_well_formed_file_of_another_shape_is_computed_anew(tmp_path: Path) -> None:
    """With a right checksum and the right name, as a faulty or malicious writer would leave it."""
    pair = tiny_pair()
    fresh = compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=DocumentIndex(tmp_path))
    for path in tmp_path.glob("*/*.safetensors"):
        stored = from_bytes(path.read_bytes(), path.stem, "int4", None)
        path.write_bytes(to_bytes(path.stem, {name: t[:, :, 1:].contiguous() for name, t in stored.items()}))
    again = DocumentIndex(tmp_path)
    assert compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=again).text == fresh.text
    assert again.misses == 6


def test_an_address_depends_on_each_of_its_parts_and_on_where_one_ends() -> None:
    addresses = [
        content_address(*parts) for parts in (("a", "bc"), ("ab", "c"), ("abc",), ("a", "bc", ""), ("bc", "a"))
    ]
    assert len(set(addresses)) == 5
    assert content_address("lone \ud800 surrogate") != content_address("lone \ud801 surrogate")
    keys = {DocumentIndex(storage=storage).key("a") for storage in ("float32", "float16", "int8", "int4")}
    assert len(keys) == 4


def test_a_copied_or_pickled_index_is_the_same_store(tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path, memory_bytes=12345, storage="int8")
    index.put("ab" * 32, passage())
    assert copy.deepcopy(index) is copy.copy(index) is index
    sent = pickle.dumps(index)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert (there.folder, there.memory_bytes, there.storage) == (tmp_path, 12345, "int8")
    assert there.get("ab" * 32) is not None


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_of_a_folder_is_an_index(tmp_path: Path, kind: type) -> None:
    pair = tiny_pair()
    fresh = compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=kind(tmp_path / "index"))
    again = DocumentIndex(tmp_path / "index")
    assert compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=again).text == fresh.text
    assert (again.hits, again.misses) == (len(TEXTS), 0)
    with pytest.raises(ConfigError, match="index=5 of type int: give a DocumentIndex, or the path"):
        compress(TEXTS, QUERY, draft=pair, ratio=0.3, index=5)


def test_what_is_held_in_memory_is_counted_once_and_what_is_too_large_is_not_held() -> None:
    size = 2 * 4 * 2 * 20 * 16 * 4
    index = DocumentIndex(memory_bytes=2 * size, storage="float32")
    assert index.held_bytes == 0
    for _ in range(3):
        index.put("a", passage())
        assert index.held_bytes == size
    index.put("b", passage(1))
    assert index.held_bytes == 2 * size
    assert "a" in index
    assert "c" not in index
    index.put("a", passage(tokens=41))
    assert index.held_bytes == size, "the old one is gone, and the new one does not fit"
    assert "a" not in index
    exact = DocumentIndex(memory_bytes=size, storage="float32")
    exact.put("a", passage())
    assert exact.held_bytes == size
    exact.memory_bytes = 2 * size
    exact.put("b", passage())
    assert (exact.memory_bytes, exact.held_bytes) == (2 * size, 2 * size)
    assert (index.stored_bytes("b"), index.disk_bytes) == (0, 0)


def test_lowering_memory_bytes_frees_memory_at_once_and_the_folder_keeps_all(tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path, storage="float16")
    keys = [index.key(str(i)) for i in range(4)]
    for i, key in enumerate(keys):
        index.put(key, passage(i))
    held = index.held_bytes
    index.memory_bytes = held // 2
    assert 0 < index.held_bytes <= held // 2
    assert all(index.get(key) is not None for key in keys)
    index.memory_bytes = 0
    assert index.held_bytes == 0
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(ConfigError, match="memory_bytes"):
            index.memory_bytes = wrong
    assert index.memory_bytes == 0


def test_hits_and_misses_are_counted(tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path)
    assert (index.hits, index.misses) == (0, 0)
    assert index.get("ab" * 32) is None
    index.put("ab" * 32, passage())
    index.get("ab" * 32)
    index.get("ab" * 32)
    assert (index.hits, index.misses) == (2, 1)
    fresh = DocumentIndex(tmp_path)
    assert fresh.get("ab" * 32) is not None
    assert (fresh.hits, fresh.misses) == (1, 0)
    assert fresh.held_bytes > 0, "what was read is held for the next time"


def test_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    key = "ab" * 32
    index = DocumentIndex(tmp_path / "new")
    assert (index.stored_bytes(key), index.disk_bytes) == (0, 0)
    index.put(key, passage())
    index.put("cd" * 32, passage())
    file = tmp_path / "new" / "ab" / f"{key}.safetensors"
    assert index.stored_bytes(key) == file.stat().st_size > 0
    assert index.disk_bytes == 2 * file.stat().st_size
    assert key in DocumentIndex(tmp_path / "new")
    assert "ef" * 32 not in index
    assert json.loads((tmp_path / "new" / "index.json").read_text()) == {"format": "3", "storage": "int4"}


def test_what_comes_back_says_which_layer_it_begins_with() -> None:
    index = DocumentIndex()
    stored = index.put("a", replace(passage(), first_layer=3))
    assert stored.first_layer == 3
    assert index.get("a", first_layer=5).first_layer == 5
    assert index.get("a").first_layer == 0


def test_why_a_passage_could_not_be_written_is_kept_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    index = DocumentIndex(tmp_path)
    assert index.write_error is None
    monkeypatch.setattr(os, "fsync", full)
    for name in ("ab", "cd"):
        index.put(name * 32, passage())
    assert index.write_error is not None
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    assert index.get("ab" * 32) is not None


def test_a_file_that_cannot_be_read_is_computed_anew(tmp_path: Path) -> None:
    key = "ab" * 32
    (tmp_path / "ab" / f"{key}.safetensors").mkdir(parents=True)
    (tmp_path / "index.json").write_text('{"format": "3", "storage": "int4"}')
    assert DocumentIndex(tmp_path).get(key) is None


def test_a_home_folder_is_found_and_other_kinds_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DocumentIndex("~/index").folder == tmp_path / "index"
    assert DocumentIndex(memory_bytes=0).memory_bytes == 0
    for wrong in ({"folder": 5}, {"memory_bytes": True}, {"memory_bytes": 1.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            DocumentIndex(**wrong)
    index = DocumentIndex()
    assert DocumentIndex.of(index) is index
    assert DocumentIndex.of(None) is None
    assert DocumentIndex.of(tmp_path).folder == tmp_path
