"""A subset of the replayed tool outputs."""

from __future__ import annotations

from benchmarks.tool_replay import Output, faults, outputs, replay, shortened
from spec_rag import Originals
from spec_rag.tool_results.shorten import ShortenedResult


def test_twenty_outputs_keep_their_format_and_lose_nothing_in_silence() -> None:
    given = outputs(20)
    found = replay(given)
    assert found.wrong == []
    assert len(found.kinds) >= 5
    assert found.after < found.before


def test_the_checks_find_faults() -> None:
    output = Output("api", '{"a": [' + ", ".join(['"word"'] * 400) + "]}")
    originals = Originals()
    result = shortened(output, 0.2, originals)
    assert list(faults(output, result, originals)) == []
    broken = ShortenedResult(result.text[:-2], output.text, "json", result.omissions, "aaaaaaaaaaaa")
    assert "does not parse" in list(faults(output, broken, originals))
    lost = ShortenedResult("a/b", "a/b\na/c", "listing", result.omissions, None)
    assert "an entry is lost" in list(faults(Output("ls", lost.original), lost, originals))
