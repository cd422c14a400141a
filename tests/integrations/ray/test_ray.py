"""The server and batch jobs on Ray. Starting Ray takes its time, so these run where they are asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import saved, tiny_model

from spec_rag import ModelPair, compress, generate
from spec_rag.answering.answer import answer_messages
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.compression.passage_encoding import index_documents
from spec_rag.errors import ConfigError
from spec_rag.results import Answer
from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.engine import GenerationRequest
from spec_rag.text.documents import Document

if not os.environ.get("SPEC_RAG_TEST_RAY"):
    pytest.skip("starting Ray takes a minute: set SPEC_RAG_TEST_RAY=1 to try it", allow_module_level=True)
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from ray_spec_rag.data import answer_with_ray, index_with_ray  # noqa: E402
from ray_spec_rag.serve import RayEngine, application  # noqa: E402

TEXTS = [" ".join(f"Tank {i}-{j} holds {i * j} litres." for j in range(8)) for i in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, seed, layers in (("draft", 1, 4), ("target", 2, 3)):
        saved(tiny_model(seed=seed, layers=layers), folder / name)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=3,  # the draft, and two of the target
        runtime_env=environment,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()


class Noting:
    """A target that notes in a file what becomes of its requests; ray 2.60."""

    def __init__(self, notes: str) -> None:
        self._notes = Path(notes)

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{what}\n")

    async def answer(self, ask: GenerationRequest) -> Answer:
        self._note("begun")
        await asyncio.sleep(ask.max_new_tokens)
        return Answer("done", [1], 1, 1, 1)

    async def stream(self, ask: GenerationRequest) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(ask.max_new_tokens)
            self._note("complete")
        except (asyncio.CancelledError, GeneratorExit):
            self._note("cancelled")
            raise


@pytest.fixture
def noting(cluster: None, tmp_path: Path) -> Iterator[tuple[RayEngine, Path]]:
    from ray import serve

    notes = tmp_path / "notes"
    notes.touch()
    options = {"max_ongoing_requests": 2, "max_queued_requests": 2, "ray_actor_options": {"num_cpus": 0.1}}
    serve.start(proxy_location="Disabled")
    handle = serve.run(serve.deployment(Noting).options(**options).bind(str(notes)), name="noting", route_prefix=None)
    yield RayEngine(None, handle), notes
    serve.shutdown()


async def test_beyond_the_queue_of_a_deployment_requests_are_refused(noting: tuple[RayEngine, Path]) -> None:
    """ray 2.60 raises BackPressureError beyond max_queued_requests; it is not asked again."""
    engine, notes = noting
    asked = [asyncio.create_task(engine.answer(GenerationRequest("wait", 3))) for _ in range(12)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in results if isinstance(one, ApiError)]
    assert {(one.status, one.code) for one in refused} == {(429, "queue_full")}
    answered = [one for one in results if isinstance(one, Answer)]
    assert len(answered) + len(refused) == 12
    assert 2 <= len(answered) <= 6  # a burst is refused before the replica has taken what it may
    assert len(notes.read_text().splitlines()) == len(answered)


async def test_a_client_that_leaves_a_stream_cancels_it_in_the_replica(noting: tuple[RayEngine, Path]) -> None:
    engine, notes = noting
    pieces = engine.stream(GenerationRequest("wait", 60))
    assert await anext(pieces) == "first"
    await pieces.aclose()
    for _ in range(200):
        if notes.read_text():
            break
        await asyncio.sleep(0.05)
    assert notes.read_text() == "cancelled\n"


def test_one_replica_is_killed_under_load_and_every_request_is_answered_or_refused_cleanly(
    models: Path, cluster: None
) -> None:
    from ray import serve

    given = {"draft": str(models / "draft"), "target": str(models / "target"), "served_name": "tiny"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/v1"
    try:
        serve.start(http_options={"port": port})
    except (ray.exceptions.RayError, TimeoutError) as error:  # nothing of ours has run yet
        serve.shutdown()
        pytest.skip(f"Ray Serve's own proxy does not start on this machine in its time: {type(error).__name__}")
    serve.run(application({**given, "target_replicas": 2, "max_requests": 64}), name="spec-rag")
    pair = ModelPair.load(given["draft"], given["target"])
    chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(6)]
    expected = [generate(pair, chat, max_new_tokens=12).text for chat in chats]
    answers: list[tuple[int, httpx.Response]] = []

    def ask(i: int) -> None:
        body = {"model": "tiny", "messages": chats[i % 6], "max_tokens": 12}
        answers.append((i % 6, httpx.post(f"{address}/chat/completions", json=body, timeout=120)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    while len(answers) < 5 and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    _kill_one("target")
    for thread in threads:
        thread.join(150)
    assert len(answers) == 60
    good = [(i, one) for i, one in answers if one.status_code == 200]
    assert all(one.json()["choices"][0]["message"]["content"] == expected[i] for i, one in good)
    assert len(good) > 30
    bad = [one for _, one in answers if one.status_code != 200]
    assert all(one.status_code in (429, 503) and one.json()["error"]["message"] for one in bad)
    body = {"documents": TEXTS, "query": "What holds tank 3-4?", "ratio": 0.3}
    shortened = httpx.post(f"{address}/compress", json=body, timeout=120).json()
    alone = compress(TEXTS, body["query"], draft=pair, index=DocumentIndex(), ratio=0.3)
    assert shortened["text"] == alone.text
    streamed = httpx.post(
        f"{address}/chat/completions",
        json={"model": "tiny", "messages": chats[0], "max_tokens": 12, "stream": True},
        timeout=120,
    )
    assert streamed.text.rstrip().endswith("data: [DONE]")
    wrong = httpx.post(f"{address}/compress", json={**body, "query": " "}, timeout=120)
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
    # many read it at once, and find all that the workers wrote
    with ThreadPoolExecutor(4) as readers:
        shared = [DocumentIndex(tmp_path / "together") for _ in range(4)]
        pair = ModelPair.load(str(models / "draft"), None)
        again = list(readers.map(lambda index: index_documents(documents, pair, index), shared))
    assert [one.new_passages for one in again] == [0] * 4


def test_500_questions_in_one_job_are_answered_as_one_by_one(models: Path, cluster: None) -> None:
    questions = [(f"What holds tank {i % 6}-{i % 8}?", [TEXTS[i % 6]]) for i in range(500)]
    names = {"draft": str(models / "draft"), "target": str(models / "target")}
    found = answer_with_ray(questions, **names, max_new_tokens=5, workers=2, ratio=0.3)
    assert [row["question"] for row in found] == [question for question, _ in questions]
    pair = ModelPair.load(**names)
    alone: dict[str, tuple[str, int]] = {}
    for row, (question, texts) in zip(found, questions, strict=True):
        if question not in alone:
            kept = compress(list(texts), question, draft=pair, ratio=0.3)
            answer: Any = generate(pair, answer_messages(kept), max_new_tokens=5)
            alone[question] = (answer.text, kept.tokens_after)
        assert (row["answer"], row["tokens_after"]) == alone[question]
    assert len({answer for answer, _ in alone.values()}) > 1


def test_wrong_names_and_settings_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target_replicas"):
        application({"target_replica": 2})
    with pytest.raises(ConfigError, match="ratio"):
        answer_with_ray([("a", ["b"])], ratio=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        index_with_ray([], tmp_path / "file")
