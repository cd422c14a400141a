"""Documents are cut into passages that know their characters, and ranked by the question's words."""

from __future__ import annotations

import pytest

from spec_rag.text.documents import Document
from spec_rag.errors import ConfigError
from spec_rag.answering.chunks import Passage, retrieve, split_passages

pytest.importorskip("bm25s")

HANDBOOK = """# Power

The tank holds 42,500 litres. It is filled in May.

## Batteries

The key is in a turquoise box.\r
It is locked.

The room is cold.
"""


@pytest.mark.parametrize("max_chars", [1, 20, 60, 100, 10_000])
def test_passages_are_exact_pieces_that_lose_no_word(max_chars: int) -> None:
    passages = split_passages(Document(HANDBOOK, id="f"), max_chars)
    assert all(p.text == HANDBOOK[p.start : p.end] for p in passages)
    assert [p.start for p in passages] == sorted({p.start for p in passages})
    assert " ".join(" ".join(p.text for p in passages).split()) == " ".join(HANDBOOK.split())


def test_headings_begin_the_passage_of_what_follows() -> None:
    texts = [p.text for p in split_passages(Document(HANDBOOK), 60)]
    assert texts[0].startswith("# Power\n\nThe tank")
    assert texts[1].startswith("## Batteries\n\nThe key")
    assert not any(text.endswith(("Power", "Batteries")) for text in texts)


def test_long_paragraphs_are_cut_between_sentences() -> None:
    text = " ".join(f"Sentence number {i} ends here." for i in range(40))
    passages = split_passages(Document(text), 200)
    assert len(passages) > 5
    assert all(len(p.text) <= 200 and p.text.endswith("here.") for p in passages)


def test_passages_carry_title_metadata_and_place() -> None:
    passage = split_passages(Document(HANDBOOK, "Power", "f", {"source": "power.md"}), 60)[0]
    assert passage.title == "Power"
    assert passage.metadata == {"source": "power.md", "start": passage.start, "end": passage.end}
    assert passage.id == f"f:{passage.start}-{passage.end}"


def passages_of(*texts: str) -> list[Passage]:
    return [passage for text in texts for passage in split_passages(Document(text))]


def test_the_passage_with_the_questions_words_comes_first(capfd: pytest.CaptureFixture[str]) -> None:
    passages = passages_of("Cabin 6 is green.", "The kitchen opens at nine.", "Cabin 7 is red. Cabin 7 is far.")
    found = retrieve("Who lives in cabin 7?", passages, top_k=5)
    assert [p.text[:7] for p in found] == ["Cabin 7", "Cabin 6"]
    assert found[0].score is not None
    assert found[1].score is not None
    assert found[0].score > found[1].score > 0
    assert capfd.readouterr() == ("", "")


def test_a_question_without_shared_words_brings_the_first_passages() -> None:
    passages = passages_of("alpha", "beta", "gamma")
    for question in ("zebra?", "what is it", "???"):
        assert [(p.text, p.score) for p in retrieve(question, passages, top_k=2)] == [("alpha", 0.0), ("beta", 0.0)]


def test_inputs_are_checked() -> None:
    with pytest.raises(ConfigError, match="question"):
        retrieve("  ", passages_of("a"))
    with pytest.raises(ConfigError, match="top_k"):
        retrieve("q", passages_of("a"), top_k=0)
    with pytest.raises(ConfigError, match="max_chars"):
        split_passages(Document("a"), 0)
    assert retrieve("q", []) == []
