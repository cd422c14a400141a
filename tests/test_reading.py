"""Filling an index before anybody asks."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from tiny import tiny_pair
from typer.testing import CliRunner

from spec_rag import DocumentIndex, ModelPair, compress
from spec_rag.cli.app import app
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoder import PassageEncoder
from spec_rag.compression.kv_quantization import StorageType
from spec_rag.compression.passage_encoding import index_documents, passage_key
from spec_rag.compression.passages import split_passages
from spec_rag.errors import CancelledError, IndexNotWrittenError
from spec_rag.text.documents import Document

TEXTS = [f"Hut {i} sleeps {i + 4}. Its warden is number {i * 31}. The stove burns oak." for i in range(12)]


def test_a_question_after_indexing_reads_no_document(tmp_path: Path) -> None:
    pair = tiny_pair(num_hidden_layers=8)
    index_documents(TEXTS, pair.loaded_draft(), DocumentIndex(tmp_path))
    index = DocumentIndex(tmp_path)
    compress(TEXTS, "Who is the warden of hut 3?", draft=pair, ratio=0.3, index=index)
    assert (index.hits, index.misses) == (12, 0)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    loaded = tiny_pair().loaded_draft()

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_documents(TEXTS, loaded, DocumentIndex(tmp_path), tell=interrupt)
    seen: list[int] = []
    found = index_documents(TEXTS, loaded, DocumentIndex(tmp_path), tell=lambda done, total: seen.append(done))
    assert found.passages == 12
    assert 0 < found.new_passages < 12
    assert seen[0] == 12 - found.new_passages
    assert seen[-1] == 12


def test_a_full_disk_ends_the_run_and_keeps_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_pair().loaded_draft()
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 11:  # the folder says what it is in a file of its own
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(IndexNotWrittenError, match=r"10 of 12 passages are stored.*another folder"):
        index_documents(TEXTS, loaded, DocumentIndex(tmp_path))
    monkeypatch.undo()
    assert index_documents(TEXTS, loaded, DocumentIndex(tmp_path)).new_passages == 2


def test_bytes_are_those_of_the_documents_and_not_of_others_in_the_folder(tmp_path: Path) -> None:
    loaded = tiny_pair().loaded_draft()
    index_documents(TEXTS[:6], loaded, DocumentIndex(tmp_path))
    index = DocumentIndex(tmp_path)
    found = index_documents(TEXTS[6:], loaded, index)
    assert 0 < found.stored_bytes < 0.6 * index.disk_bytes


def test_other_weights_or_titles_find_nothing(tmp_path: Path) -> None:
    index_documents(TEXTS, tiny_pair().loaded_draft(), DocumentIndex(tmp_path))
    other = tiny_pair("qwen2")
    index = DocumentIndex(tmp_path)
    compress(TEXTS, "Who?", draft=other, ratio=0.3, index=index)
    assert index.hits == 0
    titled = DocumentIndex(tmp_path)
    compress([("Huts", text) for text in TEXTS], "Who?", draft=tiny_pair(), ratio=0.3, index=titled)
    assert titled.hits == 0


def test_the_command_reports_what_it_stored_and_skips_it_next_time(tmp_path: Path, smollm2: ModelPair) -> None:
    (tmp_path / "huts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    command = ["index", str(tmp_path / "huts.txt"), "--index", str(tmp_path / "index"), "--json"]
    first, second = (json.loads(CliRunner().invoke(app, command).stdout) for _ in range(2))
    assert first["new_passages"] == first["passages"] > 0
    assert second["new_passages"] == 0
    assert second["disk_bytes"] == first["disk_bytes"] > 0
    assert second["bytes_per_1000_tokens"] > 0


def address(draft: Draft, last: int = 3, title: str = "Huts", storage: StorageType = "float16", first: int = 1) -> str:
    document = Document("One is red. Two is blue.", title=title)
    (passage,) = split_passages(draft.tokenizer, [document], [[(0, 11), (12, 24)]])
    return passage_key(PassageEncoder(draft, (first, last)), DocumentIndex(storage=storage), document, passage)


def test_an_encoded_passage_is_filed_under_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def draft(**overrides: object) -> Draft:
        return Draft.of(tiny_pair(**overrides))

    here = address(draft())
    assert address(draft()) == here
    halved = draft()
    halved.model.half()
    in_half = address(halved)
    other = draft()
    other.tokenizer.chat_template = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
    in_other_frame = address(other)
    monkeypatch.setattr("spec_rag.compression.passages.INSTRUCTION", "Read on.\n\n")
    after_another_instruction = address(draft())
    monkeypatch.undo()
    different = [
        in_half,
        in_other_frame,
        after_another_instruction,
        address(draft(), last=2),
        address(draft(), first=2),
        address(draft(), title="Boats"),
        address(draft(), storage="int8"),
        address(draft(rope_theta=5000.0)),
    ]
    assert len({here, *different}) == 9


def test_the_precision_that_the_draft_computes_in_is_part_of_the_address() -> None:
    """Also where the weights are the same numbers, as in a model that says how it computes."""
    draft = Draft.of(tiny_pair())
    document = Document("One is red.")
    (passage,) = split_passages(draft.tokenizer, [document], [[(0, 11)]])
    reader = PassageEncoder(draft)
    before = passage_key(reader, DocumentIndex(), document, passage)
    known = reader.fingerprint
    draft.model.double()
    assert reader.fingerprint == known
    assert passage_key(reader, DocumentIndex(), document, passage) != before


def test_an_indexing_run_can_be_cancelled_and_keeps_what_it_has_read(tmp_path: Path) -> None:
    loaded, cancelled = tiny_pair().loaded_draft(), threading.Event()

    def tell(done: int, total: int) -> None:
        if done:
            cancelled.set()

    with pytest.raises(CancelledError):
        index_documents(TEXTS, loaded, DocumentIndex(tmp_path), tell=tell, cancelled=cancelled)
    assert 0 < index_documents(TEXTS, loaded, DocumentIndex(tmp_path)).new_passages < 12
