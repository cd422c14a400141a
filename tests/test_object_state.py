"""State that belongs to one model or tokenizer: created once, freed with it, neither copied nor pickled."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer

from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.object_state import state_of

ROOT = Path(__file__).parent.parent
OWNERS = {"model": lambda: tiny_model(layers=1), "tokenizer": tiny_tokenizer}


class Counter:
    """A kind of state."""


@pytest.fixture(params=OWNERS)
def owner(request: pytest.FixtureRequest) -> Any:
    return OWNERS[request.param]()


def test_each_object_has_one_state_of_each_kind(owner: Any) -> None:
    other = tiny_tokenizer()
    assert state_of(owner, Counter) is state_of(owner, Counter)
    assert state_of(owner, Counter) is not state_of(other, Counter)
    assert isinstance(state_of(owner, FairLock), FairLock)


@pytest.mark.parametrize("kind", OWNERS)
def test_state_is_freed_with_its_owner(kind: str) -> None:
    owner = OWNERS[kind]()
    state = state_of(owner, Counter)
    state.owner = owner  # type: ignore[attr-defined]  # a cycle: a registry would keep both alive
    references = [weakref.ref(owner), weakref.ref(state), weakref.ref(state_of(owner, FairLock))]
    del owner, state
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_has_state_of_its_own(owner: Any, copied: Any) -> None:
    state = state_of(owner, Counter)
    state.value = 1  # type: ignore[attr-defined]
    other = copied(owner)
    assert not hasattr(state_of(other, Counter), "value")
    assert state_of(owner, Counter) is state
    assert state_of(other, Counter) is state_of(other, Counter) is not state


def test_state_that_cannot_be_pickled_does_not_hinder_pickling_its_owner(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    with state_of(tokenizer, FairLock).hold():
        (tmp_path / "pickled").write_bytes(pickle.dumps(tokenizer))
    assert b"spec_rag" not in (tmp_path / "pickled").read_bytes().replace(b"_spec_rag_state", b"")


def test_threads_that_ask_together_get_the_same_state() -> None:
    owner, barrier = tiny_tokenizer(), Barrier(8)

    def ask(_: int) -> Counter:
        barrier.wait()
        return state_of(owner, Counter)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_state_appears_neither_in_the_weights_nor_in_saved_files(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(layers=1), tiny_tokenizer()
    names = list(model.state_dict())
    state_of(model, Counter), state_of(tokenizer, Counter)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert not any("_spec_rag_state" in path.read_text() for path in tmp_path.glob("*.json"))


def test_an_object_without_attributes_is_refused() -> None:
    with pytest.raises(TypeError):
        state_of(1, Counter)


def test_no_module_keeps_a_registry_of_models() -> None:
    sources = [path for folder in ("spec_rag", "integrations") for path in (ROOT / folder).rglob("*.py")]
    registries = [path.name for path in sources if re.search(r"Weak(Key|Value)Dictionary", path.read_text("utf-8"))]
    assert registries == []
