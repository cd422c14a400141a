"""LongBench's published files become cases of our own wording."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from readings import words

from benchmarks import longbench
from benchmarks.longbench import TASKS, longbench_cases
from spec_rag.errors import ConfigError, UnreadableFileError

ROW = {
    "input": "Who bakes?",
    "context": "Fenn bakes. " + "Gulls fly over the pier. " * 40 + "Snow falls.",
    "answers": ["Fenn", "Odalys Fenn"],
    "all_classes": ["Fenn", "Tarn"],
    "length": 9,
    "dataset": "any",
    "language": "en",
    "_id": "1",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for task in TASKS:
        (tmp_path / f"{task}.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", encoding="utf-8")
    return tmp_path


def test_all_sixteen_tasks_ask_and_judge(folder: Path) -> None:
    assert len(TASKS) == 16
    for task in TASKS:
        case, _ = longbench_cases(task, folder, words)
        content = case.chat().messages[1]["content"]
        assert content.startswith(ROW["context"])
        assert "{" not in content.removeprefix(ROW["context"])
        right = "7" if case.metric == "count" else "Fenn"
        if case.metric not in ("count", "retrieval"):
            assert case.score(right) == 1
        assert case.score("nothing of it") < 0.5


def test_the_middle_of_a_long_context_is_left_out(folder: Path) -> None:
    case = longbench_cases("qasper", folder, words, tokens=20, limit=1)[0]
    text = case.documents[0].text
    assert 10 < words(text) <= 20
    assert text.startswith("Fenn bakes.")
    assert text.endswith("Snow falls.")


def test_only_the_first_line_of_an_example_s_continuation_counts(folder: Path) -> None:
    case = longbench_cases("triviaqa", folder, words, limit=1)[0]
    assert case.score("\nFenn\nPassage: Tarn") == 1
    assert case.score("Tarn\nFenn") == 0


def test_the_zip_file_of_the_hub_is_read_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.write(folder / "lcc.jsonl", "data/lcc.jsonl")
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names, **_: asked.append(names) or str(packed))
    by_path, by_hub = longbench_cases("lcc", packed, words), longbench_cases("lcc", "hub", words)
    assert by_path == by_hub
    assert asked == [(longbench.HUB, "data.zip")]
    with pytest.raises(UnreadableFileError, match=r"has no qasper.jsonl"):
        longbench_cases("qasper", packed, words)


def test_what_is_none_of_it_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'dureader': must be one of narrativeqa"):
        longbench_cases("dureader", folder, words)
    (folder / "trec.jsonl").write_text('{"input": "Who?"}\n', encoding="utf-8")
    with pytest.raises(UnreadableFileError, match="trec, line 1: KeyError"):
        longbench_cases("trec", folder, words)
