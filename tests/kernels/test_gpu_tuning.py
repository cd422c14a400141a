"""Every part that `make gpu` tries another tiling of is there, and what is set is what the kernel is launched with."""

import importlib

import pytest
from kernel_cases import BENCHMARKS, load_benchmark

pytest.importorskip("triton")


def test_each_part_is_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tuning = load_benchmark("gpu_tuning")
    for part in tuning.PARTS:
        assert part.operator in tuning.gpu_kernels.OPERATORS
        module = importlib.import_module(f"spec_rag_kernels.{part.module}")
        before = getattr(module, part.attribute)
        for candidate in part.candidates:
            with tuning._set(part, candidate):
                now = getattr(module, part.attribute)
                assert (now(None, 128) if part.is_function else now) == candidate
        assert getattr(module, part.attribute) is before
