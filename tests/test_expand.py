"""From what was kept back to the original."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from readings import reading_of, words
from tiny import tiny_pair

from spec_rag import Document, Originals, compress
from spec_rag.compression.compress import keep
from spec_rag.compression.originals import expander
from spec_rag.errors import ConfigError, SpecRagError, UnknownHandleError
from spec_rag.options.compression import CompressionConfig
from spec_rag.report import Compression
from spec_rag.text.units import unit_spans

TEXT = "Bread is warm. The oven is old. She bakes slowly. Snow fell. It ended. Nobody came. The end."


def compression(budget: int = 4, text: str = TEXT, best: int = 2) -> Compression:
    scores = [0.0] * len(unit_spans(text, "sentence"))
    scores[best] = 5.0
    return keep(reading_of([text], scores), CompressionConfig(max_tokens=budget, threshold=1.0), words)


def test_a_handle_gives_the_whole_document_or_what_surrounds_the_kept_text() -> None:
    originals, result = Originals(), compression()
    (handle,) = originals.remember(result)
    assert handle == result.documents[0].handle
    assert result.text == "She bakes slowly."
    assert originals.expand(handle).text == TEXT
    assert originals.expand(handle, 0, 0).text == "… She bakes slowly. …"
    around = originals.expand(handle, context_before=1, context_after=2)
    assert around.text == "… The oven is old. She bakes slowly. Snow fell. It ended. …"
    assert " ".join(TEXT[a:b] for a, b in around.spans) == around.text.strip("… ")
    assert originals.expand(handle, context_before=9, context_after=9).text == TEXT


def test_a_handle_is_short_and_the_same_in_every_process() -> None:
    handle = compression().documents[0].handle
    assert len(handle) == 17
    code = f"from spec_rag.handles import *; print(handle_of(document_key(None, {TEXT!r}), [(32, 49)]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == handle
    assert handle.split("-")[0] != compression(text=TEXT + " More.").documents[0].handle.split("-")[0]


def test_one_document_that_was_kept_in_two_ways_has_two_handles_and_is_stored_once() -> None:
    originals = Originals()
    (first,), (second,) = originals.remember(compression(best=2)), originals.remember(compression(best=3))
    assert first != second
    assert len(originals) == 1
    assert originals.expand(first, 0, 0).text == "… She bakes slowly. …"
    assert originals.expand(second, 0, 0).text == "… Snow fell. …"


def test_of_too_many_views_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_rag.compression.originals._VIEWS", 3)
    originals = Originals()
    handles = [originals.hold(TEXT, [(0, 3 + i)]) for i in range(3)]
    assert originals.hold(TEXT, [(0, 3)]) == handles[0], "remembered again, it is the newest"
    newest = originals.hold(TEXT, [(50, 60)])
    around = {handle: originals.expand(handle, 0, 0).text for handle in (*handles, newest)}
    assert around[newest] == "… Snow fell. …"
    assert around[handles[0]] == around[handles[2]] == "Bread is warm. …"
    assert around[handles[1]] == TEXT, "of the oldest view only the whole document is known"


def test_title_and_metadata_come_back_too() -> None:
    originals = Originals()
    given = Document(TEXT, "Bakery", metadata={"page": 3})
    (handle,) = originals.remember(compress([given], "Who bakes?", draft=tiny_pair(), ratio=0.5))
    found = originals.expand(handle)
    assert (found.title, found.metadata, found.original_text) == ("Bakery", {"page": 3}, TEXT)


def test_what_was_not_asked_for_longest_is_forgotten_and_the_bound_holds() -> None:
    texts = [f"{TEXT} {i}" + " x" * 400 + "." for i in range(8)]
    originals = Originals(max_bytes=3 * sys.getsizeof(texts[0]) + 50)
    handles = []
    for text in texts[:3]:
        handles += originals.remember(compression(text=text, best=0))
    assert originals.expand(handles[0]).text
    handles += originals.remember(compression(text=texts[3], best=0))
    assert [handle in originals for handle in handles] == [True, False, True, True]
    assert originals.remember(compression(text=TEXT + " y" * 9000, best=0))
    assert len(originals) == 3, "a text beyond the bound pushes nothing out"
    originals.max_bytes = sys.getsizeof(texts[4])
    originals.remember(compression(text=texts[4], best=0))
    assert len(originals) == 1


def test_an_unknown_handle_says_what_to_do() -> None:
    with pytest.raises(
        UnknownHandleError, match=r"no document with the handle 'nothing'.*call the tool that returned the text again"
    ):
        Originals().expand("nothing")
    assert issubclass(UnknownHandleError, SpecRagError)
    with pytest.raises(ConfigError, match="max_bytes=0"):
        Originals(max_bytes=0)


def test_an_agent_gets_messages_and_no_errors() -> None:
    originals = Originals()
    (handle,) = originals.remember(compression())
    expand = expander(originals, max_chars=30)
    assert expand(f" `[{handle.upper()}]`\n", context_before=0, context_after=0) == "… She bakes slowly. …"
    assert expand(handle).startswith(f"Bread is warm. The oven is …\n(Cut: 26 of {len(TEXT)} characters, 1 of 1 lines.")
    assert expand("zzz").startswith("Error: There is no document with the handle 'zzz'")
    assert expand(handle, context_before=-1) == ("Error: context_before=-1: must be an integer of at least 0 or None.")
    assert expander(originals, max_chars=None)(handle) == TEXT
    with pytest.raises(ConfigError, match="max_chars=0"):
        expander(originals, 0)


def test_copies_share_what_is_remembered_and_pickles_do_not() -> None:
    originals = Originals(max_bytes=1000)
    originals.remember(compression())
    assert copy.deepcopy({"a": originals})["a"] is originals
    assert copy.copy(originals) is originals
    arrived = pickle.loads(pickle.dumps(originals))
    assert (len(arrived), arrived.max_bytes) == (0, 1000)


def test_many_threads_remember_and_expand_at_once() -> None:
    texts = [f"{TEXT} {i}." for i in range(40)]
    results = [compression(text=text, best=0) for text in texts]
    originals = Originals(max_bytes=20 * sys.getsizeof(texts[0]))

    def work(i: int) -> None:
        for _ in range(20):
            (handle,) = originals.remember(results[i])
            with contextlib.suppress(UnknownHandleError):
                assert originals.expand(handle).text == results[i].documents[0].original_text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert 0 < len(originals) <= 20
    held = [text for text, result in zip(texts, results, strict=True) if result.documents[0].handle in originals]
    assert originals._held.held_bytes == sum(map(sys.getsizeof, held))


def test_lowering_max_bytes_forgets_documents_at_once() -> None:
    originals = Originals()
    handles = [originals.hold(f"Text {i}. " * 50, [(0, 5)]) for i in range(4)]
    originals.expand(handles[0])
    originals.max_bytes = 1300
    assert len(originals) == 2
    assert handles[0] in originals, "it was asked for last"
    for wrong in (0, -1, 2.5):
        with pytest.raises(ConfigError, match="max_bytes"):
            originals.max_bytes = wrong
    assert originals.max_bytes == 1300
