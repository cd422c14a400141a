"""Transformers 5.24 renamed the argument `past_key_values` to `cache`; either name is used where a model has it."""

from __future__ import annotations

from typing import Any

from tiny import tiny_model

from spec_rag.models.model_config import cache_option


class Renamed:
    def forward(self, input_ids: Any, cache: Any = None) -> None: ...


class Former:
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


def test_a_cache_is_passed_by_the_name_that_the_model_has() -> None:
    cache = object()
    assert cache_option(Renamed().forward, cache) == {"cache": cache}
    assert cache_option(Former().forward, cache) == {"past_key_values": cache}


def test_the_installed_transformers_has_the_name_that_is_used() -> None:
    model: Any = tiny_model()
    for call in (model.forward, model.get_decoder().forward, model.prepare_inputs_for_generation):
        (name,) = cache_option(call, None)
        assert name in call.__code__.co_varnames or name in call.__wrapped__.__code__.co_varnames
