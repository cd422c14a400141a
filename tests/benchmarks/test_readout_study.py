"""The study of feature groups, on a tiny draft."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import tiny_pair

from benchmarks.readout_study import readout_table
from spec_rag.calibration.generated_questions import generated_questions
from spec_rag.compression.document_draft import Draft


def test_the_table_has_a_row_for_each_group_of_features(tmp_path: Path) -> None:
    lines = [
        {
            "question": q.question,
            "documents": [{"title": d.title, "text": d.text} for d in q.documents],
            "answers": list(q.answers),
            "support": [list(place) for place in q.needed],
            "family": "abc"[i % 3],
        }
        for i, q in enumerate(generated_questions(6, documents=6))
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    told: list[int] = []
    draft = Draft.of(tiny_pair())
    table = readout_table(draft, [tmp_path / "own.jsonl"], None, lambda done, _: told.append(done))
    assert told == list(range(7))
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names[:2] == ["attention alone", "readout"]
    assert {"- all heads", "- words", "- title links"} < set(names)
    assert "+0.000 | [+0.000, +0.000]" in table.splitlines()[2]
