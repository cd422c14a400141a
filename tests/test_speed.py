"""The measurements of what compression costs."""

from __future__ import annotations

import pytest
from tiny import tiny_pair

from spec_rag.compression.document_draft import Draft
from spec_rag.compression.passages import frame, question_tokens, split_passages
from spec_rag.evaluation import speed as costs
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document
from spec_rag.text.units import unit_spans

TEXT = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late."
ASKED = AnsweredQuestion("Who bakes?", ["Fenn"], [Document(TEXT, title="Bakery"), Document(TEXT[22:], title="Tarn")])


@pytest.fixture
def draft() -> Draft:
    return Draft.of(tiny_pair())


def test_the_joint_prefill_reads_what_compress_reads(draft: Draft) -> None:
    read: list[int] = []
    decoder = draft.model.get_decoder()
    decoder.register_forward_pre_hook(lambda *call: read.append(call[2]["input_ids"].shape[1]), with_kwargs=True)
    assert costs.joint_prefill(draft, ASKED) == read[0]
    layout = frame(draft.tokenizer)
    units = [unit_spans(d.text, "sentence") for d in ASKED.documents]
    own = sum(len(passage.ids) for passage in split_passages(draft.tokenizer, ASKED.documents, units))
    assert read[0] == len(layout.head) + own + len(question_tokens(draft.tokenizer, layout, "Who bakes?").ids)


def test_ratios_time_every_call(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def timed(call):  # type: ignore[no-untyped-def]
        call()
        calls.append(getattr(call.func, "__name__", "?"))
        return 8.0 if call.func is costs.joint_prefill else 2.0

    monkeypatch.setattr(costs, "seconds", timed)
    table = costs.ratios(draft, [ASKED, ASKED], embedder=lambda texts: [[1.0] for _ in texts])
    assert len(calls) == 3 * 11  # the first question twice, to warm up
    assert "| compress, index in memory | 2.00 | 4.0 |" in table
    assert "| compress with retrieval scores, no index | 2.00 | 4.0 |" in table
    assert "| compress by words, index on disk | 2.00 | 4.0 |" in table
    assert "| embedding of the same sentences | 2.00 | 4.0 |" in table
    assert "| joint prefill | 8.00 | 1.0 |" in table
