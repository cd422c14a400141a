"""NaN and infinity in a model or a draft's scores fail one request and are never an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_faults import (
    SPECKV,
    SPECPC,
    _noting_caches,  # noqa: F401
    answered,
    leaving_nothing,
    poisoned,
    shortened,
)
from tiny import random_ids, tiny_model, tiny_pair

from spec_rag import (
    ContextCache,
    DocumentIndex,
    SpecKVConfig,
    generate,
    generate_batch,
    score_prompt,
    stream,
)
from spec_rag.errors import NotFiniteError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.models.error_context import check_finite, error_context

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("layer", "value"), [(0, NAN), (-1, INF)])
@pytest.mark.parametrize(("role", "at_call"), [("draft", 1), ("draft", 3), ("target", 1), ("target", 2)])
def test_numbers_that_are_none_give_no_answer(role: str, at_call: int, layer: int, value: float) -> None:
    pair = tiny_pair()
    expected = answered(pair)
    with leaving_nothing(pair):
        with poisoned(getattr(pair, role), layer, value, at_call), pytest.raises(NotFiniteError) as caught:
            answered(pair)
        assert f"The {role} 'tiny-{role}' (float32 on cpu) computed " in str(caught.value)
        assert f"{role}_options={{'attn_implementation': 'eager'}}" in str(caught.value)
        assert "dtype" not in str(caught.value), "there is no wider one"
    assert answered(pair) == expected


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "seed": 1, "top_k": 5}, {"num_beams": 2}, {"regex": "[a-z ]{3}"}]
)
@pytest.mark.parametrize("speckv", [None, SPECKV, SpecKVConfig(max_capacity_prompt=40, lookahead="target")])
def test_however_tokens_are_chosen_none_is_chosen_by_nan(options: dict[str, Any], speckv: SpecKVConfig | None) -> None:
    if "regex" in options:
        pytest.importorskip("llguidance")
    pair = tiny_pair()
    prompt = random_ids(90)
    expected = generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options).output_ids
    with poisoned(pair.target, -1), pytest.raises(NotFiniteError, match=r"The target .* logits"):
        generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options)
    assert generate(pair, prompt, speckv=speckv, max_new_tokens=4, **options).output_ids == expected


def test_a_row_that_is_spoilt_does_not_fail_what_waits_with_it() -> None:
    pair = tiny_pair()
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError):
        list(stream(pair, "Gate 1 opens.", max_new_tokens=3))
    assert list(stream(pair, "Gate 1 opens.", max_new_tokens=3))


def test_tokens_may_be_ruled_out_and_prompts_padded() -> None:
    """What the checks must not refuse."""
    pair = tiny_pair()
    assert generate(pair, random_ids(20), max_new_tokens=3, suppress_tokens=list(range(4, 300))).completion_tokens
    batch = generate_batch(pair, [random_ids(150), random_ids(5)], SPECPC, SPECKV, 4)
    assert [answer.output_ids for answer in batch] == [
        generate(pair, random_ids(n), SPECPC, SPECKV, 4).output_ids for n in (150, 5)
    ]


def test_the_draft_s_scores_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    monkeypatch.setattr(
        "spec_rag.attention.importance.window_scores", lambda q, k, **_: torch.full((q.shape[0], k.shape[2]), NAN)
    )
    with pytest.raises(NotFiniteError, match=r"The draft .* token importances"):
        generate(pair, random_ids(150), SPECPC, max_new_tokens=2)
    with pytest.raises(NotFiniteError, match=r"The draft .* attention scores"):
        shortened(pair, scoring="joint")


@pytest.mark.parametrize(("layer", "at_call"), [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (3, 3)])
def test_documents_read_with_nan_are_neither_shortened_nor_stored(layer: int, at_call: int) -> None:
    pair, index = tiny_pair(num_hidden_layers=8), DocumentIndex()
    expected = shortened(tiny_pair(num_hidden_layers=8), cascade="never")
    with poisoned(pair.draft, layer, NAN, at_call), pytest.raises(NotFiniteError, match="The draft 'tiny-draft'"):
        shortened(pair, cascade="never", index=index)
    assert shortened(pair, cascade="never") == expected
    assert shortened(pair, cascade="never", index=index) == shortened(
        tiny_pair(num_hidden_layers=8), cascade="never", index=DocumentIndex()
    )


def test_a_context_read_with_nan_is_none_and_a_likelihood_neither() -> None:
    pair = tiny_pair()
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError, match="The target"):
        ContextCache.read(pair, random_ids(90))
    with poisoned(pair.target, 1), pytest.raises(NotFiniteError, match=r"The target .* logits"):
        answer_likelihood(pair, random_ids(90), [5, 6])
    with poisoned(pair.draft, 1), pytest.raises(NotFiniteError, match="The draft"):
        score_prompt(pair, random_ids(150), SPECPC)
    assert len(score_prompt(pair, random_ids(150), SPECPC).selected) == 80


def test_a_narrow_type_is_told_to_be_widened() -> None:
    for dtype, says in (
        (torch.float16, "{'dtype': 'bfloat16'} or {'dtype': 'float32'}"),
        (torch.bfloat16, "'float32'"),
    ):
        model = tiny_model(attn_implementation="eager").to(dtype)
        with pytest.raises(NotFiniteError) as caught, error_context("draft", "d", model, list):
            check_finite(torch.tensor([1.0, INF, -INF]), "logits")
        assert says in str(caught.value)
    model = tiny_model(attn_implementation="eager")
    with (
        pytest.raises(NotFiniteError, match="Probably its weights are damaged"),
        error_context("draft", "d", model, list),
    ):
        check_finite(torch.tensor(NAN), "logits")


def test_a_tokenizer_that_raises_fails_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    chat = [{"role": "user", "content": "Who holds key 17?"}]
    expected = generate(pair, chat, max_new_tokens=4).output_ids

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such vocabulary")

    with monkeypatch.context() as patched:
        patched.setattr(pair.tokenizer, "apply_chat_template", fail)
        with pytest.raises(RuntimeError, match="no such vocabulary"):
            generate(pair, chat, max_new_tokens=4)
    assert generate(pair, chat, max_new_tokens=4).output_ids == expected
