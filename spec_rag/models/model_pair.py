"""A draft and a target with their tokenizers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.errors import ConfigError, IncompatibleModelsError, PromptTooLongError
from spec_rag.models.bundled_draft import TOKENIZER_PROBE
from spec_rag.models.loading import LoadedModel, load_model, model_name
from spec_rag.models.model_config import context_tokens
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions
from spec_rag.text.tokenization import template_ids
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.object_state import state_of

logger = logging.getLogger(__name__)


def same_vocabulary(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether both tokenizers have the same vocabulary and split text alike."""
    return first is second or (
        first.get_vocab() == second.get_vocab()
        and template_ids(first, TOKENIZER_PROBE) == template_ids(second, TOKENIZER_PROBE)
    )


@dataclass(eq=False)
class ModelPair:
    """A draft and a target with their tokenizers, sharing the target's lock.

    Copies share the weights. Models loaded by name are pickled as names and loaded again on unpickling; models given as
    objects are pickled with their weights.

    Args:
        draft: the small model, or None if only the target's own attention is used.
        target: the large model, or None if only documents are compressed.
        tokenizer: the target's tokenizer; None is enough for token ids.
        draft_tokenizer: the draft's tokenizer, if it differs from the target's.
        draft_name: requested name of the draft.
        target_name: requested name of the target.
    """

    draft: PreTrainedModel | None = None
    target: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    draft_tokenizer: PreTrainedTokenizerBase | None = None
    draft_name: str = ""
    target_name: str = ""
    _loaded_draft: LoadedModel | None = field(default=None, repr=False)
    _loaded_target: LoadedModel | None = field(default=None, repr=False)
    _shares_tokens: bool | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls,
        draft: str | Path | PreTrainedModel | None = DEFAULT_DRAFT,
        target: str | Path | PreTrainedModel | None = DEFAULT_DRAFT,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        draft_options: LoadOptions | Mapping[str, Any] | None = None,
        target_options: LoadOptions | Mapping[str, Any] | None = None,
    ) -> ModelPair:
        """Load both models; the same name with the same options shares one set of weights.

        Different tokenizers are logged as a warning: SpecKV then uses the target for the look-ahead.

        Args:
            draft: hub id, folder, GGUF file, or a loaded model; None leaves it out.
            target: the same for the target.
            tokenizer: the target's; None takes the one saved with its weights.
            draft_options: LoadOptions of the draft, or a dict of its fields.
            target_options: the same for the target.

        Raises:
            ModelNotFoundError: a model is not found.
            ConfigError: neither draft nor target is given.
        """
        if draft is None and target is None:
            raise ConfigError("draft=None and target=None: give at least one model.")
        loaded_draft = load_model(draft, draft_options) if draft is not None else None
        loaded_target = load_model(target, target_options) if target is not None else None
        pair = cls(
            draft=loaded_draft.model if loaded_draft else None,
            target=loaded_target.model if loaded_target else None,
            tokenizer=tokenizer or (loaded_target.tokenizer if loaded_target else None),
            draft_tokenizer=loaded_draft.tokenizer if loaded_draft else None,
            draft_name=loaded_draft.name if loaded_draft else "",
            target_name=loaded_target.name if loaded_target else "",
            _loaded_draft=loaded_draft,
            _loaded_target=loaded_target,
        )
        if not pair.shares_tokens:
            logger.warning(
                "draft=%r and target=%r have different tokenizers. Documents are compressed as text, which works; "
                "SpecKV looks ahead with the target itself; SpecPC inside generate() is refused.",
                pair.draft_name,
                pair.target_name,
            )
        return pair

    @classmethod
    def of_settings(
        cls,
        draft: str | None,
        target: str,
        draft_options: LoadOptions | Mapping[str, Any] | None,
        target_options: LoadOptions | Mapping[str, Any],
        *,
        same_tokens: bool,
    ) -> ModelPair:
        """Load the models named in an application's settings.

        Args:
            draft: hub id, folder or GGUF file; None leaves it out.
            target: the same for the target.
            draft_options: None is target_options if both models have the same name, else the defaults.
            target_options: LoadOptions of the target.
            same_tokens: refuse a draft with another tokenizer.

        Raises:
            ModelNotFoundError: a model is not found.
            IncompatibleModelsError: the tokenizers differ, and same_tokens is set.
        """
        pair = cls.load(
            draft,
            target,
            draft_options=LoadOptions.of_draft(draft, draft_options, target, target_options),
            target_options=target_options,
        )
        if same_tokens:
            pair.check_same_tokens()
        return pair

    @staticmethod
    def check(given: Any) -> ModelPair:
        """Return the argument if it is a ModelPair.

        Raises:
            ConfigError: it is not; the message says how to make a pair of it.
        """
        if isinstance(given, ModelPair):
            return given
        kind = type(given).__name__
        way_out = "give a pair of models: ModelPair.load(draft=..., target=...)."
        if isinstance(given, str | Path | PreTrainedModel | LoadedModel):
            what = repr(str(given)) if isinstance(given, str | Path) else "model"
            way_out = f"put it into a pair: ModelPair.load(target={what}), with draft=None if there is no draft."
        raise ConfigError(f"pair={given!r:.60} of type {kind}: {way_out}")

    def name_of(self, role: Literal["draft", "target"]) -> str | None:
        """Requested name of a model, else its own name; None if the pair lacks the model."""
        given, model = (self.draft_name, self.draft) if role == "draft" else (self.target_name, self.target)
        return None if model is None else given or model_name(model)

    def loaded_draft(self) -> LoadedModel:
        """The draft with its tokenizer, for reading documents.

        Raises:
            ConfigError: the pair has no draft.
        """
        if self._loaded_draft is None:
            self._loaded_draft = LoadedModel(
                self.require_draft("compression"), self.draft_tokenizer or self.tokenizer, self.draft_name or "draft"
            )
        return self._loaded_draft

    @property
    def lock(self) -> FairLock:
        """The lock of the target (else of the draft), shared by every pair of the same target."""
        return state_of(self.target if self.target is not None else self.draft, FairLock)

    @property
    def shares_tokens(self) -> bool:
        """Whether both models have the same tokenizer; computed once."""
        if self._shares_tokens is None:
            one_model = self.draft is None or self.target is None or self.draft is self.target
            # with at most one tokenizer, the caller is responsible that the ids fit both models
            one_tokenizer = self.tokenizer is None or self.draft_tokenizer is None
            self._shares_tokens = one_model or one_tokenizer or self._same_vocabulary()
        return self._shares_tokens

    def _same_vocabulary(self) -> bool:
        assert self.tokenizer is not None
        assert self.draft_tokenizer is not None
        return same_vocabulary(self.tokenizer, self.draft_tokenizer)

    def require_target(self) -> PreTrainedModel:
        """Return the target.

        Raises:
            ConfigError: the pair has no target.
        """
        if self.target is None:
            raise ConfigError("target=None: generation needs a target. Load the pair with target='...'.")
        return self.target

    def require_draft(self, purpose: str) -> PreTrainedModel:
        """Return the draft.

        Raises:
            ConfigError: the pair has no draft; the message names the purpose.
        """
        if self.draft is None:
            raise ConfigError(f"draft=None: {purpose} needs a draft. Load the pair with draft='...'.")
        return self.draft

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the target's tokenizer, else the draft's.

        Raises:
            ConfigError: the pair has no tokenizer.
        """
        tokenizer = self.tokenizer or self.draft_tokenizer
        if tokenizer is None:
            raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
        return tokenizer

    def check_same_tokens(self) -> None:
        """Refuse a pair with different tokenizers.

        Raises:
            IncompatibleModelsError: the tokenizers differ.
        """
        if not self.shares_tokens:
            raise IncompatibleModelsError(
                f"draft={self.draft_name!r} and target={self.target_name!r} have different tokenizers: the draft's "
                "look-ahead and token importance would mean nothing to the target. Take a draft of the target's "
                "family, set SpecKVConfig(lookahead='target') or 'none', or compress the documents as text with "
                "compress() / SpecPCCompressor, which work with any target."
            )

    @staticmethod
    def check_context(model: PreTrainedModel, tokens: int, role: str, way_out: str) -> None:
        """Refuse a prompt that is longer than the model's maximum context.

        Raises:
            PromptTooLongError: names both lengths and the way out.
        """
        limit = context_tokens(model.config)
        if limit and tokens > limit:
            raise PromptTooLongError(f"The prompt needs {tokens} tokens, but the {role} takes {limit}: {way_out}")

    def __copy__(self) -> ModelPair:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelPair:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        draft, target = self._portable(self._loaded_draft, self.draft), self._portable(self._loaded_target, self.target)
        own = target.tokenizer if isinstance(target, LoadedModel) else None
        rest = (None if self.tokenizer is own else self.tokenizer, self.draft_tokenizer)
        if isinstance(draft, LoadedModel):
            rest = (rest[0], None)
        return _pair_again, (draft, target, *rest, self.draft_name, self.target_name)

    @staticmethod
    def _portable(loaded: LoadedModel | None, model: PreTrainedModel | None) -> LoadedModel | PreTrainedModel | None:
        return loaded if loaded is not None and loaded.options is not None else model


def _pair_again(
    draft: LoadedModel | PreTrainedModel | None,
    target: LoadedModel | PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    draft_tokenizer: PreTrainedTokenizerBase | None,
    draft_name: str,
    target_name: str,
) -> ModelPair:
    by_name = [one if isinstance(one, LoadedModel) else None for one in (draft, target)]
    return ModelPair(
        draft=draft.model if isinstance(draft, LoadedModel) else draft,
        target=target.model if isinstance(target, LoadedModel) else target,
        tokenizer=tokenizer or (by_name[1].tokenizer if by_name[1] else None),
        draft_tokenizer=draft_tokenizer or (by_name[0].tokenizer if by_name[0] else None),
        draft_name=draft_name,
        target_name=target_name,
        _loaded_draft=by_name[0],
        _loaded_target=by_name[1],
    )
