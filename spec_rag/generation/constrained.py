"""Constrained decoding: a logits processor that allows only tokens that fit a schema, regular expression or grammar.

llguidance computes the allowed tokens. Near max_new_tokens, tokens after which the answer could no longer be completed
are forbidden, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from spec_rag.errors import ConfigError
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.structured_output import Constraint, llguidance
from spec_rag.utils.forking import new_lock
from spec_rag.utils.object_state import state_of

_TRIED_TOKENS = 8  # near the limit, candidates that are tried for a completion
_TIGHT_TOKENS = 16
_ROUTE_TOKENS = 2048  # longest completion that is searched for
_INSIDE_TEXT = ('"', ".", " ", "a", "0", "/", "-", ":")
_BRACKETS = ("}", "]")
_SEPARATORS = (",", ":")
_STRUCTURE = ("}", "]", "{", "[", '"', *_SEPARATORS)
_BETWEEN = ("}", "]", '"', ",", "0", "n", "1", "f", "t", "-", "[", "{", " ")  # a comma ends a number, a digit does not

_creation_lock = new_lock()


class Vocabulary:
    """A tokenizer's vocabulary for llguidance.

    Args:
        tokenizer: a fast tokenizer.
        size: columns of the logits.
        ends: the tokens that end an answer; at least one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, ends: Sequence[int]) -> None:
        from llguidance import hf

        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"schema or regex: the tokens of {type(tokenizer).__name__} cannot be read, since it is no fast "
                "tokenizer: load the target with a tokenizer.json."
            )
        known = max(size, len(tokenizer))
        if unknown := [end for end in ends if end >= known]:
            raise ConfigError(
                f"eos_token_id={unknown[0] if len(unknown) == 1 else unknown}: schema or regex needs end tokens of the "
                f"vocabulary, which has {known}: give ids below {known}."
            )
        self.tokens = hf.from_tokenizer(tokenizer, n_vocab=known, eos_token=list(ends))
        self.size = size
        self.drops_first_space = _drops_first_space(tokenizer)
        self.ends = list(ends)
        self.inside_text = self._single(_INSIDE_TEXT)
        self.between = self._single(_BETWEEN)
        # if both are allowed next, the position is inside a string, where brackets are ordinary characters
        self.brackets = self._single(_BRACKETS)
        self.structure = frozenset(self._single(_STRUCTURE))
        self.separators = frozenset(self._single(_SEPARATORS))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int, ends: Sequence[int]) -> Vocabulary:
        """The vocabulary of a tokenizer, created once."""
        if not ends:
            raise ConfigError("schema or regex: the target names no end token, so an answer could not end where it is "
                              "complete: give eos_token_id.")  # fmt: skip
        vocabularies = state_of(tokenizer, _Vocabularies)
        key = (size, len(tokenizer), *ends)
        with _creation_lock:
            if key not in vocabularies:
                vocabularies[key] = cls(tokenizer, size, ends)
            return vocabularies[key]

    def _single(self, texts: Sequence[str]) -> list[int]:
        ids = [self.tokens.greedy_tokenize(text) for text in texts]
        return [one[0] for one in ids if len(one) == 1]


def _drops_first_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding drops a leading space, as with sentencepiece."""
    space = tokenizer.convert_tokens_to_ids("\u2581")
    return isinstance(space, int) and space != tokenizer.unk_token_id and tokenizer.decode([space]) == ""


class _Vocabularies(dict[tuple[int, ...], Vocabulary]):
    """The vocabularies of one tokenizer, by logits columns, tokens and end tokens."""


class ConstrainedLogits(LogitsProcessor):  # type: ignore[misc]
    """Forbids tokens that violate the constraint, and near the limit those after which it cannot be completed.

    Args:
        constraint: the constraint of every row.
        vocabulary: the target's.
        prompt_tokens: columns of the prompt, padding included.
        max_new_tokens: tokens of an answer; its end token need not fit.
        greedy: whether the most probable token is chosen; otherwise several must be completable near the limit.
        beams: rows per prompt. If fewer tokens are allowed than there are beams, the other beams continue with tokens
            of probability 0 and never become the answer.

    Attributes:
        steered: rows in which the limit changed a choice.

    Raises:
        ConfigError: the constraint does not work with this vocabulary, or the shortest answer exceeds the limit.
    """

    def __init__(
        self,
        constraint: Constraint,
        vocabulary: Vocabulary,
        prompt_tokens: int,
        max_new_tokens: int,
        greedy: bool,
        beams: int = 1,
    ) -> None:
        self.vocabulary = vocabulary
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.greedy = greedy
        self.beams = beams
        self.steered: set[int] = set()
        grammar = constraint.grammar_behind_space if vocabulary.drops_first_space else constraint.grammar
        self._start = llguidance().LLMatcher(vocabulary.tokens, grammar, log_level=0)
        if self._start.is_error():
            raise ConfigError(f"{constraint.kind}={constraint.text!r:.200}: {_first_line(self._start)}")
        shortest = route_to_end(self._start, vocabulary)
        # upper bound of what one token may add to a completion: an optional object has its names in the text
        self._jump_tokens = len(vocabulary.tokens.greedy_tokenize(constraint.text))
        if shortest is not None and len(shortest) > max_new_tokens:
            raise ConfigError(
                f"max_new_tokens={max_new_tokens}: an answer of this form takes about {len(shortest)} tokens at least. "
                "Raise max_new_tokens."
            )
        self._rows: list[_Row] = []

    @classmethod
    def of(cls, request: GenerationRequest, prompt_tokens: int, ends: Sequence[int]) -> ConstrainedLogits | None:
        """The processor for a request's constraint, or None without one.

        Args:
            request: the job.
            prompt_tokens: columns of the prompts, padding included.
            ends: the tokens that end an answer.
        """
        sampling = request.sampling
        if sampling.constraint is None:
            return None
        width = request.target.config.get_text_config(decoder=True).vocab_size
        vocabulary = Vocabulary.of(request.pair.require_tokenizer(), width, ends)
        greedy = not sampling.options["do_sample"] and sampling.beams == 1
        return cls(sampling.constraint, vocabulary, prompt_tokens, sampling.max_new_tokens, greedy, sampling.beams)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [rows, vocabulary], with -inf for forbidden tokens."""
        written = input_ids[:, self.prompt_tokens :].tolist()
        while len(self._rows) < len(written):
            self._rows.append(_Row(self._start.deep_copy()))
        masked = scores.clone()
        for i, ids in enumerate(written):
            self._mask(i, ids, masked[i])
        return masked

    def _mask(self, row: int, ids: list[int], scores: Tensor) -> None:
        """Mask one row's scores in place."""
        if any(token in self.vocabulary.ends for token in ids[-1:]):
            return  # the answer is complete; what follows is padding
        state = self._rows[row]
        if not state.follow(ids):
            if self.beams > 1:
                return
            raise ConfigError(
                "Another option of the generation forced a token that schema or regex does not allow: leave it out."
            )
        allowed = allowed_tokens(state.matcher, self.vocabulary.size).to(scores.device)
        scores.masked_fill_(~allowed, -math.inf)
        if bool(scores.isneginf().all()):  # another processor forbids all allowed tokens, such as the end token
            scores[allowed] = 0.0
        left = self.max_new_tokens - len(ids)
        if left > state.check_at:
            return
        self._keep_safe(row, state, scores, left)

    def check_beams(self, answers: Sequence[Tensor]) -> None:
        """Refuse answers that violate the constraint because no beam could follow it.

        Args:
            answers: int64 [tokens] each, the best beam of each prompt.

        Raises:
            ConfigError: another option forced a token on every beam.
        """
        for answer in answers:
            ids = list(takewhile(lambda token: token not in self.vocabulary.ends, answer.tolist()))
            if not _Row(self._start.deep_copy()).follow(ids):
                raise ConfigError(
                    f"num_beams={self.beams}: no beam could follow schema or regex, since another option of the "
                    "generation forced other tokens: leave that option out, or set num_beams=1."
                )

    def _keep_safe(self, row: int, state: _Row, scores: Tensor, left: int) -> None:
        """Forbid tokens after which the answer cannot be completed within `left` tokens.

        Finding a completion is expensive, so it is not done at each step: `check_at` is the number of remaining tokens
        at which it is due again. It leaves room for what single tokens may add until then (`_jump_tokens`).
        """
        best = scores.topk(min(_TRIED_TOKENS, scores.numel()))
        inside = not bool(scores[self.vocabulary.brackets].isneginf().any())
        tried = [int(token) for score, token in zip(*best, strict=True) if score > -math.inf]
        known = state.routes.get(state.ids[-1]) if state.ids and left == state.checked_at - 1 else None
        routes: dict[int, list[int]] = {}
        for token in tried:
            route = self._behind(state.matcher, token)
            if route is None and left > self._jump_tokens + _TIGHT_TOKENS:
                return  # no completion is known, but there is room to find one later
            if route is not None and len(route) < left:
                routes[token] = route
                if self.greedy or (inside and left - len(route) > _TIGHT_TOKENS):
                    break
        if not routes:
            route = known if known is not None else route_to_end(state.matcher, self.vocabulary)
            if route is None or len(route) > left:
                return  # no completion is known: the choice is the model's
            routes = {route[0]: route[1:]} if route else {end: [] for end in self.vocabulary.ends}
        if tried[:1] != list(routes)[:1]:
            self.steered.add(row)
        slack = left - 1 - max(map(len, routes.values()))
        state.routes, state.checked_at = routes, left
        state.check_at = left - 1 - max(0, slack - self._jump_tokens) // 8
        if slack > _TIGHT_TOKENS and list(routes) == tried[:1] and (self.greedy or inside):
            return
        kept = torch.full_like(scores, -math.inf)
        tokens = list(routes)
        kept[tokens] = torch.where(scores[tokens].isneginf(), 0.0, scores[tokens])
        scores.copy_(kept)

    def _behind(self, matcher: Any, token: int) -> list[int] | None:
        if token in self.vocabulary.ends:
            return []
        ahead = matcher.deep_copy()
        return route_to_end(ahead, self.vocabulary) if ahead.consume_token(token) else None


class _Row:
    """State of one row."""

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher
        self.ids: list[int] = []
        self.check_at: float = math.inf  # remaining tokens at which the next check is due
        self.checked_at = 0
        self.routes: dict[int, list[int]] = {}  # completion after each token that the last check allowed

    def follow(self, ids: list[int]) -> bool:
        """Advance, or roll back after a rejected beam or proposal, to these tokens; returns whether they are valid."""
        same = next((i for i, (a, b) in enumerate(zip(self.ids, ids, strict=False)) if a != b), len(self.ids))
        same = min(same, len(ids))
        if same < len(self.ids):
            self.matcher.rollback(len(self.ids) - same)
            self.check_at, self.routes = math.inf, {}
        self.ids = ids[:same]
        # validated first: a matcher that has refused a token cannot be used any more
        if self.matcher.validate_tokens(ids[same:]) < len(ids) - same:
            return False
        self.matcher.consume_tokens(ids[same:])
        self.ids = list(ids)
        return True


def allowed_tokens(matcher: Any, size: int) -> Tensor:
    """bool [size]: the tokens that are allowed next."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    allowed = torch.zeros(size, dtype=torch.bool)
    known = min(size, len(bits))
    allowed[:known] = torch.from_numpy(bits[:known].astype(bool))
    return allowed


def route_to_end(matcher: Any, vocabulary: Vocabulary) -> list[int] | None:
    """Tokens that complete an answer, few but not always the fewest; None if no completion was found.

    Closes open strings, objects and arrays, and takes the first fitting value where one is missing.
    """
    ahead = matcher.deep_copy()
    route: list[int] = []
    while not ahead.is_accepting():
        if len(route) > _ROUTE_TOKENS or ahead.is_error():
            return None
        step = ahead.compute_ff_tokens() or [_next_on_route(ahead, vocabulary, route)]
        if not ahead.consume_tokens(step):
            return None
        route += step
    return route


def _next_on_route(matcher: Any, vocabulary: Vocabulary, route: Sequence[int]) -> int:
    """The next token. Within a value, none is repeated while another is allowed: 0*Z would otherwise never end."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    inside = all(bits[token] for token in vocabulary.brackets)
    used = set(takewhile(lambda token: token not in vocabulary.structure, reversed(route)))
    used |= vocabulary.separators & set(route[-1:])
    for token in vocabulary.inside_text if inside else vocabulary.between + vocabulary.inside_text:
        if bits[token] and token not in used:
            return token
    others = np.flatnonzero(bits)
    if not len(others):
        return vocabulary.ends[0]
    others = fresh if len(fresh := np.setdiff1d(others, list(used))) else others
    return int(
        others[max(0, len(route) - 32) * 7919 % len(others)]
    )  # varied, since with always the first (ab)*c would never end


def _first_line(matcher: Any) -> str:
    return str(matcher.get_error()).strip().splitlines()[0]
