"""Files of tensors: what is written is what safetensors reads, and writing leaves nothing behind."""

from __future__ import annotations

import ctypes
import gc

import pytest
import torch
from safetensors.torch import load, save

from spec_rag.utils.tensor_files import tensors_from_bytes, tensors_to_bytes

EVERY_KIND = {
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "small": torch.arange(-3, 3, dtype=torch.int8).view(2, 3),
    "counts": torch.arange(5, dtype=torch.int32),
    "places": torch.arange(6).view(3, 2),
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(3, 5).bfloat16(),
    "single": torch.randn(2, 3, 4),
    "double": torch.randn(3).double(),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(2.5),
    "turned": torch.arange(6.0).view(2, 3).T,
}


def test_what_is_written_is_a_file_of_safetensors() -> None:
    written = tensors_to_bytes(EVERY_KIND, {"format": "7"})
    whole = {name: tensor.contiguous() for name, tensor in EVERY_KIND.items()}
    for read in (load(written), load(save(whole)), tensors_from_bytes(written)[0]):
        assert read.keys() == EVERY_KIND.keys()
        for name, tensor in EVERY_KIND.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)


def test_what_a_file_says_of_itself_comes_back_whatever_its_letters() -> None:
    tensors, about = tensors_from_bytes(tensors_to_bytes({"a": torch.ones(3)}, {"key": "é…", "format": "7"}), "é…")
    assert tensors["a"].tolist() == [1.0] * 3
    assert {name: about[name] for name in ("key", "format")} == {"key": "é…", "format": "7"}
    with pytest.raises(ValueError, match="checksum or key"):
        tensors_from_bytes(tensors_to_bytes({"a": torch.ones(3)}, {"key": "x"}), "y")


def test_files_of_ever_new_sizes_leave_nothing_behind() -> None:
    def sizes_known() -> int:
        gc.collect()
        return len(ctypes.Array.__subclasses__())

    tensors_from_bytes(tensors_to_bytes({"a": torch.ones(3)}, {}))
    before = sizes_known()
    for size in range(1000, 1020):
        tensors_from_bytes(tensors_to_bytes({"a": torch.ones(size), "b": torch.ones(3 * size)}, {}))
    assert sizes_known() == before
