"""The command line, as a user calls it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import saved, tiny_model, tiny_pair

from spec_rag import ModelPair, compress
from spec_rag.compression.readout import Readout
from spec_rag.models.loading import unload_models
from spec_rag.text.documents import Document

pytest.importorskip("bm25s")
testing = pytest.importorskip("typer.testing")

from spec_rag.answering.answer import INSTRUCTION  # noqa: E402
from spec_rag.answering.chunking import retrieve  # noqa: E402
from spec_rag.cli import console  # noqa: E402
from spec_rag.cli.app import app  # noqa: E402
from spec_rag.evaluation.handbook import (  # noqa: E402
    Handbook,
    demo_questions,
    evaluate_handbook,
    find_handbook,
    load_handbook,
)
from spec_rag.evaluation.metrics import holds_answer  # noqa: E402

POWER = "# Power\n\nThe tank holds 42,500 litres.\n\nThe fuel is blue. It burns.\n\n## Keys\n\nThe key is here.\n"
LONG = "# Long\n\n" + " ".join(f"Tank {i} is large and grey. Its fuel burns for {i} hours." for i in range(40))
FOOD = "# Food\n\nSoup is served at noon. Bread is baked daily.\n\nThe cook lives in Cabin 7.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/power.md").write_text(POWER)
    (tmp_path / "docs/food.txt").write_text(FOOD)
    return tmp_path / "docs"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModelPair:
    """The commands load this pair instead of a real one."""
    from spec_rag.compression.document_draft import Draft

    pair = tiny_pair()
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: Draft(pair.draft, pair.tokenizer, "tiny", 4)))
    monkeypatch.setattr(ModelPair, "load", classmethod(lambda cls, *_, **__: pair))
    return pair


def run(*arguments: object):  # type: ignore[no-untyped-def]
    return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_compress_prints_json_whose_spans_are_exact(folder: Path, tiny: ModelPair) -> None:
    result = run("compress", folder, "-q", "How much does the tank hold?", "--ratio", "0.4", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    record = json.loads(result.stdout)
    numbers = {"draft_seconds", "budget_tokens", "over_budget", "tokens_before", "tokens_after", "ratio"}
    assert set(record) == {"query", "draft", "settings", "text", "documents"} | numbers
    assert record["tokens_after"] <= record["budget_tokens"] < record["tokens_before"]
    assert record["settings"]["ratio"] == 0.4
    assert [Path(document["source"]).name for document in record["documents"]] == ["food.txt", "power.md"]
    for document in record["documents"]:
        text = Path(document["source"]).read_text()
        assert set(document["units"][0]) == {"start", "end", "importance", "tokens", "kept", "reason"}
        assert all(text[start:end] in document["text"] for start, end in document["spans"])
        assert bool(document["spans"]) == bool(document["text"])


def test_compress_prints_a_table_or_the_text(folder: Path, tiny: ModelPair) -> None:
    table = run("compress", folder / "power.md", folder / "food.txt", "-q", "tank", "--budget", "40")
    assert table.exit_code == 0, table.stderr
    assert "Power" in table.stdout
    assert "budget 40 tokens" in table.stdout
    text = run("compress", folder / "power.md", "-q", "tank", "--ratio", "1", "--text")
    assert text.stdout == POWER + "\n"


def test_compress_writes_a_whole_page_or_none(
    folder: Path, tiny: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.html"
    result = run("compress", folder, "-q", "tank", "--html", out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    page = out.read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "out.html"]

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    result = run("compress", folder, "-q", "other", "--html", out)
    says = f"error: {out} cannot be written (disk full): give another path.\n"
    assert (result.exit_code, result.stderr) == (2, says)
    assert out.read_text(encoding="utf-8") == page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "out.html"]


def test_ask_prints_json_whose_support_stands_in_the_file(folder: Path, tiny: ModelPair) -> None:
    options = ("--max-new-tokens", 5, "--chunk-chars", 60, "--ratio", 0.6, "--json")
    result = run("ask", folder, "How much does the tank hold?", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    record = json.loads(result.stdout)
    support = record["support"]
    assert Path(support["source"]).read_text()[support["start"] : support["end"]] == support["text"] != ""
    for passage in record["chunks"]:
        text = Path(passage["source"]).read_text()
        assert len(text[passage["start"] : passage["end"]]) <= 60
        assert all(text[start:end] in passage["text"] for start, end in passage["spans"])
    assert set(record["seconds"]) == {"total", "compression", "lookahead", "prefill", "decode"}
    assert record["completion_tokens"] <= 5


def test_ask_prunes_the_cache_to_the_capacity_it_is_told(folder: Path, tiny: ModelPair) -> None:
    pruned = json.loads(
        run("ask", folder, "tank?", "--max-new-tokens", 3, "--kv-capacity", 64, "--ratio", 1, "--json").stdout
    )
    whole = json.loads(
        run("ask", folder, "tank?", "--max-new-tokens", 3, "--kv-capacity", 0, "--ratio", 1, "--json").stdout
    )
    assert 0 < pruned["kv_bytes_kept"] < pruned["kv_bytes_dense"]
    assert whole["kv_bytes_kept"] == whole["kv_bytes_dense"] >= pruned["kv_bytes_dense"], "of nothing pruned, all"


def test_real_model_answers_and_names_the_place(folder: Path, smollm2: ModelPair) -> None:
    result = run("ask", folder, "How many litres does the tank hold?", "--ratio", "0.6", "--max-new-tokens", 24)
    assert result.exit_code == 0, result.stderr
    answer, _, notes = result.stdout.partition("\n\n")
    assert "42,500" in answer
    start = POWER.index("The tank")
    assert f"power.md, characters {start}-{start + len('The tank holds 42,500 litres.')}" in notes
    assert "Tokens" in notes
    assert "Seconds" in notes


def test_ask_reads_little_text_whole_and_much_within_its_default(folder: Path, tiny: ModelPair) -> None:
    (folder / "long.md").write_text("# Long\n\n" + "The tank is large and grey. " * 50)
    few = json.loads(run("ask", folder / "power.md", "tank?", "--max-new-tokens", 3, "--json").stdout)
    many = json.loads(run("ask", folder, "tank?", "--max-new-tokens", 3, "--json").stdout)
    assert few["tokens_after"] == few["tokens_before"] < 300
    assert 0 < many["tokens_after"] <= 300 < many["tokens_before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "gone.txt", "-q", "x"], "gone.txt: there is no such file"),
        (["compress", "{}", "-q", " "], "--query ' ' is empty"),
        (["compress", "{}", "-q", "x", "--budget", "0"], "max_tokens=0"),
        (["compress", "{}", "-q", "x", "--ratio", "1.5"], "ratio=1.5"),
        (["compress", "{}", "-q", "x", "--ratio", "0.5", "--budget", "9"], "give one of them"),
        (["compress", "{}", "-q", "x", "--json", "--text"], "give one of them"),
        (["compress", "{}", "-q", "x", "--html", "{}/none/out.html"], "does not exist"),
        (["compress", "{}", "-q", "x", "--html", "{}"], "is a folder"),
        (["compress", "{}/scan.pdf", "-q", "x"], "scan.pdf is not a readable PDF"),
        (["compress", "{}", "-q", "x", "--draft", "no-such-owner/no-such-model"], "no-such-owner/no-such-model"),
        (["ask", "{}", "  "], "question is empty"),
        (["ask", "{}", "q", "--kv-capacity", "5", "--kv-preset", "paper"], "max_capacity_prompt=5"),
        (["ask", "gone.txt", "q"], "gone.txt: there is no such file"),
        (["demo", "--corpus", "{}"], "questions.json"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    if "scan" in " ".join(arguments):
        (folder / "scan.pdf").write_bytes(b"junk")
    result = run(*[argument.replace("{}", str(folder)) for argument in arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["compress", "a.txt"], ["ask", "only-one"], ["compress", "a", "-q", "x", "--unit", "page"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_unreadable_files_inside_a_folder_are_named_on_stderr(folder: Path, tiny: ModelPair) -> None:
    (folder / "scan.pdf").write_bytes(b"junk")
    result = run("compress", folder, "-q", "tank", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("skipped: ")
    assert "scan.pdf" in result.stderr
    assert len(json.loads(result.stdout)["documents"]) == 2


@contextmanager
def tokens_read(pair: ModelPair) -> Iterator[list[int]]:
    """How many tokens the draft reads, call by call."""
    read: list[int] = []
    hook = pair.draft.get_decoder().register_forward_pre_hook(
        lambda model, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    yield read
    hook.remove()


def test_an_index_folder_is_filled_and_used_again(folder: Path, tiny: ModelPair, tmp_path: Path) -> None:
    arguments = ["compress", folder, "-q", "tank", "--index", tmp_path / "index", "--json"]
    with tokens_read(tiny) as read:
        first = json.loads(run(*arguments).stdout)
        reading = sum(read)
        read.clear()
        second = json.loads(run(*arguments).stdout)
    assert any((tmp_path / "index").rglob("*.safetensors"))
    assert first["text"] == second["text"]
    # the second time the draft reads the question alone, and none of the files' text
    assert sum(read) <= reading - len(POWER) - len(FOOD)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Path]:
    """A folder with a small draft, which the commands load as they load any."""
    yield saved(tiny_model(layers=6, max_position_embeddings=8192), tmp_path / "draft")
    unload_models()


def calibration_of(draft: Path) -> Path:
    file = draft.parent / "heads.json"
    heads = [[1.0, 0.0, 0.5, 0.0]] * 2
    file.write_text(Readout(str(draft), 6, 4, 1, heads, heads, {}, {}).to_json())
    return file


@pytest.mark.parametrize("command", ["compress", "ask"])
@pytest.mark.parametrize("options", [["--storage", "int8"], ["--storage", "float32"], ["--calibration", "heads.json"]])
def test_an_indexed_folder_is_found_by_questions_that_ask_as_it_was_filled(
    folder: Path, checkpoint: Path, tmp_path: Path, command: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(calibration_of(checkpoint).parent)
    (folder / "long.md").write_text(LONG)
    common = ["--draft", checkpoint, "--index", tmp_path / "index"]
    filled = run("index", folder, *common, *options)
    assert filled.exit_code == 0, filled.stderr
    before = sorted(path.name for path in (tmp_path / "index").rglob("*.safetensors"))
    asked = ["-q", "tank?"] if command == "compress" else ["tank?", "--target", checkpoint, "--max-new-tokens", 2]
    if options[0] == "--storage":
        options = []  # questions take the folder's own
    answered = run(command, folder, *asked, *common, *options, "--ratio", 0.3, "--json")
    assert answered.exit_code == 0, answered.stderr
    assert json.loads(answered.stdout)["tokens_after"] > 0
    assert sorted(path.name for path in (tmp_path / "index").rglob("*.safetensors")) == before != []


def test_an_index_filled_otherwise_is_not_found(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """What the test above would not see if nothing were ever written."""
    common = [folder, "--draft", checkpoint, "--index", tmp_path / "index"]
    run("index", *common, "--calibration", calibration_of(checkpoint))
    before = len(list((tmp_path / "index").rglob("*.safetensors")))
    assert run("compress", *common, "-q", "tank?", "--ratio", 0.3).exit_code == 0
    assert len(list((tmp_path / "index").rglob("*.safetensors"))) == 2 * before > 0


def test_ask_prunes_by_default_only_where_another_model_than_the_target_looks_ahead(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (folder / "long.md").write_text(LONG)
    shutil.copytree(checkpoint, tmp_path / "other")

    def asked(target: Path, *options: object) -> dict[str, Any]:
        models = ["--draft", checkpoint, "--target", target]
        return json.loads(run("ask", folder, "tank?", "--max-new-tokens", 3, *models, *options, "--json").stdout)

    own, other = asked(checkpoint), asked(tmp_path / "other")
    assert own["kv_bytes_kept"] == own["kv_bytes_dense"] > 0
    assert own["seconds"]["lookahead"] == 0
    assert 0 < other["kv_bytes_kept"] < other["kv_bytes_dense"]
    assert other["seconds"]["lookahead"] > 0
    pruned = asked(checkpoint, "--kv-capacity", 64)
    assert 0 < pruned["kv_bytes_kept"] < pruned["kv_bytes_dense"]
    near = asked(tmp_path / "other", "--kv-capacity", int(other["prompt_tokens"] / 1.2))
    assert near["seconds"]["lookahead"] == 0 < near["kv_bytes_kept"], "for so little nobody looks ahead"
    assert asked(tmp_path / "other", "--kv-capacity", 64, "--lookahead", "none")["seconds"]["lookahead"] == 0


def test_help_comes_without_loading_models() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from spec_rag.cli.app import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "assert CliRunner().invoke(app, ['ask', '--help']).exit_code == 0; "
        "print([name for name in ('torch', 'transformers', 'bm25s', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compress_holds_what_it_is_told_to_and_says_why(folder: Path, tiny: ModelPair) -> None:
    asked = ("compress", folder, "-q", "How much does the tank hold?", "--ratio", "0.7", "--json")
    result = run(*asked, "--keep", "numbers", "--keep", "^Soup", "--order", "relevance")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["settings"]["keep"] == ["numbers", "^Soup"]
    why = {
        Path(document["source"]).read_text()[unit["start"] : unit["end"]]: unit["reason"]
        for document in record["documents"]
        for unit in document["units"]
    }
    held = {"The tank holds 42,500 litres.", "Soup is served at noon.", "The cook lives in Cabin 7."}
    assert {text for text, reason in why.items() if reason == "keep"} == held
    refused = run("compress", folder, "-q", "How much?", "--ratio", "0.1", "--keep", "numbers")
    assert refused.exit_code == 2
    assert "keep=('numbers',) needs" in refused.stderr
    assert run("compress", folder, "-q", "How much?", "--keep", "number").stderr.count("did you mean 'numbers'") == 1


def test_missing_optional_packages_are_named_with_the_remedy() -> None:
    code = "import sys; sys.modules['typer'] = None; from spec_rag.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "spec-rag[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_handbook_answers_stand_in_the_passages() -> None:
    handbook = load_handbook()
    assert not any("README" in str(chunk.metadata["source"]) for chunk in handbook.chunks)
    for question in handbook.questions:
        assert all(any(sentence in passage.text for passage in handbook.chunks) for sentence in question.support)
        assert holds_answer(" ".join(question.support), question.answers)
    assert len(demo_questions(handbook)) == 5


def test_damaged_or_missing_corpus_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="examples/handbook"):
        find_handbook(tmp_path)
    (tmp_path / "questions.json").write_text("{}")
    (tmp_path / "a.md").write_text("text")
    result = run("demo", "--corpus", tmp_path)
    assert result.exit_code == 2
    assert "damaged" in result.stderr


def test_demo_prints_answers_with_their_place_and_a_table(tiny: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_rag.evaluation.handbook.DEFAULT_TOP_K", 2)
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    for question in demo_questions(load_handbook()):
        assert f"Question {question.question}\nAnswer   " in result.stdout
    assert result.stdout.count("\nTokens   ") == result.stdout.count("\nSeconds  ") == 5
    assert "Answered from a quarter" in result.stdout
    assert re.search(r"Correct\W+Tokens\W+Seconds", result.stdout)
    assert "5 questions in" in result.stdout


def test_evaluation_counts_each_question_at_each_ratio(tiny: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_rag.evaluation.handbook.DEFAULT_TOP_K", 1)
    handbook = load_handbook()
    few = Handbook(handbook.chunks, [q for q in handbook.questions if q.id in ("single-01", "single-09", "two-01")])
    told: list[str] = []
    evaluation = evaluate_handbook((1.0, 0.1), pair=tiny, handbook=few, tell=told.append)
    assert evaluation.questions == len(told) == len(evaluation.answers) == 2
    assert evaluation.retrieved == evaluation.survived[1.0] == 2
    asked = [question for question in few.questions if question.kind == "single"]
    kept = [
        compress(
            retrieve(question.question, few.chunks, 1), question.question, draft=tiny, ratio=0.1, retrieval=False
        ).text
        for question in asked
    ]
    assert evaluation.survived[0.1] == sum(holds_answer(text, q.answers) for text, q in zip(kept, asked, strict=True))
    assert evaluation.survived[0.1] < 2, "not every answer fits the budget"
    assert evaluation.correct == 0
    assert evaluate_handbook((1.0,), answer=False, pair=tiny, handbook=few).correct is None


def test_ask_with_a_context_reads_the_files_once(
    tiny: ModelPair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spec_rag.generation.context_cache import ContextCache

    read, reads = ContextCache.read, []
    monkeypatch.setattr(ContextCache, "read", lambda *a, **k: reads.append(a) or read(*a, **k))
    kept = folder.parent / "docs.context"
    arguments = ["ask", str(folder), "--context", str(kept), "--max-new-tokens", "4"]
    first = testing.CliRunner().invoke(app, [*arguments, "Where is the key?"])
    assert first.exit_code == 0, first.output
    assert "279 tokens, 92 % of their pairs in" in first.output, "256 pairs of each head are kept at least"
    assert "Model    tiny-target" in first.output
    second = testing.CliRunner().invoke(app, [*arguments, "--json", "Who is the cook?"])
    assert json.loads(second.output)["context_bytes"] > 0
    assert len(reads) == 1
    testing.CliRunner().invoke(app, [*arguments, "--context-share", "0.5", "Who?"])
    (folder / "food.txt").write_text("Nothing is served.")
    testing.CliRunner().invoke(app, [*arguments, "Who?"])
    assert len(reads) == 3, "another share and another text are read anew"
    refused = testing.CliRunner().invoke(app, ["ask", str(folder), "--context-share", "0.5", "Who?"])
    assert (refused.exit_code, "--context-share 0.5 needs --context" in refused.output) == (2, True)


def test_a_context_file_of_too_few_pairs_is_made_again(tiny: ModelPair, folder: Path) -> None:
    from spec_rag.answering.answer import context_of
    from spec_rag.generation.context_cache import ContextCache

    path = folder.parent / "docs.context"
    documents = [Document(POWER, "Power")]
    ContextCache.read(tiny, f"Power: {POWER}", system=INSTRUCTION, keep=0.25).save(path)
    assert context_of(tiny, documents, path).settings["kept"] == 1
    assert ContextCache.load(path, tiny).settings["kept"] == 1
    assert context_of(tiny, documents, path, 0.1).settings["kept"] == 1


def test_who_watches_a_terminal_is_told_where_the_page_is(
    folder: Path, tiny: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "note", told.append)
    assert run("compress", folder, "-q", "tank", "--html", tmp_path / "out.html").stdout == ""
    assert len(told) == 1
    assert "tokens kept" in told[0]
    assert told[0].endswith(str(tmp_path / "out.html"))
