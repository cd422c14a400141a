"""Backend selection by argument, environment variable and device, and the errors of backends that cannot run."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import KERNELS_PATH
from spec_rag_kernels import BackendError, backend, gather_kv, vertical_slash_attention, window_scores


@pytest.fixture(autouse=True)
def no_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEC_RAG_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def choose(argument: str | None = None, **tensors: Any) -> str:
    return backend.choose_backend("window_scores", argument, tensors or {"query": torch.zeros(1, 1, 1, 64)})


class OnGpu:
    """The attributes of a tensor that backend selection reads."""

    is_cuda = True
    ndim = 4
    device = "cuda:0"

    def __init__(self, dtype: torch.dtype = torch.bfloat16, dim: int = 128) -> None:
        self.dtype, self.shape = dtype, (1, 1, 1, dim)

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


def test_the_default_is_torch_on_a_cpu_and_triton_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_triton_installed", lambda: True)
    assert choose() == "torch"
    assert choose(query=OnGpu()) == "triton"


@pytest.mark.parametrize("tensor", [OnGpu(torch.float64), OnGpu(dim=512)])
def test_unsupported_tensors_default_to_torch_and_are_refused_by_an_explicit_triton(
    tensor: OnGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_triton_installed", lambda: True)
    assert choose(query=tensor) == "torch"
    with pytest.raises(BackendError, match="query"):
        choose("triton", query=tensor)


def test_without_triton_the_default_on_a_gpu_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_triton_installed", lambda: False)
    assert choose(query=OnGpu()) == "torch"
    with pytest.raises(BackendError, match="pip install triton"):
        choose("triton", query=OnGpu())


def test_the_argument_overrides_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEC_RAG_KERNELS", "naive")
    assert choose() == "naive"
    assert choose("torch") == "torch"


def test_triton_on_a_cpu_is_refused_with_reason_and_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_triton_installed", lambda: True)
    with pytest.raises(BackendError, match=r"window_scores: backend='triton' cannot run: query is on cpu.*'torch'"):
        choose("triton")
    monkeypatch.setenv("SPEC_RAG_KERNELS", "triton")
    with pytest.raises(BackendError, match=r"SPEC_RAG_KERNELS='triton' cannot run.*unset SPEC_RAG_KERNELS"):
        choose()


def test_an_unknown_backend_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackendError, match=r"backend='cuda' is not a backend; choose one of 'triton', 'torch', 'naive'"
    ):
        choose("cuda")
    monkeypatch.setenv("SPEC_RAG_KERNELS", "fast")
    with pytest.raises(BackendError, match="SPEC_RAG_KERNELS='fast'"):
        choose()


QUERY, KEY = torch.zeros(1, 2, 8, 64), torch.zeros(1, 1, 8, 64)
COLUMNS = torch.zeros(1, 1, 1, dtype=torch.int64)
CALLS: dict[str, Callable[..., object]] = {
    "window_scores": lambda **k: window_scores(QUERY, KEY, scaling=1.0, **k),
    "vertical_slash_attention": lambda **k: vertical_slash_attention(
        QUERY, KEY, KEY, columns=COLUMNS, slash=2, scaling=1.0, **k
    ),
    "gather_kv": lambda **k: gather_kv(KEY, KEY.clone(), COLUMNS, **k),
}


@pytest.mark.parametrize("operator", CALLS)
def test_every_operator_obeys_the_argument_and_the_environment_variable(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match=f"{operator}: backend='triton'"):
        CALLS[operator](backend="triton")
    monkeypatch.setenv("SPEC_RAG_KERNELS", "triton")
    with pytest.raises(BackendError, match=f"{operator}: SPEC_RAG_KERNELS='triton'"):
        CALLS[operator]()
    CALLS[operator](backend="torch")


def test_neither_the_import_nor_a_call_on_a_cpu_imports_triton() -> None:
    code = (
        "import sys, torch, spec_rag_kernels as k\n"
        "before = 'triton' in sys.modules\n"
        "k.window_scores(torch.zeros(1, 1, 2, 64), torch.zeros(1, 1, 4, 64), scaling=1.0)\n"
        "print(before, 'triton' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": KERNELS_PATH}
    )
    assert run.stdout.split() == ["False", "False"]
