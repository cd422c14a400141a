"""The comparison of a draft of eight bits with the exact one."""

from __future__ import annotations

import copy

from tiny import tiny_pair

from spec_rag.compression.draft import Draft
from spec_rag.evaluation.rounding import rounded
from spec_rag.evaluation.tasks.multidoc import AnsweredQuestion
from spec_rag.models.int8 import quantize_linears
from spec_rag.models.pair import ModelPair
from spec_rag.text.documents import Document

TEXT = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late."
QUESTIONS = [
    AnsweredQuestion("Who bakes?", ["daily", "Fenn", "late"], [Document(TEXT, title="Bakery")]),
    AnsweredQuestion("Who sleeps?", ["nowhere"], [Document(TEXT[22:], title="Tarn")]),
]


def test_the_same_draft_keeps_the_same() -> None:
    draft = Draft.of(tiny_pair())
    table = rounded(draft, draft, QUESTIONS, part=2)
    assert [row.split(" | ")[2] for row in table.splitlines()[2:4]] == ["0.500 |", "0.500 |"]
    assert "the same text for 2 of 2 questions" in table
    assert "100% are kept by both" in table


def test_another_draft_keeps_something_else() -> None:
    pair = tiny_pair()
    other = copy.deepcopy(pair.draft)
    for layer in other.get_decoder().layers:
        layer.self_attn.q_proj.weight.data.neg_()
    assert quantize_linears(other.get_decoder())
    text = " ".join(f"Tank {number} is {kind}." for number in range(8) for kind in ("red", "blue", "full"))
    asked = [AnsweredQuestion("Which tank is full?", ["Tank"], [Document(text)])]
    table = rounded(Draft.of(pair), Draft.of(ModelPair(other, None, pair.tokenizer)), asked, part=4)
    assert "the same text for 0 of 1 questions" in table
    assert "100% are kept by both" not in table
