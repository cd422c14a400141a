"""The server and batch jobs on Ray. Starting Ray takes its time, so these run where they are asked for."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import tiny_model, tiny_tokenizer

from spec_rag import ModelPair, compress, generate
from spec_rag.answering.pipeline import answer_messages
from spec_rag.compression.index import DocumentIndex
from spec_rag.compression.reading import index_documents
from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document

if not os.environ.get("SPEC_RAG_TEST_RAY"):
    pytest.skip("starting Ray takes a minute: set SPEC_RAG_TEST_RAY=1 to try it", allow_module_level=True)
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from ray_spec_rag.data import answer_with_ray, index_with_ray  # noqa: E402
from ray_spec_rag.serve import application  # noqa: E402

TEXTS = [" ".join(f"Tank {i}-{j} holds {i * j} litres." for j in range(8)) for i in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, seed, layers in (("draft", 1, 4), ("target", 2, 3)):
        tiny_model(seed=seed, layers=layers).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=6, runtime_env=environment, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_one_replica_is_killed_under_load_and_every_request_is_answered_or_refused_cleanly(
    models: Path, cluster: None
) -> None:
    from ray import serve

    given = {"draft": str(models / "draft"), "target": str(models / "target"), "served_name": "tiny"}
    serve.start(http_options={"port": 8765})
    serve.run(application({**given, "target_replicas": 2, "max_requests": 64}), name="spec-rag")
    pair = ModelPair.load(given["draft"], given["target"])
    chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(6)]
    expected = [generate(pair, chat, max_new_tokens=12).text for chat in chats]
    answers: list[tuple[int, httpx.Response]] = []

    def ask(i: int) -> None:
        body = {"model": "tiny", "messages": chats[i % 6], "max_tokens": 12}
        answers.append((i % 6, httpx.post("http://127.0.0.1:8765/v1/chat/completions", json=body, timeout=120)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for i, thread in enumerate(threads):
        thread.start()
        time.sleep(0.02)
        if i == 20:
            _kill_one("target")
    for thread in threads:
        thread.join(120)
    assert len(answers) == 60
    good = [(i, one) for i, one in answers if one.status_code == 200]
    assert all(one.json()["choices"][0]["message"]["content"] == expected[i] for i, one in good)
    assert len(good) > 30
    bad = [one for _, one in answers if one.status_code != 200]
    assert all(one.status_code in (429, 503) and one.json()["error"]["message"] for one in bad)
    body = {"documents": TEXTS, "query": "What holds tank 3-4?", "ratio": 0.3}
    shortened = httpx.post("http://127.0.0.1:8765/v1/compress", json=body, timeout=120).json()
    alone = compress(TEXTS, body["query"], draft=pair, index=DocumentIndex(), ratio=0.3)
    assert shortened["text"] == alone.text
    streamed = httpx.post(
        "http://127.0.0.1:8765/v1/chat/completions",
        json={"model": "tiny", "messages": chats[0], "max_tokens": 12, "stream": True},
        timeout=120,
    )
    assert streamed.text.rstrip().endswith("data: [DONE]")
    wrong = httpx.post("http://127.0.0.1:8765/v1/compress", json={**body, "query": " "}, timeout=120)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
    serve.shutdown()


def _kill_one(deployment: str) -> None:
    """End a replica's process as a failing machine would."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
            if title.startswith(f"ray::ServeReplica:spec-rag:{deployment}"):
                os.kill(int(folder.name), signal.SIGKILL)
                return
    raise AssertionError(f"There is no replica of {deployment}.")


def test_an_index_filled_by_workers_is_what_one_process_fills(models: Path, cluster: None, tmp_path: Path) -> None:
    documents = [Document(text, f"Tank {i}") for i, text in enumerate(TEXTS)]
    found = index_with_ray(documents, tmp_path / "together", draft=str(models / "draft"), workers=2)
    alone = DocumentIndex(tmp_path / "alone")
    by_one = index_documents(documents, str(models / "draft"), alone)
    assert (found.passages, found.new_passages, found.tokens) == (by_one.passages, by_one.new_passages, by_one.tokens)
    folders = (tmp_path / "together", tmp_path / "alone")
    names = [sorted(path.name for path in folder.rglob("*.safetensors")) for folder in folders]
    assert names[0] == names[1] != []
    again = index_with_ray(documents, tmp_path / "together", draft=str(models / "draft"), workers=2)
    assert again.new_passages == 0


def test_500_questions_in_one_job_are_answered_as_one_by_one(models: Path, cluster: None) -> None:
    questions = [(f"What holds tank {i % 6}-{i % 8}?", TEXTS[i % 3 : i % 3 + 3]) for i in range(500)]
    names = {"draft": str(models / "draft"), "target": str(models / "target")}
    found = answer_with_ray(questions, **names, max_new_tokens=5, workers=2, ratio=0.3)
    assert [row["question"] for row in found] == [question for question, _ in questions]
    pair = ModelPair.load(**names)
    for i in range(0, 500, 25):
        question, texts = questions[i]
        kept = compress(list(texts), question, draft=pair, ratio=0.3)
        answer: Any = generate(pair, answer_messages(kept), max_new_tokens=5)
        assert (found[i]["answer"], found[i]["tokens_after"]) == (answer.text, kept.tokens_after)


def test_wrong_names_and_settings_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target_replicas"):
        application({"target_replica": 2})
    with pytest.raises(ConfigError, match="ratio"):
        answer_with_ray([("a", ["b"])], ratio=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        index_with_ray([], tmp_path / "file")
