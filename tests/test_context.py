"""One context for many questions: read once, cut, saved, loaded, asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import call
from tiny import random_ids, target_only, tiny_model, tiny_pair, tiny_tokenizer

from benchmarks.context_questions import contexts, contexts_answered, table
from spec_rag import ContextCache, ModelPair, SpecKVConfig, SpecPCConfig, agenerate, generate, generate_batch, stream
from spec_rag.attention.capture import AttentionCall
from spec_rag.errors import CancelledError, ConfigError, PromptTooLongError, UnsupportedModelError
from spec_rag.generation.repetition import _AttentionSum
from spec_rag.text.context_prompts import context_ids, question_ids
from spec_rag.text.prompts import chat_ids

KINDS = ("llama", "qwen3", "gemma3_text")
TEXT = "The ferry leaves at nine. Saffron the mule carries the mail. The dome was opened in 1931. " * 4
QUESTIONS = [random_ids(30, seed=30), random_ids(7, seed=7), random_ids(1, seed=1)]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [200, 700])
def test_a_whole_context_gives_the_dense_tokens(kind: str, tokens: int) -> None:
    pair, text = target_only(kind), random_ids(tokens)
    dense = generate_batch(pair, [torch.cat([text, q]) for q in QUESTIONS], max_new_tokens=10)
    context = ContextCache.read(pair, text, keep=1.0)
    asked = generate_batch(pair, QUESTIONS, context=context, max_new_tokens=10)
    assert [answer.output_ids for answer in asked] == [answer.output_ids for answer in dense]
    assert [answer.prompt_tokens for answer in asked] == [tokens + len(q) for q in QUESTIONS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_in_a_batch_equals_the_question_alone_and_leaves_the_context_as_it_was(kind: str) -> None:
    pair = target_only(kind)
    context = ContextCache.read(pair, random_ids(200), keep=0.25)
    before = [tensor.clone() for tensor in (*context.keys, *context.values)]
    batch = generate_batch(pair, QUESTIONS, context=context, max_new_tokens=10)
    alone = [generate(pair, q, context=context, max_new_tokens=10) for q in QUESTIONS]
    assert [row.output_ids for row in batch] == [row.output_ids for row in alone]
    assert all(torch.equal(a, b) for a, b in zip(before, (*context.keys, *context.values), strict=True))


def test_the_share_and_the_bytes_are_kept_to() -> None:
    pair, text = target_only(), random_ids(200)
    quarter = ContextCache.read(pair, text, keep=0.25)
    assert sum(len(layer) for layer in quarter.positions) == 50 * 2 * 3
    pair_bytes = 3 * 2 * 2 * 16 * 4
    assert quarter.nbytes == 50 * pair_bytes
    assert ContextCache.read(pair, text, max_bytes=20 * pair_bytes + 7).nbytes == 20 * pair_bytes
    assert ContextCache.read(pair, text, max_bytes=10**9).nbytes == 200 * pair_bytes
    answer = generate(pair, random_ids(9), context=quarter, max_new_tokens=4)
    widest = sum(int(layer.max()) for layer in quarter.lengths) * 2 * 2 * 16 * 4
    assert 50 * pair_bytes < widest < 200 * pair_bytes
    assert (answer.kv_bytes_kept, answer.kv_bytes_dense) == (widest, 200 * pair_bytes)


@pytest.mark.parametrize("mask_per_head", [True, False])
def test_what_a_repetition_attends_to_is_kept(mask_per_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores by hand: the repetition's dense attention, summed over queries, the most of a group's heads."""
    pair, text = target_only(), random_ids(120)
    target = pair.require_target()
    target.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = target(torch.cat([text, text])[None], output_attentions=True).attentions
    scores = torch.stack([a[0, :, 120:, :120].sum(dim=1).view(2, 2, 120).amax(dim=1) for a in attentions])
    scores[..., :4] = torch.inf
    if mask_per_head:
        best = torch.zeros(3, 2, 120, dtype=torch.bool).flatten()
        best[scores.flatten().topk(30 * 2 * 3).indices] = True
        best = best.view(3, 2, 120)
    else:
        monkeypatch.setattr("spec_rag.generation.context_cache.MASK_PER_HEAD", ())
        best = torch.zeros(3, 2, 120, dtype=torch.bool).scatter_(2, scores.topk(30).indices, True)
    context = ContextCache.read(pair, text, keep=0.25)
    for layer, positions, lengths in zip(best, context.positions, context.lengths, strict=True):
        assert torch.equal(lengths, layer.sum(dim=1))
        assert torch.equal(positions, layer.nonzero()[:, 1])


def test_a_layer_without_keys_of_its_own_is_refused_and_one_that_is_not_shown_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnsupportedModelError, match="Layer 3 shares the keys of another"):
        _AttentionSum(9, 3, None)(call(12, layer=3))
    pair = target_only()
    shown = _AttentionSum.__call__

    def hides_the_last(self: _AttentionSum, seen: AttentionCall) -> None:
        if seen.layer < 2:
            shown(self, seen)

    monkeypatch.setattr(_AttentionSum, "__call__", hides_the_last)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM showed 2 of its 3 layers"):
        ContextCache.read(pair, random_ids(60), keep=0.25)


def test_streams_tasks_sampling_and_schemas_start_from_it(pair: ModelPair) -> None:
    context = ContextCache.read(pair, TEXT)
    whole = generate(pair, "Who?", context=context, max_new_tokens=12)
    with stream(pair, "Who?", context=context, max_new_tokens=12) as pieces:
        assert "".join(pieces) == whole.text
    assert asyncio.run(agenerate(pair, "Who?", context=context, max_new_tokens=12)).text == whole.text
    assert len(generate(pair, "Who?", context=context, max_new_tokens=5, num_beams=2).output_ids) <= 5
    assert generate(pair, "Who?", context=context, regex="(yes|no)").text in ("yes", "no")


def test_threads_share_a_context(pair: ModelPair) -> None:
    context = ContextCache.read(pair, TEXT)
    questions = ["Who?", "When was it opened?", "What does the mule do?"]
    alone = [generate(pair, q, context=context, max_new_tokens=8).text for q in questions]
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        with stream(pair, questions[i % 3], context=context, max_new_tokens=8) as pieces:
            found[i] = "".join(pieces)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(6)] == alone * 2


def test_a_chat_is_cut_between_the_context_and_the_question(pair: ModelPair) -> None:
    tokenizer = pair.require_tokenizer()
    rest = [{"role": "assistant", "content": "Saffron."}, {"role": "user", "content": "And when?"}]
    system = {"role": "system", "content": "Be brief."}
    whole = chat_ids(tokenizer, [system, {"role": "user", "content": f"{TEXT}\n\nWho?"}, *rest])
    cut = [
        *context_ids(tokenizer, TEXT, "Be brief.").tolist(),
        *question_ids(tokenizer, [{"role": "user", "content": "Who?"}, *rest]).tolist(),
    ]
    assert cut == whole


def test_saved_and_loaded_it_answers_the_same(pair: ModelPair, tmp_path: Path) -> None:
    context = ContextCache.read(pair, TEXT)
    context.save(tmp_path / "mule.context")
    loaded = ContextCache.load(tmp_path / "mule.context", pair)
    assert (loaded.tokens, loaded.nbytes, loaded.settings) == (context.tokens, context.nbytes, context.settings)
    ask = {"max_new_tokens": 8}
    assert generate(pair, "Who?", context=loaded, **ask).output_ids == (
        generate(pair, "Who?", context=context, **ask).output_ids
    )


def test_damage_and_other_weights_are_noticed(pair: ModelPair, tmp_path: Path) -> None:
    path = tmp_path / "mule.context"
    ContextCache.read(pair, TEXT).save(path)
    with pytest.raises(ConfigError, match="another target"):
        ContextCache.load(path, ModelPair(target=tiny_model("llama", seed=9, layers=3)))
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="checksum"):
        ContextCache.load(path, pair)
    path.write_bytes(data[:1000])
    with pytest.raises(ConfigError, match="damaged"):
        ContextCache.load(path, pair)


def pairs_per_head(context: ContextCache) -> float:
    return sum(int(own.sum()) for own in context.lengths) / sum(len(own) for own in context.lengths)


@pytest.mark.parametrize(
    ("tokens", "settings", "pairs"),
    [
        (100, {}, 100),
        (256, {}, 256),
        (600, {}, 256),
        (1400, {}, 350),
        (600, {"keep": 0.25}, 150),
        (600, {"keep": 0.25, "min_pairs": 300}, 300),
        (600, {"min_pairs": 0}, 150),
        (200, {"keep": 0.1, "min_pairs": 5000}, 200),
    ],
)
def test_by_default_a_short_context_stays_whole_and_a_longer_one_keeps_256_pairs_of_each_head(
    tokens: int, settings: dict[str, Any], pairs: int
) -> None:
    context = ContextCache.read(target_only(), random_ids(tokens), **settings)
    assert pairs_per_head(context) == pytest.approx(pairs, abs=1)
    assert context.settings["kept"] == pairs / tokens


def test_bytes_are_a_limit_that_the_floor_does_not_raise() -> None:
    pair = target_only()
    whole = ContextCache.read(pair, random_ids(100))
    assert ContextCache.read(pair, random_ids(100), max_bytes=whole.nbytes // 4).nbytes <= whole.nbytes // 4


KILLED = """
import sys, threading, os, signal, time
from pathlib import Path
import torch
from spec_rag.generation.context_cache import ContextCache
from spec_rag.utils import atomic_files as files
path = Path(sys.argv[1])
big = torch.zeros(400_000, 16)
positions, lengths = torch.zeros(400_000).long(), torch.tensor([200_000, 200_000])
context = ContextCache(torch.arange(3), (big,), (big + 1,), (positions,), (lengths,), "other", {})
write = files.os.fsync
files.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
context.save(path)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_killed_while_saving_the_old_file_is_whole(pair: ModelPair, tmp_path: Path) -> None:
    path = tmp_path / "mule.context"
    context = ContextCache.read(pair, TEXT)
    context.save(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert ContextCache.load(path, pair).tokens == context.tokens
    context.save(path)  # and what the killed one left is in nobody's way
    assert ContextCache.load(path, pair).tokens == context.tokens


def test_a_target_of_sliding_layers_alone_keeps_their_windows() -> None:
    pair = ModelPair(target=tiny_model("mistral", seed=3, layers=2, sliding_window=40))
    context = ContextCache.read(pair, random_ids(200), keep=0.25)
    assert [layer.tolist() for layer in context.lengths] == [[39, 39]] * 2
    dense = generate(pair, torch.cat([random_ids(200), QUESTIONS[0]]), max_new_tokens=8)
    assert generate(pair, QUESTIONS[0], context=context, max_new_tokens=8).output_ids == dense.output_ids


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keep": 0}, "keep=0"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"min_pairs": -1}, "min_pairs=-1"),
        ({"max_bytes": 5}, "a single token take 768 bytes"),
        ({"context": " "}, "is empty"),
        ({"system": "Be brief.", "context": [1, 2]}, "needs a context that is text"),
    ],
)
def test_settings_that_cannot_work_are_refused(pair: ModelPair, settings: dict[str, Any], says: str) -> None:
    given = {"context": TEXT, **settings}
    with pytest.raises(ConfigError, match=says):
        ContextCache.read(pair, given.pop("context"), **given)


def test_a_context_of_text_needs_a_tokenizer_and_a_question_without_a_template_is_its_text() -> None:
    with pytest.raises(ConfigError, match="tokenizer=None"):
        context_ids(None, "Huts are red.")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    before, question = context_ids(tokenizer, "Huts are red."), question_ids(tokenizer, "Who?")
    assert tokenizer.decode(torch.cat([before, question])) == "Huts are red.\n\nWho?"


def test_questions_that_cannot_work_are_refused(pair: ModelPair) -> None:
    context = ContextCache.read(pair, TEXT)
    with pytest.raises(ConfigError, match="another target"):
        generate(target_only(), random_ids(5), context=context)
    with pytest.raises(ConfigError, match="specpc"):
        generate(pair, "Who?", SpecPCConfig(), context=context)
    with pytest.raises(ConfigError, match="give a ContextCache"):
        generate(pair, "Who?", context=TEXT)
    with pytest.raises(ConfigError, match="system's"):
        generate(pair, [{"role": "system", "content": "Be brief."}], context=context)
    with pytest.raises(PromptTooLongError):
        generate(pair, "Who?", context=context, max_new_tokens=4096)


def test_reading_can_be_cancelled(pair: ModelPair) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError):
        ContextCache.read(pair, TEXT, cancelled=cancelled)


def test_the_evaluation_asks_each_context_its_questions(pair: ModelPair) -> None:
    cases = contexts(2, sentences=8, facts=4, seed=1)
    assert all(f"the {q[31:-1]} is {code}." in case.text for case in cases for q, code in case.questions)
    hits = contexts_answered(pair, cases, keeps=(0.5,), max_new_tokens=4)
    assert {name: len(shares) for name, shares in hits.items()} == {"dense": 2, "0.5 of the pairs": 2}
    assert "| 2 contexts, 4 questions each |" in table(hits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_budget", ["uniform", "adaptive"])
def test_each_question_of_a_batch_chooses_its_own_pairs_among_those_kept(kind: str, head_budget: Any) -> None:
    pair = target_only(kind)
    context = ContextCache.read(pair, random_ids(200), keep=0.5)
    before = [tensor.clone() for tensor in (*context.keys, *context.values)]
    speckv = SpecKVConfig(max_capacity_prompt=24, head_budget=head_budget)
    batch = generate_batch(pair, QUESTIONS, speckv=speckv, context=context, max_new_tokens=10)
    alone = [generate(pair, q, speckv=speckv, context=context, max_new_tokens=10) for q in QUESTIONS]
    assert [row.output_ids for row in batch] == [row.output_ids for row in alone]
    assert all(torch.equal(a, b) for a, b in zip(before, (*context.keys, *context.values), strict=True))
    layers = [layer for layer in batch[0].layer_positions if layer.shape[-1] <= 48]
    assert layers
    assert all(int((layer >= 0).sum()) <= 24 * 2 for layer in layers)
    assert any(not torch.equal(a, b) for a, b in zip(alone[0].layer_positions, alone[1].layer_positions, strict=True))


def test_a_capacity_that_holds_the_whole_context_changes_nothing(pair: ModelPair) -> None:
    context = ContextCache.read(pair, TEXT)
    whole = generate(pair, "Who?", context=context, max_new_tokens=8)
    roomy = generate(pair, "Who?", speckv=SpecKVConfig(max_capacity_prompt=500), context=context, max_new_tokens=8)
    assert roomy.output_ids == whole.output_ids
    assert all(torch.equal(a, b) for a, b in zip(roomy.layer_positions, whole.layer_positions, strict=True))


def test_what_the_question_attends_to_is_chosen() -> None:
    """Scores by hand: the question's dense attention to the context, its maximum over queries and a group's heads."""
    pair, text, question = target_only(), random_ids(120), random_ids(9, seed=5)
    target = pair.require_target()
    target.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = target(torch.cat([text, question])[None], output_attentions=True).attentions
    context = ContextCache.read(pair, text, keep=1.0)
    speckv = SpecKVConfig(max_capacity_prompt=20, window_size=4, kernel_size=1, lookahead="none")
    answer = generate(pair, question, speckv=speckv, context=context, max_new_tokens=2)
    for attention, positions in zip(attentions, answer.layer_positions, strict=True):
        scores = attention[0, :, 120:, :120].amax(dim=1).view(2, 2, 120).amax(dim=1)
        assert torch.equal(positions, scores.topk(20).indices.sort().values)


def test_of_heads_that_keep_unequally_many_pairs_each_chooses_among_its_own() -> None:
    """Scores by hand in the first layer: the question's attention to the pairs that are left, renormalized."""
    pair, text, question = target_only(), random_ids(120), random_ids(9, seed=5)
    target = pair.require_target()
    target.set_attn_implementation("eager")
    with torch.no_grad():
        attention = target(torch.cat([text, question])[None], output_attentions=True).attentions[0][0, :, 120:]
    context = ContextCache.read(pair, text, keep=0.5)
    speckv = SpecKVConfig(max_capacity_prompt=50, window_size=4, kernel_size=1, lookahead="none", head_budget="uniform")
    chosen = generate(pair, question, speckv=speckv, context=context, max_new_tokens=2).layer_positions[0]
    heads = context.positions[0].split(context.lengths[0].tolist())
    assert len(heads[0]) != len(heads[1])
    for rows, kept, positions in zip(attention.view(2, 2, 9, -1), heads, chosen, strict=True):
        left = torch.cat([kept, torch.arange(120, 129)])
        shares = rows[..., left] / rows[..., left].sum(dim=-1, keepdim=True)
        best = shares[..., : len(kept)].amax(dim=(0, 1)).topk(50).indices.sort().values
        assert torch.equal(positions, kept[best])
