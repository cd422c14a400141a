"""One server of tiny models for the tests that ask it ordinary things."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from serving.helpers import engine, served


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with served(own=engine(endless=True)) as base:
        yield base
