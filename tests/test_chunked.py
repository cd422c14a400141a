"""A prompt read in chunks: the same answers, in less memory, and the model as it was afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import random_ids, tiny_model, tiny_pair

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate, generate_batch
from spec_rag.errors import ConfigError, UnsupportedModelError
from spec_rag.generation.chunked_feed_forward import chunked_feed_forward

PC = SpecPCConfig(max_capacity_prompt=80, window_size=8, kernel_size=4, starting_layer_index=0)
KV = SpecKVConfig(max_capacity_prompt=40)


class Widest:
    """The most tokens that any feed-forward layer of these models reads at once."""

    def __init__(self, *models: torch.nn.Module) -> None:
        self.tokens = 0
        for model in models:
            for layer in model.get_decoder().layers:
                layer.mlp.act_fn.register_forward_pre_hook(self.look)

    def look(self, module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        self.tokens = max(self.tokens, given[0].shape[1])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize(
    "settings", [{}, {"speckv": KV}, {"specpc": PC}, {"specpc": PC, "speckv": KV}], ids=["dense", "kv", "pc", "kvpc"]
)
def test_answers_are_the_same_and_nothing_wider_than_a_chunk_is_read(kind: str, settings: dict) -> None:
    pair, prompt = tiny_pair(kind), random_ids(150)
    whole = generate(pair, prompt, max_new_tokens=8, **settings)
    widest = Widest(pair.draft, pair.target)
    chunked = generate(pair, prompt, max_new_tokens=8, prefill_chunk_size=32, **settings)
    assert widest.tokens == 32
    assert chunked.output_ids == whole.output_ids
    assert chunked.lookahead_ids == whole.lookahead_ids
    assert chunked.selected_positions == whole.selected_positions
    assert chunked.kept_positions == whole.kept_positions


def test_batches_and_sparse_prefills_are_read_in_chunks_as_well() -> None:
    pair = tiny_pair()
    sparse = SpecKVConfig(max_capacity_prompt=40, prefill_window_size=32, prefill_vertical_size=32)
    prompts = [random_ids(150, 1), random_ids(110, 2)]
    whole = generate_batch(pair, prompts, speckv=sparse, max_new_tokens=8)
    widest = Widest(pair.draft, pair.target)
    chunked = generate_batch(pair, prompts, speckv=sparse, max_new_tokens=8, prefill_chunk_size=50)
    assert widest.tokens == 50
    assert [row.output_ids for row in chunked] == [row.output_ids for row in whole]


def test_the_model_is_as_before_also_after_an_error_and_while_another_thread_reads_in_chunks() -> None:
    model = tiny_model()
    layer = model.get_decoder().layers[0].mlp
    plain = dict(layer.__dict__)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with chunked_feed_forward([model, None, model], 8):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    widest = Widest(model)
    model(input_ids=random_ids(40)[None])
    assert widest.tokens == 40, "the other thread's chunks are its own"
    with pytest.raises(RuntimeError, match="stop"), chunked_feed_forward([model], 4):
        raise RuntimeError("stop")
    assert "forward" in layer.__dict__, "the other thread still reads in chunks"
    leave.set()
    thread.join()
    assert dict(layer.__dict__) == plain


def test_a_forward_of_the_layer_s_own_comes_back() -> None:
    model = tiny_model()
    layer = model.get_decoder().layers[0].mlp
    own = layer.forward
    layer.forward = own
    with chunked_feed_forward([model], 4):
        assert layer.forward is not own
    assert layer.__dict__["forward"] is own


def test_bad_sizes_and_models_without_such_layers_are_refused_by_name() -> None:
    pair = tiny_pair()
    for size in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="prefill_chunk_size"):
            generate(pair, random_ids(20), prefill_chunk_size=size)
    bare = tiny_model()
    for layer in bare.get_decoder().layers:
        layer.inner = layer.mlp
        del layer.mlp
    with pytest.raises(UnsupportedModelError, match="prefill_chunk_size"):
        generate(ModelPair(target=bare), random_ids(20), prefill_chunk_size=8)
