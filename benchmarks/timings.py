"""What the benchmark measures of time: compression of documents, and generation by prompt length, side by side.

Each method of a row runs in turn in the same process. This module does not know files or pages.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.costs import generated_documents
from benchmarks.decoding_speed import shape_of_360m
from spec_rag.compression.compress import compress
from spec_rag.compression.document_draft import Draft
from spec_rag.compression.encoding_cache import DocumentIndex
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.evaluation.speed import COMPRESSED_SHARE, compress_seconds, joint_prompt
from spec_rag.generation.generate import generate
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.results import Answer
from spec_rag.text.documents import Document
from spec_rag.text.tokenization import text_ids

LENGTHS = (2048, 4096, 8000)
NEW_TOKENS = 32
_DOCUMENT_TOKENS = 400
SHARE = 8  # 1/8 is kept
_QUESTION = "Where was the town founded?"


@dataclass(frozen=True)
class Timed:
    """One method at one size.

    Attributes:
        table: "compression" or "generation".
        size: documents, or tokens of the prompt.
        method: its name.
        figures: numbers by name, with their unit in it.
        code: of the package when it was measured.
    """

    table: str
    size: int
    method: str
    figures: Mapping[str, float] = field(default_factory=dict)
    code: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Timed:
        """Read `to_json` back."""
        return cls(**json.loads(line))


def compression(draft: Draft, questions: Sequence[AnsweredQuestion], embedder: Any, code: str) -> list[Timed]:
    """Seconds of each way of compressing, the median over questions over the same number of documents."""
    taken = [compress_seconds(draft, asked, embedder) for asked in [questions[0], *questions]][1:]  # the first warms up
    size = len(questions[0].documents)
    return [
        Timed("compression", size, name, {"seconds": statistics.median(own[name] for own in taken)}, code)
        for name in taken[0]
    ]


def peer_lines(draft: Draft, asked: Sequence[Sequence[AnsweredQuestion]]) -> list[str]:
    """What a peer is timed on, as lines of JSON: the questions per number of documents, then a prompt per length.

    A peer's runner writes lines of `Timed`. In its figures, `joint_seconds` and `dense_first_token_seconds` are the
    plain model's in the peer's own process, so that its ratio is from one run.
    """
    found: list[dict[str, Any]] = []
    for questions in asked:
        cases = [
            {
                "documents": [f"{d.title}\n{d.text}" if d.title else d.text for d in own.documents],
                "question": own.question,
                "joint_ids": joint_prompt(draft, own),
                "document_tokens": sum(len(text_ids(draft.tokenizer, d.text)) for d in own.documents),
            }
            for own in questions
        ]
        size = len(questions[0].documents)
        found.append({"table": "compression", "size": size, "share": COMPRESSED_SHARE, "questions": cases})
    for tokens in LENGTHS:
        prompt = _prompt([document.text for document in _documents(tokens)], tokens)
        found.append(
            {
                "table": "generation",
                "size": tokens,
                "share": 1 / SHARE,
                "ids": prompt.tolist(),
                "new_tokens": NEW_TOKENS,
                "config": _pair().require_target().config.to_dict(),
            }
        )
    return [json.dumps(line) for line in found]


Generation = Callable[[int], dict[str, float]]


def generations() -> dict[str, Generation]:
    """Ways to answer a prompt of so many tokens, by name; each gives its figures."""
    return {
        "dense": lambda tokens: _generated(tokens),
        "SpecPC": lambda tokens: _generated(tokens, specpc=SpecPCConfig(max_capacity_prompt=tokens // SHARE)),
        "SpecPC, indexed": _from_index,
        "SpecKV": lambda tokens: _generated(tokens, speckv=_speckv(tokens)),
        "SpecKV-PC": lambda tokens: _generated(
            tokens,
            specpc=SpecPCConfig(max_capacity_prompt=2 * tokens // SHARE),
            speckv=_speckv(tokens),
        ),
        "SnapKV": lambda tokens: _generated(
            tokens, speckv=SpecKVConfig(max_capacity_prompt=tokens // SHARE, lookahead="none", preset="paper")
        ),
    }


def _speckv(tokens: int) -> SpecKVConfig:
    return SpecKVConfig(max_capacity_prompt=tokens // SHARE, lookahead_tokens=8, lookahead="draft")


@cache
def _pair() -> ModelPair:
    """The default draft, and a target of the shape of a model of 360M parameters with random weights."""
    from transformers import AutoModelForCausalLM

    loaded = ModelPair.load(DEFAULT_DRAFT)
    torch.manual_seed(0)
    target = AutoModelForCausalLM.from_config(shape_of_360m(), dtype=torch.float32).eval()
    return ModelPair(
        draft=loaded.draft, target=target, tokenizer=loaded.require_tokenizer(), target_name="random weights, 360M"
    )


@cache
def _documents(tokens: int) -> list[Document]:
    """Documents of 400 tokens, the last one shorter, that together have so many tokens."""
    draft = Draft.of(_pair())
    *whole, last = generated_documents(draft, -(-tokens // _DOCUMENT_TOKENS), _DOCUMENT_TOKENS)
    rest = text_ids(draft.tokenizer, last.text)[: tokens - len(whole) * _DOCUMENT_TOKENS]
    return [*whole, replace(last, text=str(draft.tokenizer.decode(rest)))]


def _prompt(documents: Sequence[str], tokens: int | None = None) -> Tensor:
    tokenizer = _pair().require_tokenizer()
    question = text_ids(tokenizer, f"\n\n{_QUESTION}")
    body = text_ids(tokenizer, "\n\n".join(documents))
    return torch.tensor([*(body if tokens is None else body[: tokens - len(question)]), *question])


def _generated(tokens: int, **configs: Any) -> dict[str, float]:
    prompt = _prompt([document.text for document in _documents(tokens)], tokens)
    return _figures(_answered(prompt, **configs), 0.0)


def _answered(prompt: Tensor, **configs: Any) -> Answer:
    return generate(_pair(), prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, **configs)


@cache
def _filled(tokens: int) -> DocumentIndex:
    """An index in which the documents have been read for another question."""
    index = DocumentIndex()
    compress(_documents(tokens), "Who built the mill?", draft=_pair(), index=index, ratio=1 / SHARE)
    return index


def _from_index(tokens: int) -> dict[str, float]:
    """Compression of documents that are in an index, and the target's answer from what is kept."""
    kept = compress(_documents(tokens), _QUESTION, draft=_pair(), index=_filled(tokens), ratio=1 / SHARE)
    return _figures(_answered(_prompt([kept.text])), kept.draft_seconds)


def _figures(answer: Answer, before: float) -> dict[str, float]:
    timings = answer.timings
    config = _pair().require_target().config
    width = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    return {
        "first_token_seconds": before + timings.draft_seconds + timings.prefill_seconds,
        "tokens_per_second": (answer.completion_tokens - 1) / timings.decode_seconds,
        "kv_bytes": answer.kv_bytes_kept or answer.target_prompt_tokens * width,
        "prompt_tokens": answer.prompt_tokens,
    }
