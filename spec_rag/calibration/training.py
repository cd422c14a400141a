"""Training of a readout: features of labelled questions, a fit of the weights, and its cross-validation.

The loss compares each needed unit of a question with all units that are not needed. Families of questions have equal
weight. This module does not know files of questions.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_rag.compression.document_draft import Draft, readout_for
from spec_rag.compression.features import CompressionRequest, Features
from spec_rag.compression.passages import split_passages
from spec_rag.compression.prefilter import gather_features
from spec_rag.compression.readout import OUTSIDE, POOLED, QUESTION, TEXT, Readout
from spec_rag.compression.scoring import (
    head_features,
    question_features,
    standardised_heads,
    unit_features,
    unit_scores,
)
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.text.documents import Document
from spec_rag.text.units import unit_spans
from spec_rag.utils.atomic_files import write_whole
from spec_rag.utils.tensor_files import tensors_from_bytes, tensors_to_bytes

BUDGETS = (1 / 4, 1 / 8, 1 / 16)
DEFAULT_L2 = 0.2
_FOLDS = 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class TrainingQuestion:
    """A question with its documents and where the answer is.

    Attributes:
        needed: (document index, start, end) of each needed piece of text; empty if no document answers.
        family: questions of one kind, which are left out together in the cross-validation.
    """

    question: str
    documents: Sequence[Document]
    needed: Sequence[tuple[int, int, int]]
    language: str = "en"
    family: str = "own"


@dataclass(frozen=True)
class TrainingExample:
    """The features of the units of one question.

    Attributes:
        signals: without token attention.
        heads: float32 [2, layers, heads, units].
        needed: bool [units].
        tokens: int64 [units], length of each unit.
        family: as of the question.
    """

    signals: Features
    heads: Tensor
    needed: Tensor
    tokens: Tensor
    family: str


def read_examples(
    draft: Any,
    questions: Sequence[TrainingQuestion],
    folder: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[TrainingExample]:
    """Read the documents of labelled questions with the draft.

    Args:
        draft: as for `compress`.
        questions: labelled questions.
        folder: where features are kept, so that an interrupted run continues; None keeps none.
        tell: called with the number of questions done and in all.
    """
    draft = Draft.of(draft, config=CompressionConfig())
    examples = []
    tell(0, len(questions))
    for done, asked in enumerate(questions, start=1):
        path = None if folder is None else folder / f"{_digest([draft.name, _content(asked)])[:24]}.pt"
        example = _stored(path)
        if example is None:
            example = _read(draft, asked)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                _store(path, example)
        examples.append(example)
        tell(done, len(questions))
    return examples


def _stored(path: Path | None) -> TrainingExample | None:
    """The example of a file; None where there is none, or it is damaged."""
    try:
        tensors, about = tensors_from_bytes(path.read_bytes() if path else b"", "example")
    except (OSError, ValueError):
        return None
    signals = {name.removeprefix("signals."): value for name, value in tensors.items() if name.startswith("signals.")}
    return TrainingExample(
        Features(**signals), tensors["heads"].float(), tensors["needed"], tensors["tokens"], about["family"]
    )


def _store(path: Path, example: TrainingExample) -> None:
    signals = {f"signals.{own.name}": getattr(example.signals, own.name) for own in fields(Features)}
    tensors = {"heads": example.heads, "needed": example.needed, "tokens": example.tokens, **signals}
    given = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    write_whole(path, tensors_to_bytes(given, {"key": "example", "family": example.family}))


def _read(draft: Draft, asked: TrainingQuestion) -> TrainingExample:
    config = CompressionConfig(cascade="never", language=asked.language)
    units = [unit_spans(document.text, "sentence", asked.language) for document in asked.documents]
    passages = split_passages(draft.tokenizer, asked.documents, units)
    signals = gather_features(draft, CompressionRequest(asked.documents, units, passages, asked.question, config))
    return TrainingExample(
        replace(signals, attention=torch.zeros(1, 1, 0)),
        head_features(signals),
        needed_units(asked.needed, units),
        (signals.ranges[:, 1] - signals.ranges[:, 0]).clamp(min=1),
        asked.family,
    )


def needed_units(needed: Sequence[tuple[int, int, int]], units: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """bool [units of all documents]: which overlap a needed piece of text."""
    return torch.tensor(
        [
            any(d == document and a < end and b > start for document, start, end in needed)
            for d, spans in enumerate(units)
            for a, b in spans
        ],
        dtype=torch.bool,
    )


def train(
    examples: Sequence[TrainingExample],
    start: Readout,
    draft: Draft,
    l2: float = DEFAULT_L2,
    columns: Tensor | None = None,
) -> Readout:
    """Fit a readout without probabilities.

    Args:
        examples: those without needed units are left out.
        start: the readout whose layers are read, and whose weights the regularisation draws to. Its weights of
            OUTSIDE, titles and links are kept.
        l2: strength of the regularisation.
        columns: as for `fit_weights`.

    Raises:
        ConfigError: no question has both needed and other units.
    """
    weights = fit_weights(examples, l2, columns, _weights_of(start))
    layers, heads = examples[0].heads.shape[1:3]
    count = layers * heads
    unit, passage = weights[: 2 * count].reshape(2, layers, heads)
    named = dict(zip((*POOLED, *TEXT), _rounded(weights[2 * count :]), strict=True))
    kept = {name: start.weights.get(name, 0.0) for name in (*OUTSIDE, "title", "links")}
    return Readout(
        draft=draft.name,
        layers=draft.total_layers,
        heads=heads,
        first_layer=start.layer_range(draft.total_layers)[0],
        unit=[_rounded(row) for row in unit],
        passage=[_rounded(row) for row in passage],
        weights={**named, **kept},
        prior=start.prior,
        answerable=start.answerable,
    )


def fit_weights(
    examples: Sequence[TrainingExample], l2: float, columns: Tensor | None = None, start: Tensor | None = None
) -> Tensor:
    """float32 [features]: weights of single heads, then of POOLED and TEXT.

    Args:
        columns: bool [features], those that take part; None takes all. The others get 0.
        start: [features], the weights that the regularisation draws to; None is 0.
    """
    usable = [e for e in examples if bool(e.needed.any()) and not bool(e.needed.all())]
    if not usable:
        raise ConfigError("None of the questions has both a unit that is needed and one that is not: give others.")
    matrices = [feature_matrix(e) for e in usable]
    values, rows = torch.cat(matrices), torch.tensor([len(m) for m in matrices])
    owner = torch.repeat_interleave(torch.arange(len(rows)), rows)
    needed = torch.cat([e.needed for e in usable])
    share = family_weights(usable)
    if columns is not None:
        values = values * columns
    center = torch.zeros(values.shape[1]) if start is None else start
    if columns is not None:
        center = center * columns
    weights = center.clone().requires_grad_(True)

    def loss() -> Tensor:
        return listwise_loss(values @ weights, owner, needed, share) + l2 * (weights - center).square().sum()

    _minimise(loss, [weights])
    return weights.detach()


def _weights_of(readout: Readout) -> Tensor | None:
    """The weights of a readout in the order of `feature_matrix`; None where it has no weights of single heads."""
    heads = readout.head_weights()
    if heads is None:
        return None
    return torch.cat([heads.flatten(), torch.tensor([readout.weights.get(name, 0.0) for name in (*POOLED, *TEXT)])])


def feature_matrix(example: TrainingExample) -> Tensor:
    """float32 [units, features]: single heads, POOLED, TEXT, each standardised over the units."""
    named = unit_features(example.signals, example.heads)
    zeros = torch.zeros(len(example.needed))
    rest = torch.stack([named.get(name, zeros) for name in (*POOLED, *TEXT)])
    return torch.cat([standardised_heads(example.heads).flatten(0, 2), rest]).T


def family_weights(examples: Sequence[TrainingExample]) -> Tensor:
    """float32 [examples], sum 1: each family weighs the same."""
    counts = Counter(e.family for e in examples)
    return torch.tensor([1 / counts[e.family] for e in examples]) / len(counts)


def listwise_loss(scores: Tensor, owner: Tensor, needed: Tensor, share: Tensor) -> Tensor:
    """Mean over questions of -log softmax of each needed unit among itself and all units that are not needed.

    Args:
        scores: [units of all questions].
        owner: int64, the question of each unit.
        needed: bool, per unit.
        share: weight of each question.
    """
    count = len(share)
    others = scores.masked_fill(needed, -1e9)
    highest = torch.full((count,), -1e9).scatter_reduce(0, owner, others.detach(), "amax")
    total = torch.zeros(count).index_add(0, owner, (others - highest[owner]).exp() * ~needed)
    behind = F.softplus((total + 1e-30).log()[owner] + highest[owner] - scores) * needed
    per_question = torch.zeros(count).index_add(0, owner, behind)
    return (share * per_question / torch.zeros(count).index_add(0, owner, needed.float())).sum()


def with_probabilities(
    readout: Readout, examples: Sequence[TrainingExample], scores: Sequence[Tensor], l2: float = 0.01
) -> Readout:
    """The readout with probabilities fitted to scores of questions that it was not trained on.

    Args:
        scores: per example, of a readout that was trained without it.
    """
    questions = torch.stack([question_features(e.signals, e.heads, s) for e, s in zip(examples, scores, strict=True)])
    rows = torch.tensor([len(s) for s in scores])
    owner = torch.repeat_interleave(torch.arange(len(rows)), rows)
    below = torch.cat([s - s.max() for s in scores])
    needed = torch.cat([e.needed for e in examples])
    mean, deviation = questions.mean(0), questions.std(0, correction=0) + 1e-3
    standard = (questions - mean) / deviation
    share = family_weights(examples)
    answer, unit = (
        torch.zeros(len(QUESTION) + 1, requires_grad=True),
        torch.zeros(len(QUESTION) + 2, requires_grad=True),
    )
    any_needed = torch.stack([e.needed.any() for e in examples]).float()
    # other families would teach that their form, not their documents, makes questions answerable
    lacking = {e.family for e in examples if not bool(e.needed.any())}
    of_both = share * torch.tensor([e.family in lacking for e in examples])
    of_documents = standard.clone()
    of_documents[:, QUESTION.index("units")] = 0.0

    def loss_of_answerable() -> Tensor:
        logits = of_documents @ answer[1:] + answer[0]
        own = F.binary_cross_entropy_with_logits(logits, any_needed, reduction="none")
        return (of_both * own).sum() / of_both.sum() + l2 * answer[1:].square().sum()

    def loss_of_units() -> Tensor:
        logits = (standard @ unit[2:] + unit[0])[owner] + unit[1] * below
        own = F.binary_cross_entropy_with_logits(logits, needed.float(), reduction="none")
        return (share[owner] * own).sum() + l2 * unit[2:].square().sum()

    if bool(any_needed.min() < 1):
        _minimise(loss_of_answerable, [answer])
    _minimise(loss_of_units, [unit])

    def named(weights: Tensor, bias: Tensor) -> dict[str, float]:
        scaled = weights.detach() / deviation
        return {
            "bias": round(float(bias.detach() - (scaled * mean).sum()), 4),
            **dict(zip(QUESTION, _rounded(scaled), strict=True)),
        }

    learned = named(answer[1:], answer[0]) if bool(any_needed.min() < 1) else None
    return replace(
        readout,
        answerable=learned or readout.answerable or {"bias": 4.0},  # without unanswerable questions nothing is learned
        probability={**named(unit[2:], unit[0]), "slope": round(max(float(unit[1].detach()), 0.01), 4)},
    )


def cross_validated(
    examples: Sequence[TrainingExample],
    start: Readout,
    draft: Draft,
    l2: float = DEFAULT_L2,
    seed: int = 0,
    columns: Tensor | None = None,
) -> list[Tensor]:
    """Scores of each question by a readout that was trained without its family, or without its fold of one family."""
    folds = _folds(examples, seed)
    scores: list[Tensor] = [torch.zeros(0)] * len(examples)
    for fold in sorted(set(folds)):
        readout = train([e for e, own in zip(examples, folds, strict=True) if own != fold], start, draft, l2, columns)
        for i, example in enumerate(examples):
            if folds[i] == fold:
                scores[i] = unit_scores(example.signals, readout, example.heads)
    return scores


def _folds(examples: Sequence[TrainingExample], seed: int) -> list[Any]:
    families = {e.family for e in examples if bool(e.needed.any())}
    if len(families) > 2:
        return [e.family for e in examples]
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    folds = [0] * len(examples)
    for place, i in enumerate(order):
        folds[i] = place % _FOLDS
    return folds


def needed_kept(example: TrainingExample, scores: Tensor) -> Tensor:
    """float64 [BUDGETS]: share of the needed units that fit, taken by falling score."""
    found = []
    for share in BUDGETS:
        room = int(share * int(example.tokens.sum()))
        kept = 0
        for i in scores.argsort(descending=True, stable=True).tolist():
            if int(example.tokens[i]) <= room:
                room -= int(example.tokens[i])
                kept += int(example.needed[i])
        found.append(kept / int(example.needed.sum()))
    return torch.tensor(found, dtype=torch.float64)


def compared(
    examples: Sequence[TrainingExample], before: Sequence[Tensor], after: Sequence[Tensor], seed: int = 0
) -> dict[str, Any]:
    """What two scorings keep of the needed units, by budget, and the difference with its 95% bootstrap interval."""
    places = [i for i, e in enumerate(examples) if bool(e.needed.any())]
    kept = torch.stack(
        [torch.stack([needed_kept(examples[i], scores[i]) for i in places]) for scores in (before, after)]
    )
    weights = family_weights([examples[i] for i in places]).double()
    old, new = (weights[:, None] * kept).sum(1)
    gain = kept[1].mean(1) - kept[0].mean(1)
    picks = torch.multinomial(weights, _RESAMPLES * len(gain), True, generator=torch.Generator().manual_seed(seed))
    means = gain[picks].reshape(_RESAMPLES, -1).mean(1).sort().values
    return {
        "questions": len(places),
        "budgets": [f"1/{round(1 / share)}" for share in BUDGETS],
        "before": _rounded(old),
        "after": _rounded(new),
        "gain": round(float((weights * gain).sum()), 4),
        "interval": [round(float(means[int(q * _RESAMPLES)]), 4) for q in (0.025, 0.975)],
    }


def calibrate(
    draft: Any,
    questions: Sequence[TrainingQuestion],
    *,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    folder: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Readout:
    """Train a readout for a draft, with the report of its cross-validation against the readout in use.

    Args:
        draft: as for `compress`.
        questions: labelled questions.
        seed: of folds and intervals.
        l2: strength of the regularisation.
        folder, tell: as for `read_examples`.

    Raises:
        ConfigError: there are fewer than ten questions, or none has needed and other units.
    """
    if len(questions) < 2 * _FOLDS:
        raise ConfigError(f"{len(questions)} questions are too few to calibrate with: give at least {2 * _FOLDS}.")
    config = CompressionConfig()
    draft = Draft.of(draft, config=config)
    start = readout_for(draft, config)
    examples = read_examples(draft, questions, folder, tell)
    after = cross_validated(examples, start, draft, l2, seed)
    before = [unit_scores(e.signals, start, e.heads) for e in examples]
    found = with_probabilities(train(examples, start, draft, l2), examples, after)
    return replace(
        found,
        training={
            "questions": len(questions),
            "families": dict(Counter(asked.family for asked in questions)),
            "sha256": _digest([_content(asked) for asked in questions]),
            "seed": seed,
            "l2": l2,
        },
        report=compared(examples, before, after, seed),
    )


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def _content(asked: TrainingQuestion) -> list[Any]:
    documents = [[document.title, document.text] for document in asked.documents]
    return [asked.question, documents, [list(place) for place in asked.needed], asked.language, asked.family]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8")).hexdigest()
