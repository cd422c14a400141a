"""Several workers of one server: each scrape shows their sums."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

from spec_rag.errors import ConfigError
from spec_rag.serving.metrics import Metrics

# counts three requests, one of which is still running, says so, and waits
WORKER = """
import sys
from spec_rag.serving.metrics import Metrics
metrics = Metrics()
for _ in range(3):
    metrics.requests.labels("/v1/rerank", "200").inc()
    metrics.seconds.labels("/v1/rerank").observe(0.2)
metrics.in_flight.inc()
print("counted", flush=True)
for line in sys.stdin:
    sys.stdout.buffer.write(metrics.text() + b"end\\n")
    sys.stdout.flush()
"""
COUNTED = 'spec_rag_requests_total{route="/v1/rerank",status="200"}'


def worker(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def scraped(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("scrape\n")
    process.stdin.flush()
    return "".join(iter(process.stdout.readline, "end\n"))


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in\n{text}"
    return float(found[1])


def test_each_workers_scrape_shows_all_of_them_and_a_dead_one_runs_nothing(tmp_path: Path) -> None:
    workers = [worker(tmp_path), worker(tmp_path)]
    try:
        for one in workers:
            text = scraped(one)
            assert value(text, COUNTED) == 6
            assert value(text, 'spec_rag_request_seconds_count{route="/v1/rerank"}') == 6
            assert value(text, "spec_rag_in_flight_requests") == 2
            assert len(re.findall("^spec_rag_build_info", text, re.MULTILINE)) == 1
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait(10)
        text = scraped(workers[1])
        assert value(text, COUNTED) == 6
        assert value(text, "spec_rag_in_flight_requests") == 1
    finally:
        for one in workers:
            one.kill()
            one.communicate()


def test_a_folder_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"PROMETHEUS_MULTIPROC_DIR='.*missing': is not a writable folder"):
        Metrics()
