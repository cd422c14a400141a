"""What the draft sees of passages that were read one by one, against one dense reading of everything in float64."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from dense import probabilities
from threads import until_waiting
from tiny import random_ids, tiny_model, tiny_tokenizer
from torch import Tensor

from spec_rag import Cancellation, compress
from spec_rag.attention.capture import AttentionCall, Replaced, capture
from spec_rag.compression.document_draft import Draft, needed_depth
from spec_rag.compression.encoder import PassageEncoder, encoder_for
from spec_rag.compression.feature_sources import joint_importance
from spec_rag.compression.features import CompressionRequest
from spec_rag.compression.passages import QuestionTokens, question_tokens, split_passages
from spec_rag.compression.prefilter import gather_features
from spec_rag.errors import CancelledError, UnsupportedModelError
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.units import unit_spans

# the instruction alone is 150 tokens of the tiny tokenizer, so these windows hide all of it and some of the passages
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 40},
    "gemma3_text": {
        "sliding_window": 30,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 64,  # so that the scale is not 1/sqrt(16)
    },
}
PASSAGES = [random_ids(n, seed=n).tolist() for n in (37, 21, 52)]
QUESTIONS = [QuestionTokens(random_ids(n, seed=n).tolist(), 2, n - 3) for n in (14, 9)]


def draft_of(family: str, **overrides: Any) -> Draft:
    model = tiny_model(family, seed=5, layers=3, **FAMILIES.get(family, {}), **overrides).double()
    return Draft(model, tiny_tokenizer(), family, 3)


class Reference:
    """Dense attention over instruction, passages and question, in which no passage sees another.

    The question sees the passages in the layers [first, last) alone.
    """

    def __init__(
        self,
        head: int,
        passages: Sequence[Sequence[int]],
        question: int,
        seen: tuple[int, int],
        longest: int | None = None,
    ) -> None:
        lengths = [len(p) for p in passages]
        start = head + (longest or max(lengths))
        self.positions = torch.cat(
            [torch.arange(head), *(head + torch.arange(n) for n in lengths), start + torch.arange(question)]
        )
        part = torch.cat([torch.full((n,), i) for i, n in enumerate([head, *lengths, question])])
        last = len(lengths) + 1
        self.hidden = (part[:, None] != part) & (part != 0) & (part[:, None] != last)
        self.blind = self.hidden | ((part[:, None] == last) & (part != 0) & (part != last))
        self.head, self.question, self.seen = head, question, seen
        self.scores: list[Tensor] = []

    def __call__(self, call: AttentionCall) -> Replaced:
        rows = probabilities(
            call.query,
            call.key,
            call.scaling,
            sliding_window=call.sliding_window,
            hidden=self.hidden if self.seen[0] <= call.layer < self.seen[1] else self.blind,
            positions=self.positions,
        )
        self.scores.append(rows[0, :, -self.question :, self.head : -self.question].amax(1))
        return Replaced(rows @ call.value.repeat_interleave(2, dim=1))


def dense_attention(draft: Draft, head: list[int], question: QuestionTokens, seen_from: int = 0) -> Tensor:
    """float64 [layers, heads, passage tokens]"""
    reference = Reference(len(head), PASSAGES, len(question.ids), (seen_from, 3))
    ids = torch.tensor([[*head, *(token for p in PASSAGES for token in p), *question.ids]])
    with capture(draft.model, reference), torch.no_grad():
        draft.model(input_ids=ids, position_ids=reference.positions[None], use_cache=False)
    return torch.stack(reference.scores)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_question_looks_at_all_passages_as_in_one_dense_reading(family: str) -> None:
    draft = draft_of(family)
    reader = PassageEncoder(draft, (0, 3))
    found = reader.attention(reader.encode(PASSAGES), QUESTIONS)
    assert found.shape == (2, 3, 4, sum(len(p) for p in PASSAGES))
    for own, question in zip(found, QUESTIONS, strict=True):
        torch.testing.assert_close(own, dense_attention(draft, reader.frame.head, question), atol=1e-9, rtol=1e-6)
    shallow = PassageEncoder(draft, (0, 2))
    torch.testing.assert_close(shallow.attention(shallow.encode(PASSAGES), QUESTIONS), found[:, :2])


@pytest.mark.parametrize("family", FAMILIES)
def test_below_the_first_scored_layer_a_question_sees_no_passage(family: str) -> None:
    draft = draft_of(family)
    reader = PassageEncoder(draft, (1, 3))
    encoded = reader.encode(PASSAGES)
    assert {(p.first_layer, p.last_layer) for p in encoded} == {(1, 3)}
    for own, question in zip(reader.attention(encoded, QUESTIONS), QUESTIONS, strict=True):
        dense = dense_attention(draft, reader.frame.head, question, seen_from=1)
        torch.testing.assert_close(own, dense[1:], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_passage_is_read_behind_the_instruction_whatever_is_read_beside_it(family: str) -> None:
    draft = draft_of(family)
    reader = PassageEncoder(draft)
    together = reader.encode(PASSAGES)
    alone = [reader.encode([p])[0] for p in PASSAGES]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.keys, b.keys, atol=1e-9, rtol=1e-6)
        torch.testing.assert_close(a.values, b.values, atol=1e-9, rtol=1e-6)


def read(draft: Draft, **settings: Any) -> tuple[CompressionRequest, list[int]]:
    documents = [Document("One is red. Two is blue.", title="Huts"), Document("Three is green. Four is grey.")]
    units = [unit_spans(document.text, "sentence") for document in documents]
    passages = split_passages(draft.tokenizer, documents, units)
    config = CompressionConfig.from_dict(settings)
    return CompressionRequest(documents, units, passages, "Which is blue?", config), [
        t for p in passages for t in p.ids
    ]


def test_joint_importance_starts_with_the_first_token_of_the_first_passage() -> None:
    draft = draft_of("llama")
    inquiry, body = read(draft)
    head = PassageEncoder(draft).frame.head
    question = question_tokens(draft.tokenizer, PassageEncoder(draft).frame, inquiry.question).ids
    rows: list[Tensor] = []

    def note(call: AttentionCall) -> None:
        rows.append(probabilities(call.query, call.key, call.scaling)[0, :, -64:])

    with capture(draft.model, note), torch.no_grad():
        draft.model(input_ids=torch.tensor([[*head, *body, *question]]))
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64)[:, None]
    expected = (torch.stack(rows[1:]) * ramp).amax((0, 1, 2))[len(head) :]  # of three layers, the first does not count
    found = joint_importance(draft, inquiry.passages, inquiry.question)
    assert len(found) == len(body) + len(question)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    joint, _ = read(draft, scoring="joint")
    smoothed = torch.nn.functional.max_pool1d(torch.nn.functional.pad(found[None], (15, 16)), 32, stride=1)[0]
    torch.testing.assert_close(gather_features(draft, joint).attention[0, 0], smoothed[: len(body)])


def test_a_reader_goes_no_deeper_than_the_score_needs() -> None:
    draft = draft_of("llama")
    config = CompressionConfig()
    assert encoder_for(draft, config).depth == needed_depth(config, "llama", 3) == 2


def test_weights_that_change_are_read_with_anew() -> None:
    draft = draft_of("llama")
    before = PassageEncoder(draft).prefix.keys
    assert PassageEncoder(draft).prefix.keys is before
    with torch.no_grad():
        draft.model.get_decoder().layers[0].self_attn.k_proj.weight.mul_(2)
    assert not torch.allclose(PassageEncoder(draft).prefix.keys, before)


@pytest.mark.parametrize(
    ("family", "sizes", "says"),
    [
        ("bloom", {"n_layer": 3, "n_head": 4}, "has no layers"),
        ("xglm", {"d_model": 64, "ffn_dim": 64, "attention_heads": 4, "num_layers": 3}, "showed 0 of 1 layers"),
        ("gemma2", {"sliding_window": 64}, "caps its attention logits"),
        ("mamba", {}, "layers of type linear_attention"),
    ],
)
def test_a_draft_that_cannot_be_read_side_by_side_is_refused_by_name(
    family: str, sizes: dict[str, Any], says: str
) -> None:
    model = tiny_model(family, layers=3, **sizes)
    with pytest.raises(UnsupportedModelError, match=says):
        compress(["One is red. Two is blue."], "Which?", draft=model, tokenizer=tiny_tokenizer(), ratio=0.5)


def test_a_reading_is_cancelled_between_two_batches_of_passages() -> None:
    draft, cancelled = draft_of("llama"), threading.Event()
    documents = [f"Hut {i} is red. Its stove burns oak, and its warden sleeps in the loft. " * 9 for i in range(6)]
    batches = 0

    def count(*_: object) -> None:
        nonlocal batches
        batches += 1
        if batches == 3:  # the instruction, and two passages, each a batch of its own
            cancelled.set()

    hook = draft.model.get_decoder().register_forward_pre_hook(count)
    with pytest.raises(CancelledError):
        compress(documents, "Which is red?", draft=draft, ratio=0.3, cancelled=cancelled)
    assert batches == 3
    cancelled.clear()
    hook.remove()
    assert compress(documents, "Which is red?", draft=draft, ratio=0.3, cancelled=cancelled).text


def test_a_wait_for_the_draft_can_be_cancelled() -> None:
    draft, cancelled, raised = draft_of("llama"), Cancellation(), []

    def ask() -> None:
        with pytest.raises(CancelledError):
            compress(["One is red. Two is blue."], "Which?", draft=draft, ratio=0.5, cancelled=cancelled)
        raised.append(True)

    asking = threading.Thread(target=ask)
    with draft.lock.hold():
        asking.start()
        until_waiting(draft.lock, 2)
        cancelled.set()
        asking.join(20)
        assert raised, "it still waits for the draft"
    assert draft.lock.waiting == 0


def test_what_another_thread_runs_on_the_same_draft_meanwhile_changes_nothing() -> None:
    """As a generation's look-ahead does, which queues on the lock of the target."""
    draft = draft_of("llama")
    texts = [f"Gate {i} opens at {i + 5} o'clock. Keeper {i} holds key {i * 17}." for i in range(3)]

    def asked() -> list[float]:
        found = compress(texts, "Who holds key 17?", draft=draft, ratio=0.5, cascade="never", calibration=None)
        return [unit.importance for document in found.documents for unit in document.units]

    def other() -> None:
        with torch.no_grad():
            draft.model(random_ids(23)[None])

    def meanwhile(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    expected = asked()
    hooks = [layer.register_forward_pre_hook(meanwhile) for layer in draft.model.get_decoder().layers]
    try:
        assert asked() == expected
    finally:
        for hook in hooks:
            hook.remove()
