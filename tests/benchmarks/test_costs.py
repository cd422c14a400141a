"""The measurements of an index and of growing collections."""

from __future__ import annotations

import pytest
from tiny import tiny_pair

from benchmarks import costs
from spec_rag.compression.document_draft import Draft
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document

TEXT = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late."
ASKED = AnsweredQuestion("Who bakes?", ["Fenn"], [Document(TEXT, title="Bakery"), Document(TEXT[22:], title="Tarn")])


@pytest.fixture
def draft() -> Draft:
    return Draft.of(tiny_pair())


def test_a_finer_storage_takes_more_bytes(draft: Draft) -> None:
    exact, half, quarter, eighth = (row.split(" | ") for row in costs.storage(draft, [ASKED], part=2).splitlines()[2:])
    assert [row[0][2:] for row in (exact, half, quarter, eighth)] == ["float32", "float16", "int8", "int4"]
    assert float(exact[1]) == pytest.approx(2 * float(half[1]), rel=0.2)
    assert float(half[1]) > float(quarter[1]) > float(eighth[1]) > 0
    assert exact[3] == "1 of 1 |"


def test_growth_fits_a_line(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def timed(call):  # type: ignore[no-untyped-def]
        read.append(len(call.args[0]))
        return 3.0 + 0.5 * read[-1]

    monkeypatch.setattr(costs, "seconds", timed)
    table = costs.growth(draft, [2, 4, 6], tokens=30)
    assert read == [2] * 4 + [4] * 4 + [6] * 4
    assert table.count("3.00 + 0.5000 n | 1.0000 |") == 2


def test_generated_documents_are_as_long_as_asked_for(draft: Draft) -> None:
    documents = costs.generated_documents(draft, 3, 120)
    assert [len(draft.tokenizer(d.text, add_special_tokens=False)["input_ids"]) for d in documents] == [120] * 3
    assert len({d.text for d in documents}) == 3
