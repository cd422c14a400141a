"""What the tests of all adapters share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from threads import wait_for_no_stream_threads

from spec_rag.options.compression import SpecKVConfig

torch.set_num_threads(1)


@pytest.fixture
def speckv() -> SpecKVConfig:
    """Prunes every prompt of more than 32 tokens."""
    return SpecKVConfig(max_capacity_prompt=32, window_size=8, lookahead_tokens=4)


@pytest.fixture(autouse=True)
def _no_thread_left_behind() -> Iterator[None]:
    yield
    wait_for_no_stream_threads()
