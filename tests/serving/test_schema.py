"""Nothing that the OpenAPI schema speaks of makes the server fail, and answers are what it says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from serving.helpers import engine, served, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

CONFORMS = ("not_a_server_error", "response_schema_conformance", "content_type_conformance")


@pytest.mark.filterwarnings("ignore")
def test_no_generated_request_makes_the_server_fail() -> None:
    tried: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    given = settings(served_name="m", max_completion_tokens=8, default_completion_tokens=2)
    with served(given, engine(endless=True)) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        checks = [schemathesis.checks.CHECKS.get_one(name) for name in CONFORMS]
        for found in schema.get_all_operations():
            operation = found.ok()

            def call(case: Any) -> None:
                if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                    case.body["model"] = "m"  # which the schema does not know
                response = case.call_and_validate(checks=checks, timeout=30)
                tried[case.operation.label] += 1
                answered[case.operation.label] += response.status_code == 200

            limited = hypothesis.settings(
                max_examples=10,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            limited(hypothesis.given(case=operation.as_strategy())(call))()
    assert set(tried) >= {
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/compress",
        "POST /v1/rerank",
        "POST /v2/rerank",
        "POST /rerank",
        "POST /v1/read",
        "GET /v1/models",
        "GET /health",
        "GET /metrics",
    }
    for label in ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"):
        assert answered[label], (label, tried, answered)
