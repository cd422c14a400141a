"""Prometheus metrics of a server; docs/deployment.md describes them.

With the environment variable PROMETHEUS_MULTIPROC_DIR, counts are summed over the workers that share the folder.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

import spec_rag
from spec_rag.errors import ConfigError
from spec_rag.results import Answer, CompressionData

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one server, in its own registry.

    Raises:
        ConfigError: PROMETHEUS_MULTIPROC_DIR is not a writable folder.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._shared = _shared_folder()
        if self._shared is None:
            ProcessCollector(registry=self.registry)  # process_cpu_seconds_total, process_resident_memory_bytes ...
        common: dict[str, Any] = {"registry": self.registry, "namespace": "spec_rag"}
        self.requests = Counter("requests_total", "Requests by route and status.", ["route", "status"], **common)
        self.seconds = Histogram(
            "request_seconds", "From a request to the end of its response.", ["route"], buckets=_SECONDS, **common
        )
        self.first_piece_seconds = Histogram(
            "first_piece_seconds", "From a request to the first piece of its stream.", buckets=_SECONDS, **common
        )
        self.in_flight = Gauge("in_flight_requests", "Open requests.", multiprocess_mode="livesum", **common)
        self.refused = Counter("refused_total", "Requests refused, by reason.", ["reason"], **common)
        self.left = Counter("clients_left_total", "Clients that disconnected before the end of the response.", **common)
        self.prompt_tokens = Counter("prompt_tokens_total", "Tokens of prompts before compression.", **common)
        self.completion_tokens = Counter("completion_tokens_total", "Tokens of answers.", **common)
        self.tokens_before = Counter("compression_tokens_before_total", "Tokens of texts before compression.", **common)
        self.tokens_after = Counter("compression_tokens_after_total", "Tokens of texts after compression.", **common)
        self.draft_seconds = Counter(
            "compression_seconds_total", "Seconds of draft computation, waiting excluded.", **common
        )
        self.frozen = Counter("compression_reused_total", "Texts whose earlier compression was reused.", **common)
        self.whole = Counter("not_shortened_total", "Texts that stayed whole, by reason.", ["reason"], **common)
        self.audit_saved = Counter("audit_tokens_saved_total", "Tokens that an audit would have saved.", **common)
        self.kv_dense = Counter("kv_bytes_dense_total", "KV bytes of pruned prompts before pruning.", **common)
        self.kv_kept = Counter("kv_bytes_kept_total", "KV bytes of pruned prompts after pruning.", **common)
        build = Gauge("build_info", "Versions; always 1.", ["version", "python"], multiprocess_mode="max", **common)
        build.labels(spec_rag.__version__, platform.python_version()).set(1)
        self.upstream_errors = Counter("upstream_errors_total", "Upstream errors, by kind.", ["kind"], **common)

    def count_answer(self, answer: Answer) -> None:
        """Count the tokens and bytes of an answer."""
        self.prompt_tokens.inc(answer.prompt_tokens)
        self.completion_tokens.inc(answer.completion_tokens)
        self.kv_dense.inc(answer.kv_bytes_dense)
        self.kv_kept.inc(answer.kv_bytes_kept)

    def count_upstream(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of an upstream answer."""
        self.prompt_tokens.inc(prompt_tokens)
        self.completion_tokens.inc(completion_tokens)

    def count_compression(self, compression: CompressionData) -> None:
        """Count the tokens and seconds of a compression."""
        self.tokens_before.inc(compression.tokens_before)
        self.tokens_after.inc(compression.tokens_after)
        self.draft_seconds.inc(compression.draft_seconds)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, summed over workers that share a folder."""
        if self._shared is None:
            return generate_latest(self.registry)
        for path in self._shared.glob("gauge_live*_*.db"):
            pid = path.stem.rpartition("_")[2]
            if not _is_running(int(pid)):
                mark_process_dead(pid, str(self._shared))  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _shared_folder() -> Path | None:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return None
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(f"PROMETHEUS_MULTIPROC_DIR={folder!r}: is not a writable folder: create it first.")
    return Path(folder)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
