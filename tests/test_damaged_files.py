"""Files that are cut, changed, swapped, of another version or somebody else's: a clear error, or they are read anew."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_pair

from spec_rag import ContextCache, DocumentIndex, ModelPair, compress
from spec_rag.compression.passages import EncodedPassage
from spec_rag.compression.readout import find_readout
from spec_rag.errors import ConfigError

STEP = 64
CALIBRATIONS = Path(__file__).parents[1] / "spec_rag" / "data" / "calibrations"
TEXTS = [f"Gate {i} opens at {i + 5} o'clock. Keeper {i} holds key {i * 17}." for i in range(3)]


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os._exit, (3,))


def passage(seed: int) -> EncodedPassage:
    generator = torch.Generator().manual_seed(seed)
    return EncodedPassage(*(torch.randn(2, 2, 9, 16, generator=generator) for _ in range(2)))


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.fixture(scope="module")
def context(pair: ModelPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("context") / "a.context"
    ContextCache.read(pair, random_ids(120)).save(path)
    return path


def cuts(data: bytes, most: int = 60) -> list[int]:
    """Every 64th byte; of a long file so many of them, the first and the last among them."""
    places = list(range(0, len(data), STEP))
    step = max(1, len(places) // most)
    return [*places[::step], len(data) - 1]


def test_an_index_file_cut_anywhere_is_not_there(tmp_path: Path) -> None:
    key = "ab" * 32
    DocumentIndex(tmp_path, storage="int8").put(key, passage(0))
    (path,) = tmp_path.glob("*/*.safetensors")
    whole = path.read_bytes()
    for cut in cuts(whole):
        path.write_bytes(whole[:cut])
        assert DocumentIndex(tmp_path).get(key) is None
    path.write_bytes(whole)
    assert DocumentIndex(tmp_path).get(key) is not None


def test_index_files_that_were_swapped_or_lead_elsewhere_are_not_believed(tmp_path: Path) -> None:
    index = DocumentIndex(tmp_path / "index", storage="float32")
    for name in ("aa", "bb"):
        index.put(name * 32, passage(ord(name[0])))
    one, other = sorted((tmp_path / "index").glob("*/*.safetensors"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    fresh = DocumentIndex(tmp_path / "index")
    assert fresh.get("aa" * 32) is None
    assert fresh.get("bb" * 32) is None
    secret = tmp_path / "secret.txt"
    secret.write_text("not for an index")
    one.unlink()
    one.symlink_to(secret)
    assert DocumentIndex(tmp_path / "index").get("aa" * 32) is None
    index.put("aa" * 32, passage(1))
    assert secret.read_text() == "not for an index", "a link is replaced, not followed"
    assert not one.is_symlink()


@pytest.mark.parametrize("about", ["", "{", "[]", '{"format": "2"}', '{"format": "3", "storage": "int2"}'])
def test_a_folder_of_another_version_says_so(tmp_path: Path, about: str) -> None:
    DocumentIndex(tmp_path).put("ab" * 32, passage(0))
    (tmp_path / "index.json").write_text(about)
    with pytest.raises(ConfigError, match="another version"):
        DocumentIndex(tmp_path)


def test_pickles_are_never_run(tmp_path: Path, pair: ModelPair) -> None:
    key, evil = "ab" * 32, pickle.dumps(Evil())
    DocumentIndex(tmp_path).put(key, passage(0))
    for path in tmp_path.glob("*/*.safetensors"):
        path.write_bytes(evil)
    assert DocumentIndex(tmp_path).get(key) is None
    (tmp_path / "evil").write_bytes(evil)
    with pytest.raises(ConfigError, match="damaged"):
        ContextCache.load(tmp_path / "evil", pair)
    with pytest.raises(ConfigError, match="calibration"):
        find_readout(str(tmp_path / "evil"), "draft")


def test_a_context_cut_anywhere_is_refused(context: Path, pair: ModelPair, tmp_path: Path) -> None:
    whole, path = context.read_bytes(), tmp_path / "cut.context"
    for cut in cuts(whole):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"damaged|checksum"):
            ContextCache.load(path, pair)


def test_a_context_of_which_a_byte_is_another_is_refused(context: Path, pair: ModelPair, tmp_path: Path) -> None:
    whole, path = context.read_bytes(), tmp_path / "changed.context"
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in [*range(0, header, 41), *cuts(whole, 12)]:
        changed = bytearray(whole)
        changed[at] ^= 4
        path.write_bytes(changed)
        try:
            found = ContextCache.load(path, pair)
        except ConfigError:
            continue
        kept = ContextCache.load(context, pair)
        assert found.settings == kept.settings
        assert found.ids.equal(kept.ids)
        assert all(a.equal(b) for a, b in zip(found.keys, kept.keys, strict=True))


def test_an_index_file_is_no_context_and_a_context_of_other_weights_is_refused(
    context: Path, pair: ModelPair, tmp_path: Path
) -> None:
    DocumentIndex(tmp_path, storage="float32").put("ab" * 32, passage(0))
    (path,) = tmp_path.glob("*/*.safetensors")
    with pytest.raises(ConfigError, match="no context of this version"):
        ContextCache.load(path, pair)
    with pytest.raises(ConfigError, match="another target"):
        ContextCache.load(context, ModelPair(target=tiny_model(seed=9, layers=3)))


def test_a_calibration_cut_anywhere_is_refused(tmp_path: Path) -> None:
    (shipped,) = CALIBRATIONS.glob("HuggingFaceTB--SmolLM2-135M-Instruct.json")
    whole, path = shipped.read_bytes().rstrip(), tmp_path / "cut.json"
    for cut in [*range(0, len(whole), STEP), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match="calibration"):
            find_readout(str(path), "draft")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "0"},
        {"layers": "many"},
        {"layers": -1},
        {"unit": {"1.99": 1.0}},
        {"unit": [1]},
        {"unit": [["x"] * 9] * 8},
        {"unit": [[float("nan")] * 9] * 8},
        {"unit": [[0.0] * 9]},
        {"weights": {"unit": "x"}},
        {"weights": {"another": 1.0}},
    ],
)
def test_a_calibration_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (shipped,) = CALIBRATIONS.glob("HuggingFaceTB--SmolLM2-135M-Instruct.json")
    values = json.loads(shipped.read_text())
    assert change.keys() <= values.keys()
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**values, **change}))
    with pytest.raises(ConfigError):
        find_readout(str(path), "draft")


def test_a_folder_that_cannot_be_written_or_read_costs_only_its_use(
    tmp_path: Path, pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    expected = compress(TEXTS, "Who holds key 17?", draft=pair, ratio=0.5, calibration=None)
    index = DocumentIndex(tmp_path / "index")
    with monkeypatch.context() as patched:
        patched.setattr("spec_rag.compression.encoding_cache.write_whole", refuse)
        found = compress(TEXTS, "Who holds key 17?", draft=pair, ratio=0.5, calibration=None, index=index)
    assert index.write_error is not None
    assert [d.spans for d in found.documents if d.spans]
    assert found.tokens_after <= expected.budget_tokens
    monkeypatch.setattr(Path, "read_bytes", refuse)
    again = compress(TEXTS, "Who?", draft=pair, ratio=0.5, calibration=None, index=DocumentIndex(tmp_path / "index"))
    assert again.tokens_after <= again.budget_tokens
