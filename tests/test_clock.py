"""A clock that is set, by hand or by the network, ends nothing too early and nothing too late."""

from __future__ import annotations

import ast
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from test_layout import CORE
from threads import until_waiting
from tiny import random_ids, tiny_pair

from spec_rag import Cancellation, DocumentIndex
from spec_rag.compression.passages import EncodedPassage
from spec_rag.errors import UnreadableFileError
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.loaders.reading import read_bytes
from spec_rag.loaders.source import ReadLimits
from spec_rag.utils import atomic_files as files

YEARS = 3e8
# creation times in API responses, and the age of an unfinished file
TELLS = {
    "serving/chat_api.py",
    "serving/responses_api.py",
    "serving/state.py",
    "serving/gateway_middleware.py",
    "utils/atomic_files.py",
}


def test_the_clock_on_the_wall_is_told_and_never_waited_for() -> None:
    found = set()
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.now"):
                found.add(path.relative_to(CORE).as_posix())
    assert found == TELLS


@pytest.mark.parametrize("years", [YEARS, -YEARS])
def test_time_limits_do_not_go_by_it(years: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    pair.target.generation_config.eos_token_id = None
    calls = 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return 1.7e9 + calls * years

    monkeypatch.setattr(time, "time", jumping)
    assert (
        GenerationClient(GenerationRequest.of(pair, max_new_tokens=4, eos_token_id=-1), timeout_seconds=60)
        .answer(random_ids(20))
        .completion_tokens
        == 4
    )
    with pytest.raises(TimeoutError):
        GenerationClient(GenerationRequest.of(pair, max_new_tokens=2000, eos_token_id=-1), timeout_seconds=0.05).answer(
            random_ids(20)
        )
    page = ("<p>Gate. </p>" * 50).encode()
    assert read_bytes("page.html", page, limits=ReadLimits(max_seconds=60)).text.startswith("Gate.")
    with pytest.raises(UnreadableFileError):
        read_bytes("page.html", page, limits=ReadLimits(max_seconds=1e-9))


def test_a_file_that_is_written_while_the_clock_jumps_costs_its_reuse_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, replace = DocumentIndex(tmp_path, memory_bytes=0, storage="float32"), os.replace
    passage = EncodedPassage(*(torch.randn(2, 2, 9, 16) for _ in range(2)))
    index.put("ab" * 32, passage)

    def cleaned_before(source: Path, goal: Path) -> None:
        files._remove_abandoned(Path(source).parent)  # by another process
        replace(source, goal)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cleaned_before)
        patched.setattr(time, "time", lambda: 1e11)
        assert index.put("ab" + "cd" * 31, passage).keys.equal(passage.keys)
    assert index.write_error is not None
    assert index.get("ab" * 32) is not None
    index.put("ab" + "cd" * 31, passage)
    assert DocumentIndex(tmp_path).get("ab" + "cd" * 31) is not None


@pytest.mark.parametrize("kind", [Cancellation, threading.Event])
def test_a_deadline_leaves_the_callers_own_event_as_it_is(kind: type[threading.Event]) -> None:
    pair, cancelled = tiny_pair(), kind()
    late = GenerationClient(GenerationRequest.of(pair, max_new_tokens=2000, eos_token_id=-1), timeout_seconds=0.05)
    with pytest.raises(TimeoutError):
        late.answer(random_ids(20), cancelled)
    with pytest.raises(TimeoutError):
        late.answer_all([random_ids(20)], cancelled)
    assert not cancelled.is_set()
    later = GenerationClient(GenerationRequest.of(pair, max_new_tokens=3, eos_token_id=-1), timeout_seconds=60).answer(
        random_ids(20), cancelled
    )
    assert (later.completion_tokens, later.finish_reason) == (3, "length")


@pytest.mark.parametrize("kind", [Cancellation, threading.Event])
def test_the_callers_event_still_ends_a_request_and_its_wait(kind: type[threading.Event]) -> None:
    pair, cancelled = tiny_pair(), kind()
    requests = GenerationClient(GenerationRequest.of(pair, max_new_tokens=2000, eos_token_id=-1), timeout_seconds=600)
    timer = threading.Timer(0.1, cancelled.set)
    timer.start()
    assert requests.answer(random_ids(20), cancelled).finish_reason == "cancelled"
    timer.join()
    waiting, found = kind(), list[str]()
    with pair.lock.hold():
        thread = threading.Thread(
            target=lambda: found.append(requests.answer(random_ids(20), waiting).finish_reason), daemon=True
        )
        thread.start()
        until_waiting(pair.lock, 2)
        waiting.set()
        thread.join(20)
    assert found == ["cancelled"]
