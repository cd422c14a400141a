"""What holds of anything that is stored: it comes back as it was, within its precision and its room, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import TEXTS
from torch import Tensor

from spec_rag import DocumentIndex
from spec_rag.compression.kv_quantization import StorageType, from_bytes, packed, to_bytes, unpacked
from spec_rag.compression.passages import EncodedPassage
from spec_rag.generation.pruned_cache import PrunedLayer
from spec_rag.utils.tensor_files import tensors_from_bytes, tensors_to_bytes

STORAGES = st.sampled_from(["float32", "float16", "int8", "int4"])
SEEDS = st.integers(0, 2**31)


def passage(seed: int, tokens: int, scale: float = 1.0) -> EncodedPassage:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (scale * torch.randn(2, 2, tokens, 8, generator=generator) for _ in range(2))
    return EncodedPassage(keys, values)


def same(one: EncodedPassage, other: EncodedPassage) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


@given(SEEDS, st.integers(1, 9), st.sampled_from([0.0, 1e-4, 1.0, 300.0]), STORAGES)
def test_a_packed_passage_is_within_its_precision(seed: int, tokens: int, scale: float, storage: StorageType) -> None:
    whole = passage(seed, tokens, scale)
    back = unpacked(packed(whole, storage), storage)
    for given_tensor, found in ((whole.keys, back.keys), (whole.values, back.values)):
        span = given_tensor.amax(-1, keepdim=True) - given_tensor.amin(-1, keepdim=True)
        most = given_tensor.abs().amax(-1, keepdim=True)
        step = {"float32": 0 * most, "float16": most / 1000, "int8": most / 120, "int4": span / 28 + most / 500}[
            storage
        ]
        assert bool(((found.float() - given_tensor).abs() <= step + 1e-5).all())


@given(SEEDS, st.integers(1, 9), STORAGES, st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(
    seed: int, tokens: int, storage: StorageType, data: st.DataObject
) -> None:
    stored = packed(passage(seed, tokens), storage)
    written = bytearray(to_bytes("key", stored))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    try:
        found = from_bytes(bytes(written), "key", storage, None)
    except ValueError:
        return
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


@given(SEEDS, st.integers(1, 9), STORAGES, st.data())
def test_a_cut_file_is_refused(seed: int, tokens: int, storage: StorageType, data: st.DataObject) -> None:
    written = to_bytes("key", packed(passage(seed, tokens), storage))
    with pytest.raises(ValueError, match=r"damaged|checksum"):
        from_bytes(written[: data.draw(st.integers(0, len(written) - 1))], "key", storage, None)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|checksum"):
        tensors_from_bytes(data)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), st.text(max_size=9), max_size=3))
def test_what_a_file_says_of_itself_comes_back(about: dict[str, str]) -> None:
    about = {name: value for name, value in about.items() if name not in ("sha256", "key")}
    _, found = tensors_from_bytes(tensors_to_bytes({"a": torch.ones(3)}, about))
    assert {name: value for name, value in found.items() if name != "sha256"} == about


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=30
)


@given(OPERATIONS, st.integers(0, 4000))
def test_an_index_in_memory_keeps_to_its_room_and_gives_back_the_last_put(operations: Any, room: int) -> None:
    index, last = DocumentIndex(memory_bytes=room, storage="float32"), {}
    for what, key, tokens in operations:
        if what == "put":
            last[key] = passage(tokens, tokens)
            assert same(index.put(str(key), last[key]), last[key])
        found = index.get(str(key))
        assert found is None or same(found, last[key])
        assert 0 <= index.held_bytes <= room
    assert index.hits + index.misses == len(operations)


@given(TEXTS, TEXTS)
def test_a_key_is_a_plain_file_name(one: str, other: str) -> None:
    key = DocumentIndex().key(one, other)
    assert key == DocumentIndex().key(one, other)
    assert key.isalnum()
    assert len(key) == 64


@st.composite
def prunings(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of a prompt, and which of them each head keeps."""
    tokens, kept = draw(st.integers(2, 20)), draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    keys, values = (torch.randn(2, 3, tokens, 4, generator=generator) for _ in range(2))
    order = torch.rand(2, 3, tokens, generator=generator).argsort(dim=-1)
    return keys, values, order[..., : min(kept, tokens)].sort(dim=-1).values


@given(prunings(), st.lists(st.integers(1, 3), max_size=4))
def test_a_pruned_layer_holds_what_was_chosen_and_grows_by_what_comes(given_pruning: Any, steps: list[int]) -> None:
    keys, values, positions = given_pruning
    tokens = keys.shape[2]
    layer = PrunedLayer()
    layer.update(keys, values)
    layer.keep(positions, tokens)
    assert torch.equal(layer.keys, keys.take_along_dim(positions[..., None], dim=2))
    assert torch.equal(layer.values, values.take_along_dim(positions[..., None], dim=2))
    assert layer.get_seq_length() == tokens
    held = positions.shape[-1]
    for step in steps:
        assert layer.get_mask_sizes(step) == (held + step, layer.logical_tokens - held)
        new = torch.randn(2, 3, step, 4)
        shown, _ = layer.update(new, new)
        held, tokens = held + step, tokens + step
        assert shown.shape[2] == held
        assert torch.equal(shown[:, :, -step:], new)
        assert layer.get_seq_length() == tokens
    assert layer.positions is not None
    assert layer.positions.shape[-1] == held
    assert bool((layer.positions.diff(dim=-1) > 0).all())
