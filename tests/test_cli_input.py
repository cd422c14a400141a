"""What the commands take: files and a question, standard input, a language, one index for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import saved, tiny_model, tiny_pair
from typer.testing import CliRunner

import spec_rag
from spec_rag import ModelPair
from spec_rag.answering.chunking import passage_chunks
from spec_rag.cli.app import COMMANDS, app
from spec_rag.cli.console import FileReader
from spec_rag.compression.document_draft import Draft
from spec_rag.models.loading import unload_models
from spec_rag.text.documents import Document
from spec_rag.text.languages import detect_language
from spec_rag.text.units import sentence_spans

HUT = "# Hut\n\nThe hut holds 300 litres of water. It opens at nine.\n\nDogs travel free of charge.\n"
LONG = "# Tanks\n\n" + "\n\n".join(
    f"Tank {i} is grey. Its fuel burns for {i} hours. It is {i} years old." for i in range(90)
)
GERMAN = "Der Pass ist bis zum 31. Dezember offen. Der Kiosk schließt um 8 Uhr.\n"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModelPair:
    pair = tiny_pair()
    monkeypatch.setattr(Draft, "of", classmethod(lambda cls, *_, **__: Draft(pair.draft, pair.tokenizer, "tiny", 4)))
    monkeypatch.setattr(ModelPair, "load", classmethod(lambda cls, *_, **__: pair))
    return pair


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Path]:
    yield saved(tiny_model(layers=6, max_position_embeddings=8192), tmp_path / "draft")
    unload_models()


def run(*arguments: object, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def check_one_line(result: Any, says: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr


@pytest.mark.parametrize("given", ["{}/hut.md", "{}", "gone.pdf", "-", "{}/hut.md {}/hut.md"])
def test_files_without_a_question_are_told_what_is_missing(tmp_path: Path, given: str) -> None:
    (tmp_path / "hut.md").write_text(HUT)
    words = given.format(tmp_path, tmp_path).split()
    check_one_line(run("ask", *words), f'spec-rag ask {" ".join(words)} "What ...?"')
    check_one_line(run("ask", *words), "question is missing")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Files and a question are missing"),
        (["How much?"], "No file is given for the question 'How much?'"),
        (["-q", "How much?"], "No file is given"),
        (["-q", " ", "hut.md"], "The question is empty"),
        (["gone.md", "What is in notes.md"], "gone.md: there is no such file"),
        (["gone.md", "x" * 5000], "gone.md: there is no such file"),
        (["gone.md", "Why\0?"], "gone.md: there is no such file"),
    ],
)
def test_what_ask_is_not_given_is_named(words: list[str], says: str) -> None:
    check_one_line(run("ask", *words), says)


def test_a_question_may_be_given_as_an_option_and_may_be_named_like_a_file(
    tiny: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hut.md").write_text(HUT)
    monkeypatch.chdir(tmp_path)
    for words in (["hut.md", "-q", "hut.md"], ["-q", "hut.md", "hut.md"]):
        result = run("ask", *words, "--max-new-tokens", 2, "--json")
        assert json.loads(result.stdout)["question"] == "hut.md", result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "No such option: --bogus"),
        (["compress", "a.txt"], "--query"),
        (["compress", "a.txt", "-q", "x", "--unit", "page"], "'page' is not one of"),
        (["compress", "a.txt", "-q", "x", "--language", "klingon"], "language='klingon'"),
        (["ask", "a.txt", "q", "--top-k", "0"], "--top-k"),
        (["ask", "a.txt", "q", "--top-k", "many"], "--top-k"),
        (["index", "a.txt"], "--index"),
        (["plan"], "--draft"),
        (["mcp", "no-such-folder"], "no-such-folder"),
        (["serve", "--port", "0"], "--port"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], says: str) -> None:
    check_one_line(run(*arguments), says)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_still_a_page(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.count("\n") > 5


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"spec-rag {spec_rag.__version__}\n")


@pytest.mark.parametrize(
    ("data", "title", "text"),
    [
        (HUT.encode(), None, HUT),
        (b"\xef\xbb\xbfThe hut is red.", None, "The hut is red."),
        (b"<!DOCTYPE html><title>Hut</title><p>The hut is red.", "Hut", "The hut is red."),
    ],
)
def test_standard_input_is_read_in_the_format_that_it_has(tiny: ModelPair, data: bytes, title: str, text: str) -> None:
    result = run("compress", "-", "-q", "hut", "--ratio", 1, "--json", stdin=data)
    assert result.exit_code == 0, result.stderr
    (document,) = json.loads(result.stdout)["documents"]
    assert (document["source"], document["title"], document["text"].strip()) == ("-", title, text.strip())


def test_standard_input_stands_beside_files_and_is_named_below_an_answer(tiny: ModelPair, tmp_path: Path) -> None:
    (tmp_path / "tanks.md").write_text(LONG)
    arguments = ["ask", "-", tmp_path, "-q", "How many litres of water?", "--max-new-tokens", 3, "--top-k", 1]
    assert "Closest  standard input, characters" in run(*arguments, "--ratio", 0.5, stdin=HUT.encode()).stdout
    record = json.loads(run(*arguments, "--json", stdin=HUT.encode()).stdout)
    assert [chunk["source"] for chunk in record["chunks"]] == ["-"]
    check_one_line(run(*arguments, stdin=b" \n"), "holds no text")
    check_one_line(run("compress", "-", "-q", "x", "--max-file-mb", 0.00001, stdin=HUT.encode()), "has more than 10")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The pass is open until December.", "en"),
        (GERMAN, "de"),
        ("Am 24. Dezember geschlossen. Am 1. Januar ebenfalls.", "de"),
        ("Le col est ouvert jusqu'au 31 décembre.", "fr"),
        ("El puerto está abierto hasta el 31 de diciembre.", "es"),
        ("Il passo è aperto fino al 31 dicembre.", "it"),
        ("O porto está aberto até 31 de dezembro e não fecha.", "pt"),
        ("De pas is open tot 31 december.", "nl"),
        ("Passet är öppet till den 31 december.", "sv"),
        ("Passet er åbent til den 31. december og ikke længere. Det blev sent.", "da"),
        ("Przełęcz jest otwarta do 31 grudnia i nie zamyka się.", "pl"),
        ("山口开放到12月31日。", "zh"),
        ("Spec-RAG 是一个用于 LangChain 的库。", "zh"),
        ("峠は12月31日まで開いています。", "ja"),
        ("고개는 열려 있다", "ko"),
        ("Перевал открыт до 31 декабря.", "ru"),
        ("Перевал відкритий до 31 грудня, і їх є.", "uk"),
        ("المضيق مفتوح", "ar"),
        ("दर्रा खुला है", "hi"),
        ("The word 山口 means pass, and it is a name of many places.", "en"),
        ("x = 3; y = 4", "en"),
        ("", "en"),
        ("12345 !!", "en"),
    ],
)
def test_languages_are_detected(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_sentences_are_split_in_the_language_that_they_are_written_in() -> None:
    split = [GERMAN[start:end] for start, end in sentence_spans(GERMAN, "auto")]
    assert split == ["Der Pass ist bis zum 31. Dezember offen.", "Der Kiosk schließt um 8 Uhr."]


def test_commands_detect_the_language_unless_they_are_told(tiny: ModelPair, tmp_path: Path) -> None:
    (tmp_path / "pass.txt").write_text(GERMAN)
    arguments = ["compress", tmp_path, "-q", "Wann ist der Pass offen?", "--ratio", 0.9, "--json"]
    units = [len(json.loads(run(*arguments, *o).stdout)["documents"][0]["units"]) for o in ([], ["--language", "en"])]
    assert units == [2, 3]
    assert spec_rag.compress([GERMAN], "Wann?", draft=tiny, ratio=1, language="auto").settings["language"] == "auto"


@pytest.mark.parametrize("text", [LONG, GERMAN * 90, HUT, "word " * 3000, "山口开放。" * 900, "\n\n A. \n\n" * 900])
def test_chunks_of_an_answer_are_the_passages_of_the_whole_file(tiny: ModelPair, text: str) -> None:
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.compression.passage_encoding import index_documents, indexed_passages
    from spec_rag.options.compression import CompressionConfig

    document, config = Document(text, "Tanks"), CompressionConfig(language="auto")
    chunks = passage_chunks(document)
    assert all(chunk.text == text[chunk.start : chunk.end] and len(chunk.text) <= 2000 for chunk in chunks)
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())
    index = DocumentIndex(storage="float32")
    whole = index_documents([document], tiny, index, config)
    again = index_documents(chunks, tiny, index, config)
    assert (again.passages, again.new_passages) == (whole.passages, 0)
    assert indexed_passages(chunks, tiny, index, config) == (0, len(chunks)), "it has no folder"


def test_one_index_serves_compress_and_ask_and_each_says_so(checkpoint: Path, tmp_path: Path) -> None:
    docs, folder = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    (docs / "tanks.md").write_text(LONG)
    (docs / "hut.md").write_text(HUT)
    common = ["--draft", checkpoint, "--index", folder]
    indexed = run("index", docs, *common, "--json")
    assert indexed.exit_code == 0, indexed.stderr
    passages = json.loads(indexed.stdout)["passages"]
    assert passages > 3
    before = sorted(path.name for path in folder.rglob("*.safetensors"))
    record = json.loads(run("compress", docs, "-q", "How old is tank 9?", *common, "--json").stdout)
    assert record["index"] == {"folder": str(folder), "passages": passages, "found": passages}
    asking = ["--target", checkpoint, "--max-new-tokens", 2, "--top-k", 2]
    record = json.loads(run("ask", docs, "How old is tank 9?", *common, *asking, "--json").stdout)
    assert record["index"] == {"folder": str(folder), "passages": 2, "found": 2}
    assert sorted(path.name for path in folder.rglob("*.safetensors")) == before
    assert f"2 of 2 passages from the index in {folder}\n" in run("ask", docs, "Tank 9?", *common, *asking).stdout
    (docs / "hut.md").write_text(HUT.replace("nine", "ten"))
    table = run("compress", docs, "-q", "How old is tank 9?", *common)
    assert f"{passages - 1} of {passages} passages from the index in {folder}." in table.stdout
    other = run("compress", docs / "tanks.md", "-q", "Tank 9?", *common, "--unit", "token")
    assert "; the index was filled with other settings" in other.stdout
    fresh = run("compress", docs, "-q", "Tank 9?", "--draft", checkpoint, "--index", tmp_path / "fresh")
    assert f"0 of {passages} passages from the index in {tmp_path / 'fresh'}.\n" in fresh.stdout
    assert "index" not in json.loads(run("compress", docs, "-q", "Tank?", "--draft", checkpoint, "--json").stdout)


def test_limits_of_files_are_those_of_the_options_in_binary_megabytes() -> None:
    limits = FileReader.of(None, 1.5, 7, 30).limits
    assert (limits.max_bytes, limits.max_depth, limits.max_seconds) == (3 * 2**19, 30, 7)
