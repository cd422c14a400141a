"""The comparison of the target's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import ModelPair
from spec_rag.evaluation import answers as run
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document

TEXT = "Bread is baked daily. The baker is Odalys Fenn, of Tarn. She sleeps late. " * 4
QUESTIONS = [AnsweredQuestion(q, ["Fenn"], [Document(TEXT, title="Bakery")]) for q in ("Who bakes?", "Who sleeps?")]


def test_every_method_answers_from_a_smaller_prompt_than_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = ModelPair(draft=tiny_model(layers=9), target=tiny_model(), tokenizer=tiny_tokenizer())
    read: list[int] = []
    whole = run.generate

    def spied(*given, **options):  # type: ignore[no-untyped-def]
        answer = whole(*given, **{**options, "max_new_tokens": 2})
        read.append(answer.target_prompt_tokens)
        return answer

    monkeypatch.setattr(run, "generate", spied)
    run.right_answers(pair, QUESTIONS[:1])
    dense, *others = read
    assert len(others) == 4
    assert all(kept < dense for kept in others)
    assert others[1] < others[0]
    assert others[3] < others[2]


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    asked: list[str] = []

    def method(_pair: object, question: AnsweredQuestion) -> str:
        asked.append(question.question)
        return "It is Fenn." if "bakes" in question.question else "Nobody."

    out = tmp_path / "out.jsonl"
    pair = tiny_pair()
    run.right_answers(pair, QUESTIONS[:1], {"method": method}, out)
    assert run.right_answers(pair, QUESTIONS, {"method": method}, out) == {"method": [True, False]}
    assert asked == ["Who bakes?", "Who sleeps?"]
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == ["It is Fenn.", "Nobody."]


def test_the_table_shows_the_share() -> None:
    assert run.right_table({"method": [True, False]}).splitlines()[-1] == "| method | 0.500 [0.00, 1.00] |"
