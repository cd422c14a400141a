"""`python -m benchmarks bench`: stages that go on where they stopped, and a page that says what it has and has not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_pair
from typer.testing import CliRunner

from benchmarks import report, runner, timings
from benchmarks.__main__ import app
from benchmarks.budgets import budgets_of
from benchmarks.grid import method_names
from benchmarks.runner import Bench
from benchmarks.stages import STAGES, Stage
from benchmarks.timings import Timed
from spec_rag.compression.document_draft import Draft
from spec_rag.evaluation.json_lines import read_lines
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.evaluation.speed import joint_prompt
from spec_rag.text.documents import Document
from spec_rag.text.tokenization import text_ids

FEW = Stage(
    "kept-ruler", "Needles", "One needle.", "kept", ("BM25 sentences", "truncation to the head"), ("1/4", "1/8"),
    tasks=("niah_single_2",), tokens=(900, 1200), cases=3,
)  # fmt: skip


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.of(tiny_pair())
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_: draft))
    for module in (runner, report):
        monkeypatch.setattr(module, "STAGES", (FEW,))


def test_every_stage_names_methods_and_budgets_that_there_are() -> None:
    for stage in STAGES:
        assert method_names(stage.measure, object(), stage.methods) == list(stage.methods)
        assert budgets_of(stage.budgets)
        assert report._texts()["why"][stage.name]


def test_workers_share_the_cases_and_do_none_twice(tmp_path: Path, stages: None) -> None:
    bench = Bench(tmp_path)
    runner.run_quality(bench, FEW, 1, 2)
    assert {(row.cell, row.number) for row in bench.rows(FEW)} == {
        (f"niah_single_2, {tokens:,} tokens", number) for tokens in (900, 1200) for number in (0, 1)
    }
    runner.run_quality(bench, FEW, 2, 2)
    assert len(bench.rows(FEW)) == 2 * 3 * 2 * 2
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    runner.run_quality(bench, FEW)  # another number of workers
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_begun_after_the_deadline_and_the_page_says_what_is_missing(tmp_path: Path, stages: None) -> None:
    late = Bench(tmp_path / "out", deadline=0)
    runner.run_stages(late, ["kept-ruler", "compression", "generation"], 2)
    report.write_report(late, tmp_path / "bench.md", "make bench", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "Left out: it was not run." in page
    assert "Left out: it was not measured." in page
    runner.run_quality(Bench(tmp_path / "out"), FEW, 1, 2)
    report.write_report(late, tmp_path / "bench.md", "make bench", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "Fewer than 3 examples, since time ran out: niah_single_2, 1,200 tokens (2), niah_single_2, 900" in page


def test_what_two_versions_of_the_code_measured_counts_once(tmp_path: Path, stages: None) -> None:
    bench = Bench(tmp_path / "out")
    runner.run_quality(bench, FEW)
    rows = bench.rows(FEW)
    again = "".join(f"{replace(row, code='another', score=1.0).to_json()}\n" for row in rows)
    (tmp_path / "out" / "kept-ruler.2.jsonl").write_text(again, encoding="utf-8")
    assert len(bench.rows(FEW)) == 2 * len(rows)
    report.write_report(bench, tmp_path / "bench.md", "make bench", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "| niah_single_2, 900 tokens, 3 | BM25 sentences |  | 1.000" in page
    assert "tokens, 6 |" not in page


def test_the_page_shows_who_loses_and_why(tmp_path: Path, stages: None) -> None:
    bench = Bench(tmp_path / "out")
    runner.run_quality(bench, FEW)
    path = tmp_path / "out" / "kept-ruler.1.jsonl"
    rows = [{**json.loads(line), "score": 0.5} for line in path.read_text(encoding="utf-8").splitlines()]
    own = [{**row, "method": "default", "score": 0.25} for row in rows if row["method"] == "BM25 sentences"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, *own]), encoding="utf-8")
    report.write_report(bench, tmp_path / "bench.md", "make bench DATA=here", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "Behind: niah_single_2, 900 tokens: default at 1/4 (0.25, BM25 sentences 0.50)" in page
    assert "BM25 counts exactly" in page
    assert "`make bench DATA=here`" in page
    assert "![niah_single_2-900](bench/kept-ruler/niah_single_2-900.png)" in page
    assert (tmp_path / "bench" / "kept-ruler" / "niah_single_2-900.png").read_bytes()[:4] == b"\x89PNG"
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in html
    assert "<td>BM25 sentences</td>" in html
    assert "http" not in html


def test_speed_is_measured_once_and_set_against_dense(
    tmp_path: Path, stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []

    def way(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run(tokens: int) -> dict[str, float]:
            ran.append((name, tokens))
            return {"first_token_seconds": seconds, "tokens_per_second": 9.0, "kv_bytes": 2e6, "prompt_tokens": tokens}

        return run

    monkeypatch.setattr(timings, "generations", lambda: {"dense": way("dense", 4.0), "SpecKV": way("SpecKV", 8.0)})
    monkeypatch.setattr(timings, "LENGTHS", (512, 1024))
    bench = Bench(tmp_path / "out")
    runner.run_stages(bench, ["generation"], 1)
    runner.run_stages(bench, ["generation"], 1)
    assert ran == [(name, tokens) for tokens in (512, 1024) for name in ("dense", "SpecKV")]
    report.write_report(bench, tmp_path / "bench.md", "make bench", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "| 1,024 | SpecKV | 8.0 | 0.5 | 9.0 | 2 |" in page
    assert "Slower than dense until the first token: SpecKV at 512, SpecKV at 1,024." in page
    assert "![first-token-seconds](bench/first-token-seconds.png)" in page


def test_every_way_of_generating_tells_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    monkeypatch.setattr(timings, "_pair", lambda: pair)
    monkeypatch.setattr(timings, "NEW_TOKENS", 2)
    monkeypatch.setattr(timings, "_documents", lambda tokens: timings.generated_documents(Draft.of(pair), 3, 400))
    for name in ("dense", "SpecKV", "SnapKV", "SpecPC, indexed"):
        figures = timings.generations()[name](1000)
        assert figures["first_token_seconds"] > 0
        assert (figures["prompt_tokens"] == 1000) == (name != "SpecPC, indexed")
    timings._filled.cache_clear()
    row = Timed("generation", 1000, "dense", figures, "code")
    assert Timed.from_json(row.to_json()) == row


def test_a_peer_s_seconds_stand_beside_and_their_ratio_is_to_its_own_process(tmp_path: Path, stages: None) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first = {"first_token_seconds": 2.0, "tokens_per_second": 9.0, "kv_bytes": 2e6}
    own = [
        Timed("generation", 512, "dense", {**first, "first_token_seconds": 5.0}, "code"),
        Timed("compression", 10, "joint prefill", {"seconds": 4.0}, "code"),
    ]
    peer = [
        Timed("generation", 512, "kvpress SnapKV", {**first, "dense_first_token_seconds": 3.0}, "kvpress 1"),
        Timed("compression", 10, "LLMLingua", {"seconds": 8.0, "joint_seconds": 2.0}, "llmlingua 1"),
    ]
    for name, rows in (("speed", own), ("speed.peer", peer)):
        (out / f"{name}.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")
    report.write_report(Bench(out), tmp_path / "bench.md", "make bench", runner.stage_names())
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "Left out" in page
    assert "| 512 | kvpress SnapKV | 2.0 | 1.5 | 9.0 | 2 |" in page
    assert "| LLMLingua | 8.00 | 0.2 |" in page
    assert "kvpress 1" in page


def test_peers_are_timed_on_the_same_questions_and_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    monkeypatch.setattr(timings, "_pair", lambda: pair)
    monkeypatch.setattr(timings, "LENGTHS", (512,))
    monkeypatch.setattr(timings, "_documents", lambda tokens: timings.generated_documents(Draft.of(pair), 3, 400))
    asked = AnsweredQuestion("Who?", ["Fenn"], [Document("Fenn bakes.", title="T"), Document("It rains.")])
    compressed, generated = map(json.loads, timings.peer_lines(Draft.of(pair), [[asked]]))
    (question,) = compressed["questions"]
    assert (compressed["size"], question["documents"]) == (2, ["T\nFenn bakes.", "It rains."])
    assert question["joint_ids"] == joint_prompt(Draft.of(pair), asked)
    assert (generated["size"], len(generated["ids"])) == (512, 512)
    assert generated["config"]["hidden_size"] == pair.require_target().config.hidden_size


def test_documents_have_as_many_tokens_as_the_prompt_that_they_are_timed_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = tiny_pair()
    monkeypatch.setattr(timings, "_pair", lambda: pair)
    lengths = [len(text_ids(pair.require_tokenizer(), d.text)) for d in timings._documents.__wrapped__(1000)]
    assert len(lengths) == 3
    assert sum(lengths) == pytest.approx(1000, abs=3)


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    own = ["bench", "--out", str(tmp_path / "out")]
    for wrong, says in (
        (["--stages", "all"], "stage 'all' is not one of compression, generation, kept-nq"),
        (["--worker", "3/2"], "--worker '3/2': give one of several"),
        (["--data", str(tmp_path / "none")], "is no folder"),
    ):
        refused = CliRunner().invoke(app, [*own, *wrong])
        assert refused.exit_code == 2
        assert says in " ".join(refused.stderr.split())
    assert read_lines(tmp_path / "out" / "speed.jsonl", Timed.from_json) == []


def test_a_page_of_some_stages_tells_of_no_other(tmp_path: Path, stages: None) -> None:
    out, written = tmp_path / "out", tmp_path / "page.md"
    runner.run_quality(Bench(out), FEW)
    seconds = {"first_token_seconds": 2.0, "tokens_per_second": 9.0, "kv_bytes": 2e6}
    rows = [
        Timed("generation", 512, "dense", seconds, "code 1"),
        Timed("compression", 10, "joint prefill", {"seconds": 4.0}, "code 2"),
    ]
    (out / "speed.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")
    arguments = [
        "bench",
        "--out",
        str(out),
        "--minutes",
        "0",
        "--page",
        str(tmp_path / "page.md"),
        "--stages",
    ]
    assert CliRunner().invoke(app, [*arguments, "generation"]).exit_code == 0
    page = written.read_text(encoding="utf-8")
    assert page.startswith("# Benchmark: generation\n")
    assert "## Generation" in page
    assert "`python -m benchmarks bench --out FOLDER --stages generation`" in page
    for other in ("Compression", "code 2", "Needles", "Left out"):
        assert other not in page
    assert CliRunner().invoke(app, [*arguments, "none"]).exit_code == 0
    page = written.read_text(encoding="utf-8")
    assert page.startswith("# Benchmark\n")
    assert "`make bench`" in page
    assert "## Compression" in page
    assert "## Needles" in page
