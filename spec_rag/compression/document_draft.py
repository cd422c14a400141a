"""The model that reads documents: a draft with a tokenizer, no deeper than the score needs.

This module knows which layers are scored; it does not know how documents are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.compression.readout import Readout, any_draft, find_readout
from spec_rag.errors import ConfigError
from spec_rag.models.loading import LoadedModel, checkpoint_layers, load_model
from spec_rag.models.model_config import context_tokens, decoder_layers
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.loading import LoadOptions
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.object_state import state_of


@dataclass(frozen=True)
class Draft:
    """A model that reads documents: it always has a tokenizer. Copies share the weights.

    Pickled, a draft that was loaded by name travels as that name and is loaded again where it arrives; one that was
    given as an object takes its weights along.

    Attributes:
        total_layers: of the whole model; `loaded_layers` of them are in memory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    total_layers: int
    _loaded: LoadedModel | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        given: Any,
        options: LoadOptions | Mapping[str, Any] | None = None,
        config: CompressionConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Draft:
        """The draft of whatever was given as one; by name, with no more layers than the score needs.

        Args:
            given: a name or path, a model of transformers, a LoadedModel, a ModelPair, or a Draft.
            options: how to load it.
            config: settings of the compression; None loads the whole model.
            tokenizer: of a model that is given as an object; None takes the one beside its weights.

        Raises:
            ConfigError: it has no tokenizer, is of another kind, or is loaded and the options ask for another way.
            ModelNotFoundError: nothing is found under its name.
        """
        if isinstance(given, Draft):
            if given._loaded is not None:
                given._loaded.refuse_other(options)
            return given
        if isinstance(given, ModelPair):
            loaded = given.loaded_draft()
            loaded.refuse_other(options)
        elif isinstance(given, str | Path):
            total = checkpoint_layers(given, options)
            depth = None if config is None else needed_depth(config, str(given), total)
            loaded = load_model(given, options, layers=depth)
        else:
            loaded = load_model(given, options, tokenizer=tokenizer)
        if loaded.tokenizer is None:
            raise ConfigError(
                f"draft={loaded.name!r} has no tokenizer: give it as tokenizer=, give the draft by name, or in a "
                "ModelPair with one."
            )
        return cls(loaded.model, loaded.tokenizer, loaded.name, loaded.total_layers, loaded)

    @property
    def lock(self) -> FairLock:
        """The lock that readings with this draft queue on."""
        return state_of(self.model, FairLock)

    @property
    def loaded_layers(self) -> int:
        """Decoder layers that are in memory."""
        return decoder_layers(self.model.config)

    @property
    def context_tokens(self) -> int | None:
        """The most tokens the draft was made for, or None if its config does not say."""
        return context_tokens(self.model.config)

    def __copy__(self) -> Draft:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Draft:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._loaded is not None:
            return Draft.of, (self._loaded,)
        return Draft, (self.model, self.tokenizer, self.name, self.total_layers)


def scored_layers(draft: Draft, config: CompressionConfig) -> tuple[int, int]:
    """[first, last) layers that are scored with these settings."""
    return readout_for(draft, config).layer_range(draft.total_layers)


def needed_depth(config: CompressionConfig, draft: str, total_layers: int) -> int:
    """How many layers of a draft the score needs.

    Raises:
        ConfigError: the calibration that is asked for is not found.
    """
    if config.scoring == "joint":
        return total_layers
    readout = find_readout(config.calibration, draft)
    if config.calibration == "shipped" and readout.layers not in (0, total_layers):
        readout = any_draft()
    return readout.layer_range(total_layers)[1]


def readout_for(draft: Draft, config: CompressionConfig) -> Readout:
    """The readout that the settings ask for.

    The shipped readout of a draft is replaced by the one for any draft where another model has the draft's name.

    Raises:
        ConfigError: it is not found, or it is another draft's.
    """
    found = find_readout(None if config.scoring == "joint" else config.calibration, draft.name)
    heads = int(draft.model.config.get_text_config(decoder=True).num_attention_heads)
    if config.calibration == "shipped" and not found.fits(draft.total_layers, heads):
        return any_draft()
    found.check_fits(draft.name, draft.total_layers, heads)
    return found
