"""Encoded passages as bytes, believed only where they are what they say."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from spec_rag.compression.kv_quantization import StorageType, Stored, from_bytes, packed, to_bytes, unpacked
from spec_rag.compression.passages import EncodedPassage
from spec_rag.errors import ConfigError

KEY = "ab" * 32
SHAPE = (3, 2, 7, 8)
STORAGES: list[StorageType] = ["float32", "float16", "int8", "int4"]


def passage() -> EncodedPassage:
    generator = torch.Generator().manual_seed(0)
    return EncodedPassage(*(10 * torch.randn(*SHAPE, generator=generator) for _ in range(2)))


@pytest.mark.parametrize(("storage", "error"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 127), ("int4", 0.07)])
def test_a_passage_comes_back_within_its_precision(storage: StorageType, error: float) -> None:
    given, back = passage(), unpacked(packed(passage(), storage), storage)
    for a, b in ((given.keys, back.keys), (given.values, back.values)):
        assert float((a - b.float()).abs().max()) <= error * float(a.abs().max())


@pytest.mark.parametrize("storage", STORAGES)
def test_bytes_give_the_same_tensors_back(storage: StorageType) -> None:
    stored = packed(passage(), storage)
    back = from_bytes(to_bytes(KEY, stored), KEY, storage, SHAPE)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) and back[name].dtype == stored[name].dtype for name in stored)


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_tensor_of_zeros_survives_integers(storage: StorageType) -> None:
    back = unpacked(packed(EncodedPassage(torch.zeros(SHAPE), torch.zeros(SHAPE)), storage), storage)
    assert not bool(back.keys.isnan().any())
    assert float(back.keys.abs().max()) == 0


def test_heads_of_an_odd_dimension_have_no_int4() -> None:
    odd = EncodedPassage(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3))
    with pytest.raises(ConfigError, match="even dimension, not 3: use 'int8'"):
        packed(odd, "int4")


def test_the_layer_that_comes_first_is_told_again() -> None:
    assert unpacked(packed(passage(), "int4"), "int4", 8).first_layer == 8


def with_metadata(stored: Stored, **metadata: str) -> bytes:
    header = json.loads(to_bytes(KEY, stored)[8 : 8 + int.from_bytes(to_bytes(KEY, stored)[:8], "little")])
    return bytes(save(stored, metadata={**header["__metadata__"], **metadata}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged"),
        (b"not a file of ours", "damaged"),
        (to_bytes(KEY, packed(passage(), "float16"))[:-9], "damaged"),
        (bytes(save(packed(passage(), "float16"))), "checksum or key"),
        (with_metadata(packed(passage(), "float16"), sha256="0" * 64), "checksum or key"),
        (with_metadata(packed(passage(), "float16"), key="cd" * 32), "checksum or key"),
    ],
)
def test_damaged_bytes_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_bytes(data, KEY, "float16", SHAPE)


def test_one_changed_bit_anywhere_in_the_tensors_is_found() -> None:
    whole = to_bytes(KEY, packed(passage(), "float16"))
    for place in (-1, -100, -700, -1340):
        data = bytearray(whole)
        data[place] ^= 1
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(bytes(data), KEY, "float16", SHAPE)


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (packed(passage(), "float32"), "other tensors than an index of float16"),
        (packed(passage(), "int8"), "other tensors than an index of float16"),
        ({"keys": packed(passage(), "float16")["keys"]}, "other tensors"),
        ({**packed(passage(), "float16"), "more": torch.zeros(1)}, "other tensors"),
        ({name: t[:, :, 1:].contiguous() for name, t in packed(passage(), "float16").items()}, r"\[3, 2, 6, 8\]"),
        ({name: t[1:].contiguous() for name, t in packed(passage(), "float16").items()}, r"\[2, 2, 7, 8\]"),
        ({"keys": torch.zeros(SHAPE).half(), "values": torch.zeros(3, 2, 6, 8).half()}, "do not fit together"),
        ({"keys": torch.zeros(5).half(), "values": torch.zeros(5).half()}, r"shape \[5\]"),
    ],
)
def test_a_well_formed_file_of_other_tensors_is_not_believed(stored: Stored, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_bytes(to_bytes(KEY, stored), KEY, "float16", SHAPE)


@pytest.mark.parametrize(("storage", "name"), [("int8", "keys_scale"), ("int4", "values_least")])
def test_the_scales_of_a_file_of_integers_must_fit_its_numbers(storage: StorageType, name: str) -> None:
    stored = packed(passage(), storage)
    stored[name] = stored[name][:, :, 1:].contiguous()
    with pytest.raises(ValueError, match="do not fit together"):
        from_bytes(to_bytes(KEY, stored), KEY, storage, SHAPE)
