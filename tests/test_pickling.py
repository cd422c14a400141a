"""What travels to another process: settings and names. Weights are loaded again there, and shared by copies here."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_ids, saved, tiny_model, tiny_pair, tiny_tokenizer

from spec_rag import DocumentIndex, LoadOptions, ModelPair, SpecKVConfig, compress, generate
from spec_rag.compression.document_draft import Draft
from spec_rag.models.loading import load_model

TEXTS = ["The harbour opens at six. Its keeper is Odalys Fenn.", "Bread is baked at night. The oven stands outside."]
QUERY = "Who keeps the harbour?"
SPECKV = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tiny_model(layers=6), tmp_path / "tiny")


def sent(one: Any) -> bytes:
    data = pickle.dumps(one)
    assert len(data) < 5000, "weights travel"
    return data


def test_a_pair_that_was_loaded_by_name_travels_as_names(folder: Path) -> None:
    pair = ModelPair.load(folder, folder, target_options=LoadOptions(dtype="bfloat16"))
    compress(TEXTS, QUERY, draft=pair, ratio=0.5)
    generate(pair, random_ids(60), speckv=SPECKV, max_new_tokens=2)
    back = pickle.loads(sent(pair))
    assert (back.draft, back.target) == (pair.draft, pair.target), "loaded again is, in this process, shared"
    assert back.target.dtype == torch.bfloat16
    assert (back.draft_name, back.target_name) == (str(folder), str(folder))
    assert back.tokenizer is pair.tokenizer
    assert back.shares_tokens


def test_a_tokenizer_of_the_users_own_travels_with_the_names(folder: Path) -> None:
    own = tiny_tokenizer()
    own.add_tokens(["harbour"])
    back = pickle.loads(pickle.dumps(ModelPair.load(folder, folder, tokenizer=own)))
    assert len(back.tokenizer) == len(own)
    assert len(back.draft_tokenizer) == len(own) - 1


def test_models_that_were_given_as_objects_take_their_weights_along() -> None:
    pair = tiny_pair()
    expected = generate(pair, random_ids(60), speckv=SPECKV, max_new_tokens=6).output_ids
    back = pickle.loads(pickle.dumps(pair))
    assert back.target is not pair.target
    assert generate(back, random_ids(60), speckv=SPECKV, max_new_tokens=6).output_ids == expected


def test_a_shallow_model_arrives_as_shallow(folder: Path) -> None:
    loaded = load_model(folder, layers=2)
    back = pickle.loads(sent(loaded))
    assert (back.loaded_layers, back.total_layers) == (2, 6)


def test_a_draft_travels_as_its_name_or_takes_its_weights_along(folder: Path) -> None:
    back = pickle.loads(sent(Draft.of(folder)))
    assert back.model is load_model(folder).model
    assert (back.name, back.total_layers) == (str(folder), 6)
    given = Draft.of(tiny_model(layers=6), tokenizer=tiny_tokenizer())
    expected = compress(TEXTS, QUERY, draft=given, ratio=0.5).text
    assert compress(TEXTS, QUERY, draft=pickle.loads(pickle.dumps(given)), ratio=0.5).text == expected


def test_copies_share_weights_and_locks(folder: Path) -> None:
    pair = ModelPair.load(folder, folder)
    for one in (pair, pair.loaded_draft(), Draft.of(pair), DocumentIndex(folder / "index")):
        assert copy.copy(one) is one
        assert copy.deepcopy(one) is one


def ask_there(data: bytes, queue: Any) -> None:
    pair, index = pickle.loads(data)
    kept = compress(TEXTS, QUERY, draft=pair, ratio=0.5, index=index)
    queue.put((kept.text, index.hits, generate(pair, random_ids(60), speckv=SPECKV, max_new_tokens=6).output_ids))


def test_a_pair_and_an_index_work_in_another_process(folder: Path, tmp_path: Path) -> None:
    pair, index = ModelPair.load(folder, folder), DocumentIndex(tmp_path / "index")
    expected = compress(TEXTS, QUERY, draft=pair, ratio=0.5, index=index).text
    output = generate(pair, random_ids(60), speckv=SPECKV, max_new_tokens=6).output_ids
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=ask_there, args=(sent((pair, index)), queue))
    worker.start()
    try:
        assert queue.get(timeout=120) == (expected, len(TEXTS), output)
    finally:
        worker.join()
