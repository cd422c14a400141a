"""Fixtures of the kernel tests: one seed per run, and uninitialized memory filled with NaN."""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
KERNELS = HERE.parents[1] / "kernels"
if str(KERNELS) not in sys.path:
    sys.path.append(str(KERNELS))

# Also set for subprocesses, so that one number reproduces a whole run.
SEED = os.environ.setdefault("SPEC_RAG_TEST_SEED", str(secrets.randbelow(2**31)))


def pytest_report_header() -> str:
    return f"kernel tests: SPEC_RAG_TEST_SEED={SEED}"


@pytest.fixture(scope="session")
def seed() -> int:
    return int(SEED)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty and similar return NaN (or a huge integer), so that elements a kernel does not write are visible."""

    def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            return tensor.fill_(2**30) if tensor.dtype in (torch.int32, torch.int64) else tensor

        return wrapper

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
