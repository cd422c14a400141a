"""Documents are cut into chunks that know their characters, and ranked by the question's words."""

from __future__ import annotations

import pytest

from spec_rag.answering.chunking import Chunk, retrieve, split_chunks
from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document

pytest.importorskip("bm25s")

HANDBOOK = """# Power

The tank holds 42,500 litres. It is filled in May.

## Batteries

The key is in a turquoise box.\r
It is locked.

The room is cold.
"""


@pytest.mark.parametrize("max_chars", [1, 20, 60, 100, 10_000])
def test_chunks_are_exact_pieces_that_lose_no_word(max_chars: int) -> None:
    chunks = split_chunks(Document(HANDBOOK, id="f"), max_chars)
    assert all(p.text == HANDBOOK[p.start : p.end] for p in chunks)
    assert [p.start for p in chunks] == sorted({p.start for p in chunks})
    assert " ".join(" ".join(p.text for p in chunks).split()) == " ".join(HANDBOOK.split())


def test_headings_begin_the_chunk_of_what_follows() -> None:
    texts = [p.text for p in split_chunks(Document(HANDBOOK), 60)]
    assert texts[0].startswith("# Power\n\nThe tank")
    assert texts[1].startswith("## Batteries\n\nThe key")
    assert not any(text.endswith(("Power", "Batteries")) for text in texts)


def test_long_paragraphs_are_cut_between_sentences() -> None:
    text = " ".join(f"Sentence number {i} ends here." for i in range(40))
    chunks = split_chunks(Document(text), 200)
    assert len(chunks) > 5
    assert all(len(p.text) <= 200 and p.text.endswith("here.") for p in chunks)


def test_chunks_carry_title_metadata_and_place() -> None:
    chunk = split_chunks(Document(HANDBOOK, "Power", "f", {"source": "power.md"}), 60)[0]
    assert chunk.title == "Power"
    assert chunk.metadata == {"source": "power.md", "start": chunk.start, "end": chunk.end}
    assert chunk.id == f"f:{chunk.start}-{chunk.end}"


def chunks_of(*texts: str) -> list[Chunk]:
    return [chunk for text in texts for chunk in split_chunks(Document(text))]


def test_the_chunk_with_the_questions_words_comes_first(capfd: pytest.CaptureFixture[str]) -> None:
    chunks = chunks_of("Cabin 6 is green.", "The kitchen opens at nine.", "Cabin 7 is red. Cabin 7 is far.")
    found = retrieve("Who lives in cabin 7?", chunks, top_k=5)
    assert [p.text[:7] for p in found] == ["Cabin 7", "Cabin 6"]
    assert found[0].score is not None
    assert found[1].score is not None
    assert found[0].score > found[1].score > 0
    assert capfd.readouterr() == ("", "")


def test_a_question_without_shared_words_brings_the_first_chunks() -> None:
    chunks = chunks_of("alpha", "beta", "gamma")
    for question in ("zebra?", "what is it", "???"):
        assert [(p.text, p.score) for p in retrieve(question, chunks, top_k=2)] == [("alpha", 0.0), ("beta", 0.0)]


def test_inputs_are_checked() -> None:
    with pytest.raises(ConfigError, match="question"):
        retrieve("  ", chunks_of("a"))
    with pytest.raises(ConfigError, match="top_k"):
        retrieve("q", chunks_of("a"), top_k=0)
    with pytest.raises(ConfigError, match="max_chars"):
        split_chunks(Document("a"), 0)
    assert retrieve("q", []) == []


def test_chunks_carry_the_headings_above_them_and_end_on_none() -> None:
    text = (
        "Hire\n====\n\nKayaks\n------\n\n"
        + "\n\n".join(f"The fee number {i} is low." for i in range(6))
        + "\n\nTents\n-----\n\nFree."
    )
    chunks = split_chunks(Document(text, "Guide"), 80)
    assert [chunk.title for chunk in chunks[1:-1]] == ["Guide > Hire > Kayaks"] * (len(chunks) - 2)
    assert chunks[0].title == "Guide"
    assert chunks[-1].section == "Hire > Tents"
    assert not any(chunk.text.endswith("---") for chunk in chunks)


def test_a_chunk_that_repeats_the_question_does_not_rank_above_the_answer() -> None:
    asked = Document("## What is the fee for kayaks on Sundays?\n\nAsk at the desk.")
    answer = Document("## Kayaks\n\nThe fee for kayaks is 5 euros, on Sundays 7.")
    found = retrieve("What is the fee for kayaks on Sundays?", [*split_chunks(asked), *split_chunks(answer)])
    assert "7" in found[0].text
