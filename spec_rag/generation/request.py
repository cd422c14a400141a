"""One generation job: the models, the prompts and every setting, validated once and passed whole through all stages.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from spec_rag.errors import ConfigError
from spec_rag.generation.sampling import SamplingConfig
from spec_rag.options.speckv import SpecKVConfig
from spec_rag.options.specpc import SpecPCConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.streamers import BaseStreamer

    from spec_rag.generation.context_cache import ContextCache
    from spec_rag.generation.row_streams import RowStreamer
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.text.prompts import Prompt

Cancelled: TypeAlias = threading.Event | Sequence[threading.Event | None] | None
"""Cancels a generation when set: one event for all rows, one or None for each row, or None."""


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One generation job.

    Attributes:
        pair: the models.
        prompts: text, chat messages or token ids each.
        specpc: selection of prompt tokens, or None.
        speckv: pruning of the target's KV cache, or None.
        sampling: length, constraint and choice of tokens.
        context: the context that precedes the prompts, or None.
        backend: kernel backend ("torch", "triton"); None selects by device.
        cancelled: ends the generation, or the wait for the models, when it is set.
        streamer: receives the tokens while they are generated, or None.
    """

    pair: ModelPair
    prompts: Sequence[Prompt] = ()
    specpc: SpecPCConfig | None = None
    speckv: SpecKVConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    context: ContextCache | None = None
    backend: str | None = None
    cancelled: Cancelled = None
    streamer: BaseStreamer | RowStreamer | None = None

    @classmethod
    def of(
        cls,
        pair: ModelPair,
        prompts: Sequence[Prompt] = (),
        specpc: SpecPCConfig | None = None,
        speckv: SpecKVConfig | None = None,
        max_new_tokens: int = 256,
        **options: Any,
    ) -> GenerationRequest:
        """The request of one call of `generate`.

        Args:
            pair, prompts, specpc, speckv, max_new_tokens: as in `generate_batch`.
            **options: its further keywords.

        Raises:
            ConfigError: an argument is out of range, unknown or of the wrong type, or the pair has no target.
        """
        own = {name: options.pop(name, None) for name in ("context", "backend", "cancelled", "streamer")}
        sampling = SamplingConfig.of(max_new_tokens, options)
        request = cls(pair, prompts, specpc, speckv, sampling, **own).checked()
        pair.require_target()
        return request

    def checked(self) -> GenerationRequest:
        """The request itself, if its arguments have the right types and its context belongs to its target.

        Raises:
            ConfigError: one is wrong; the message names it.
        """
        from spec_rag.generation.context_cache import ContextCache
        from spec_rag.models.model_pair import ModelPair

        ModelPair.check(self.pair)
        if self.context is not None:
            if not isinstance(self.context, ContextCache):
                raise ConfigError(
                    f"context of type {type(self.context).__name__}: give a ContextCache, such as "
                    "ContextCache.read(pair, text)."
                )
            if self.specpc is not None:
                raise ConfigError(
                    "specpc drops tokens of a prompt that is read, but context has been read: leave one out."
                )
            self.context.check(self.pair)
        for name, value, kind in (("specpc", self.specpc, SpecPCConfig), ("speckv", self.speckv, SpecKVConfig)):
            if value is not None and not isinstance(value, kind):
                raise ConfigError(
                    f"{name}={value!r:.80} of type {type(value).__name__}: give a {kind.__name__}, such as "
                    f"{kind.__name__}(max_capacity_prompt=512), or None."
                )
        return self

    @property
    def target(self) -> PreTrainedModel:
        """The target."""
        return self.pair.require_target()

    @property
    def ends(self) -> list[int]:
        """The ids that end an answer."""
        from spec_rag.generation.end_tokens import answer_ends

        return answer_ends(self.pair, self.sampling)

    @property
    def context_tokens(self) -> int:
        """Tokens of the context, 0 without one."""
        return 0 if self.context is None else self.context.tokens

    @property
    def most_written_tokens(self) -> int:
        """Upper bound of the tokens that a model writes after a prompt, as an answer or as a look-ahead."""
        lookaheads = [config.lookahead_tokens for config in (self.specpc, self.speckv) if config is not None]
        return max([self.sampling.max_new_tokens, *(tokens for tokens in lookaheads if tokens)])

    def shares_batch_with(self, other: GenerationRequest) -> bool:
        """Whether prompts of both requests may be answered in one batch: same models and same settings."""
        same_objects = (
            self.pair.target is other.pair.target
            and self.pair.draft is other.pair.draft
            and self.pair.tokenizer is other.pair.tokenizer
            and self.context is other.context
        )
        settings, other_settings = ((r.specpc, r.speckv, repr(r.sampling), r.backend) for r in (self, other))
        return same_objects and settings == other_settings
