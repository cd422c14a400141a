"""Where draft, target and tokenizer come from: a hub id, a folder, a GGUF file, or objects already loaded.

Models loaded by the same name and options are shared by everyone in the process. This module knows checkpoints and
devices; it does not know prompts or attention.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.bundled_draft import DEFAULT_DRAFT as DEFAULT_DRAFT
from spec_rag.bundled_draft import TOKENIZER_PROBE, name_end_of_turn
from spec_rag.calibration import layer_range
from spec_rag.checkpoints import LoadOptions as LoadOptions
from spec_rag.checkpoints import decoder_layers, keep_first_layers, locate
from spec_rag.errors import ConfigError, IncompatibleModelsError, ModelNotFoundError, PromptTooLongError
from spec_rag.fair_lock import FairLock


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, its tokenizer (None for token ids alone), and the name it was asked for by.

    `readers` holds what has been prepared for reading documents with it, for as long as the model is loaded.
    `checkpoint_layers` is how many layers the checkpoint has, where only the first of them were loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    readers: dict[Any, Any] = field(default_factory=dict, repr=False)
    checkpoint_layers: int | None = None

    @property
    def lock(self) -> FairLock:
        """The lock that every use of this model queues on."""
        return FairLock.of(self.model)

    @property
    def loaded_layers(self) -> int:
        """Decoder layers that are in memory."""
        return decoder_layers(self.model.config)

    @property
    def total_layers(self) -> int:
        """Decoder layers of the whole model."""
        return self.checkpoint_layers or self.loaded_layers

    @property
    def context_tokens(self) -> int | None:
        """The most tokens the model was made for, or None if its config does not say."""
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(limit) if limit else None


_loaded: dict[tuple[str, str, bool], LoadedModel] = {}
_loading = threading.RLock()


def load_model(
    name: str | Path | PreTrainedModel, options: LoadOptions | None = None, *, scoring_only: bool = False
) -> LoadedModel:
    """Load a model and its tokenizer, or return the ones already loaded by the same name and options.

    Args:
        name: hub id, folder of a checkpoint, path of a GGUF file, or a loaded model.
        options: how to load it.
        scoring_only: leave out the layers above the last one whose attention counts. Such a model scores documents
            and does nothing else; a whole one that is already loaded is taken instead.

    Raises:
        ModelNotFoundError: nothing is found under that name, or the hub cannot be reached.
    """
    options = options or LoadOptions()
    if isinstance(name, torch.nn.Module):
        return LoadedModel(name, None, str(getattr(name, "name_or_path", "") or type(name).__name__))
    whole, shallow = (str(name), repr(options), False), (str(name), repr(options), True)
    with _loading:
        found = _loaded.get(whole) or (_loaded.get(shallow) if scoring_only else None)
        if found is None:
            with _quiet_transformers():
                found = _load(str(name), options, scoring_only)
            _loaded[shallow if scoring_only else whole] = found
            if not scoring_only:
                _loaded.pop(shallow, None)  # from now on the whole one serves both
        return found


def unload_models() -> None:
    """Forget the shared models; their memory is freed when nobody else holds them."""
    with _loading:
        _loaded.clear()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, and no list of the weights that were left out on purpose."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _load(name: str, options: LoadOptions, scoring_only: bool) -> LoadedModel:
    source, where = locate(name, options)
    arguments = {**where, **options.from_pretrained_arguments()}
    total = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_only(where, "gguf_file", "revision", "local_files_only"))
        if scoring_only:
            config = AutoConfig.from_pretrained(source, **where, **_only(arguments, "trust_remote_code"))
            total = decoder_layers(config)
            keep_first_layers(config, layer_range(total)[1])
            arguments["config"] = config
        model = AutoModelForCausalLM.from_pretrained(source, **arguments)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"Model {name!r} cannot be loaded from {source!r}: {_first_line(error)} Give a hub id that exists (and a "
            "network or a filled Hugging Face cache), a folder with config.json and weights, or a .gguf file."
        ) from error
    if options.device_map is None:
        model = model.to(options.resolved_device())
    name_end_of_turn(model, tokenizer)
    return LoadedModel(model.eval(), tokenizer, name, checkpoint_layers=total)


def _only(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names if name in arguments}


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def same_vocabulary(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether both tokenizers give the same ids, so that one model's tokens are the other's."""
    return first is second or (
        first.get_vocab() == second.get_vocab()
        and first(TOKENIZER_PROBE, add_special_tokens=False)["input_ids"]
        == second(TOKENIZER_PROBE, add_special_tokens=False)["input_ids"]
    )


@dataclass(eq=False)
class ModelPair:
    """A draft and a target, the tokenizer of the target, and the lock under which they run.

    Args:
        draft: the small model, or None where only the target's own attention is used.
        target: the large model, or None where only documents are compressed.
        tokenizer: the target's tokenizer; None serves for token ids alone.
        draft_tokenizer: the draft's, where it differs from the target's.
        draft_name, target_name: how they were asked for.
    """

    draft: PreTrainedModel | None = None
    target: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    draft_tokenizer: PreTrainedTokenizerBase | None = None
    draft_name: str = ""
    target_name: str = ""
    _kept_alive: tuple[LoadedModel, ...] = field(default=(), repr=False)
    _loaded_draft: LoadedModel | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls,
        draft: str | Path | PreTrainedModel | None = DEFAULT_DRAFT,
        target: str | Path | PreTrainedModel | None = DEFAULT_DRAFT,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        draft_options: LoadOptions | None = None,
        target_options: LoadOptions | None = None,
    ) -> ModelPair:
        """Load both models; the same name with the same options gives one set of weights.

        Raises:
            ModelNotFoundError: a model is not found.
            ConfigError: neither draft nor target is given.
        """
        if draft is None and target is None:
            raise ConfigError("draft=None and target=None: give at least one model.")
        loaded_draft = load_model(draft, draft_options) if draft is not None else None
        loaded_target = load_model(target, target_options) if target is not None else None
        return cls(
            draft=loaded_draft.model if loaded_draft else None,
            target=loaded_target.model if loaded_target else None,
            tokenizer=tokenizer or (loaded_target.tokenizer if loaded_target else None),
            draft_tokenizer=loaded_draft.tokenizer if loaded_draft else None,
            draft_name=loaded_draft.name if loaded_draft else "",
            target_name=loaded_target.name if loaded_target else "",
            _kept_alive=tuple(loaded for loaded in (loaded_draft, loaded_target) if loaded),
            _loaded_draft=loaded_draft,
        )

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
        """The lock that requests on these models queue on, shared by every pair of the same target."""
        return FairLock.of(self.target if self.target is not None else self.draft)

    def require_target(self) -> PreTrainedModel:
        if self.target is None:
            raise ConfigError("target=None: generation needs a target. Load the pair with target='...'.")
        return self.target

    def require_draft(self, purpose: str) -> PreTrainedModel:
        if self.draft is None:
            raise ConfigError(f"draft=None: {purpose} needs a draft. Load the pair with draft='...'.")
        return self.draft

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = self.tokenizer or self.draft_tokenizer
        if tokenizer is None:
            raise ConfigError("tokenizer=None serves for token ids alone: give the pair a tokenizer to work on text.")
        return tokenizer

    def check_same_tokens(self) -> None:
        """Refuse a pair whose draft writes other tokens than the target reads.

        Raises:
            IncompatibleModelsError: the tokenizers differ.
        """
        if self.draft is None or self.target is None or self.draft is self.target:
            return
        if self.tokenizer is None or self.draft_tokenizer is None:
            return  # one tokenizer, or none: the caller says that the ids fit both
        differ = not same_vocabulary(self.tokenizer, self.draft_tokenizer)
        if differ:
            raise IncompatibleModelsError(
                f"draft={self.draft_name!r} and target={self.target_name!r} have different tokenizers: the draft's "
                "look-ahead and token importance would mean nothing to the target. Take a draft of the target's "
                "family, set SpecKVConfig(lookahead='target') or 'none', or compress the documents as text with "
                "compress() / SpecPCCompressor, which work with any target."
            )

    @staticmethod
    def check_context(model: PreTrainedModel, tokens: int, role: str, way_out: str) -> None:
        """Refuse a prompt that is longer than the model was made for.

        Raises:
            PromptTooLongError: with both numbers and the way out.
        """
        limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if limit and tokens > limit:
            raise PromptTooLongError(f"The prompt needs {tokens} tokens, but the {role} takes {limit}: {way_out}")
