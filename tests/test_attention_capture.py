"""Observing attention leaves no trace: not in other threads, not after errors."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from tiny import random_ids, tiny_model
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_rag import ModelPair, SpecKVConfig, generate
from spec_rag.attention.capture import AttentionCall, Replaced, attention_configs, base_attention, capture
from spec_rag.errors import UnsupportedModelError


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' registries without what other tests have put there, so that each test registers anew."""
    for registry in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        own = {name: one for name, one in registry._global_mapping.items() if not name.startswith("spec_rag_")}
        monkeypatch.setattr(type(registry), "_global_mapping", own)


def plain(model: torch.nn.Module, prompt: torch.Tensor) -> list[int]:
    return model.generate(prompt[None], max_new_tokens=8, do_sample=False)[0].tolist()


def test_an_observer_sees_every_layer_once_with_what_attention_gets() -> None:
    model = tiny_model("llama")
    calls = []
    with capture(model, lambda call: calls.append(call)), torch.no_grad():
        model(random_ids(20)[None])
    assert [call.layer for call in calls] == [0, 1, 2, 3]
    assert calls[0].query.shape == (1, 4, 20, 16)
    assert calls[0].key.shape == (1, 2, 20, 16)
    assert calls[0].scaling == pytest.approx(16**-0.5)


def test_an_observer_can_stand_in_for_attention() -> None:
    model, ids = tiny_model("llama"), random_ids(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with capture(model, lambda call: Replaced(torch.zeros_like(call.query))):
            assert not torch.allclose(model(ids).logits, expected)
        torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_exception_inside_a_forward_pass_leaves_no_trace(implementation: str) -> None:
    model = tiny_model("llama", attn_implementation=implementation)
    prompt = random_ids(30)
    before = plain(model, prompt)
    names = [config._attn_implementation for config in attention_configs(model)]

    def fails(call: object) -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), capture(model, fails):
        model(prompt[None])
    assert [config._attn_implementation for config in attention_configs(model)] == names
    assert plain(model, prompt) == before


def test_threads_with_different_settings_on_one_model_do_not_meet() -> None:
    model, prompt = tiny_model("llama"), random_ids(120)
    pair = ModelPair(target=model)
    configs = [
        None,
        SpecKVConfig(max_capacity_prompt=24, window_size=8, lookahead="none"),
        SpecKVConfig(max_capacity_prompt=90, window_size=16, lookahead="none", reduction_type="mean"),
    ]
    expected = [generate(pair, prompt, speckv=config, max_new_tokens=8).output_ids for config in configs]
    before = plain(model, prompt)
    found: dict[int, list[int]] = {}

    def work(i: int) -> None:
        found[i] = generate(pair, prompt, speckv=configs[i % 3], max_new_tokens=8).output_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(9)] == [expected[i % 3] for i in range(9)]
    assert plain(model, prompt) == before


def test_captures_of_one_model_in_two_threads_see_only_their_own_calls() -> None:
    model = tiny_model("llama")
    inside = threading.Barrier(2)
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def work(name: str, tokens: int) -> None:
        with capture(model, lambda call: seen[name].append(call.query.shape[2])), torch.no_grad():
            inside.wait(10)
            model(random_ids(tokens)[None])
            inside.wait(10)

    threads = [threading.Thread(target=work, args=args) for args in (("a", 11), ("b", 22))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": [11] * 4, "b": [22] * 4}
    assert base_attention(model) == attention_configs(model)[0]._attn_implementation == "sdpa"


def test_a_thread_that_does_not_observe_runs_the_plain_model_while_another_observes() -> None:
    model, ids = tiny_model("llama"), random_ids(40).view(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
    results: list[torch.Tensor] = []

    def work() -> None:
        with torch.no_grad():
            results.append(model(ids, attention_mask=mask).logits)

    with capture(model, lambda call: Replaced(torch.zeros_like(call.query))):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    torch.testing.assert_close(results[0], expected)


def test_transformers_own_attention_functions_are_left_alone() -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with capture(tiny_model("llama"), lambda call: None):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


def test_what_a_models_attention_does_besides_is_told() -> None:
    sliding = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
    capped: list[AttentionCall] = []
    model = tiny_model("gemma2", layers=2, attn_logit_softcapping=7.5, query_pre_attn_scalar=64, **sliding)
    with capture(model, capped.append), torch.no_grad():
        model(random_ids(30)[None])
    assert [call.sliding_window for call in capped] == [24, None]
    assert [call.softcap for call in capped] == [7.5, 7.5]
    assert [call.scaling for call in capped] == [0.125, 0.125]
    assert [call.sinks for call in capped] == [None, None]
    sunk: list[AttentionCall] = []
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "attn_implementation": "eager"}
    model = tiny_model("gpt_oss", layers=2, **sliding, **experts)
    with capture(model, sunk.append), torch.no_grad():
        model(random_ids(30)[None])
    for call, layer in zip(sunk, model.model.layers, strict=True):
        assert torch.equal(call.sinks, layer.self_attn.sinks)
    assert [call.softcap for call in sunk] == [None, None]
    assert sunk[0].mask.shape[-2:] == (30, 30)
    assert sunk[0].value.shape == sunk[0].key.shape == (1, 2, 30, 16)
    assert not torch.equal(sunk[0].value, sunk[0].key)


def test_an_observer_can_put_another_mask_in_the_models_place() -> None:
    model, ids = tiny_model("llama"), random_ids(20)[None]
    own = torch.ones(20, 20, dtype=torch.bool).tril()
    alone = torch.eye(20, dtype=torch.bool)
    with torch.no_grad():
        expected = model(ids).logits
        with capture(model, lambda call: own.expand(1, 4, 20, 20)):
            torch.testing.assert_close(model(ids).logits, expected)
        with capture(model, lambda call: alone.expand(1, 4, 20, 20)):
            lonely = model(ids).logits
        with capture(model, lambda call: Replaced(call.value.repeat_interleave(2, dim=1))):
            torch.testing.assert_close(model(ids).logits, lonely)


def test_a_capture_inside_another_hides_it_for_its_length_and_both_leave_the_model_as_it_was() -> None:
    model, other = tiny_model("llama", layers=1), tiny_model("llama", layers=1, seed=5)
    seen: list[str] = []

    def run() -> None:
        with torch.no_grad():
            model(random_ids(8)[None])
            other(random_ids(8)[None])

    with capture(model, lambda call: seen.append("outer")):
        with capture(other, lambda call: seen.append("other")), capture(model, lambda call: seen.append("inner")):
            assert base_attention(model) == base_attention(other) == "sdpa"
            assert attention_configs(model)[0]._attn_implementation == "spec_rag_observed_sdpa"
            run()
        assert attention_configs(model)[0]._attn_implementation == "spec_rag_observed_sdpa"
        assert attention_configs(other)[0]._attn_implementation == "sdpa"
        run()
    run()
    assert seen == ["inner", "other", "outer"]
    assert attention_configs(model)[0]._attn_implementation == "sdpa"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_observed_model_gives_what_it_gives_unobserved(implementation: str) -> None:
    sliding = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    model, ids = tiny_model("gemma3_text", layers=2, attn_implementation=implementation, **sliding), random_ids(30)
    mask = (torch.arange(30) >= 6).long()[None]
    with torch.no_grad():
        expected = model(ids[None], attention_mask=mask).logits
        with capture(model, lambda call: None):
            assert torch.equal(model(ids[None], attention_mask=mask).logits, expected)
    name = f"spec_rag_observed_{implementation}"
    assert ALL_MASK_ATTENTION_FUNCTIONS[name] is ALL_MASK_ATTENTION_FUNCTIONS[implementation]


def observed(model: torch.nn.Module, **given: object) -> list[AttentionCall]:
    """What an observer is told where the attention function of the first layer is called with these arguments."""
    seen: list[AttentionCall] = []
    states = torch.randn(1, 4, 6, 16), torch.randn(1, 2, 6, 16), torch.randn(1, 2, 6, 16)
    with capture(model, seen.append):
        ALL_ATTENTION_FUNCTIONS["spec_rag_observed_sdpa"](model.model.layers[0].self_attn, *states, None, **given)
    return seen


def test_without_a_scale_it_is_the_usual_one_and_a_position_bias_is_refused() -> None:
    model = tiny_model("llama", layers=1)
    assert observed(model)[0].scaling == 0.25
    assert observed(model, scaling=0.5, position_bias=None)[0].scaling == 0.5
    says = r"LlamaAttention adds a position bias .* the scores do not follow: use a model without one\.$"
    with pytest.raises(UnsupportedModelError, match=says):
        observed(model, position_bias=torch.zeros(1))


def test_what_does_not_use_transformers_interface_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear does not use transformers' attention interface"):  # noqa: SIM117
        with capture(torch.nn.Linear(1, 1), lambda call: None):
            pass


def test_of_a_model_that_sees_pictures_the_decoder_alone_is_observed() -> None:
    tower = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    config = LlavaConfig(text_config=text, vision_config=tower, image_token_index=5)
    model = LlavaForConditionalGeneration(config).eval()
    # as a tower that numbers its layers, too
    model.model.vision_tower.encoder.layers[0].self_attn.layer_idx = 0
    pixels = torch.randn(1, 3, 28, 28)
    prompt = torch.cat([torch.full((4,), 5), random_ids(8)])[None]
    seen: list[AttentionCall] = []
    assert attention_configs(model) == [model.config.text_config]
    with torch.no_grad():
        expected = model(prompt, pixel_values=pixels, vision_feature_select_strategy="default").logits
        with capture(model, seen.append):
            assert model.config.vision_config._attn_implementation == "sdpa"
            found = model(prompt, pixel_values=pixels, vision_feature_select_strategy="default").logits
    assert [call.layer for call in seen] == [0, 1]
    assert torch.equal(found, expected)


def test_layers_with_configs_of_their_own_are_observed_and_the_decoders_config_follows_them() -> None:
    model = tiny_model("llama", layers=3)
    for layer in model.model.layers:
        layer.self_attn.config = copy.deepcopy(model.config)
    configs = [model.config, *(layer.self_attn.config for layer in model.model.layers)]
    seen: list[int] = []
    with capture(model, lambda call: seen.append(call.layer)), torch.no_grad():
        model(random_ids(8)[None])
        assert {config._attn_implementation for config in configs} == {"spec_rag_observed_sdpa"}
    assert seen == [0, 1, 2]
    assert {config._attn_implementation for config in configs} == {"sdpa"}
