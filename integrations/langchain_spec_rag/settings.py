"""What SpecKVLLM and ChatSpecKV have in common: their settings, the models behind them, and what identifies both.

This module does not know prompts, messages or answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from langchain_spec_rag.plain_values import (
    Name,
    Options,
    SpecKVSettings,
    SpecPCSettings,
    identity,
    plain,
    unserializable,
)
from spec_rag.errors import unknown_field
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import SamplingConfig, overriding
from spec_rag.generation.tool_calls import ToolChoice
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.generation import GenerationOptions
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions

if TYPE_CHECKING:
    from spec_rag.models.model_pair import ModelPair

_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
_OTHER_NAMES = {"model": "target", "model_name": "target", "max_new_tokens": "max_tokens"}
_MAY_BE_SWITCHED_OFF = ("specpc", "speckv")
_DEFAULT_CONTEXT_TOKENS = 8192


class DraftedModel(Serializable, GenerationOptions):
    """Settings of a target that answers with the help of a draft. See SpecKVLLM and ChatSpecKV."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    target: Name = DEFAULT_DRAFT
    """The model that answers: hub id, folder, or GGUF file."""
    draft: Name | None = DEFAULT_DRAFT
    """The small model that looks ahead, of the target's family; None where no setting needs one."""
    pair: Any = Field(default=None, exclude=True, repr=False)
    """A spec_rag.ModelPair that is loaded already, instead of the names."""
    target_options: Options = LoadOptions()
    """How to load the target: spec_rag.LoadOptions or a dict of its fields (device, dtype, attn_implementation ...)."""
    draft_options: Options | None = None
    """How to load the draft; None is target_options where both models have one name, else the defaults."""
    specpc: SpecPCSettings | None = None
    """Drop prompt tokens before the target reads them: SpecPCConfig or a dict of its fields; None reads all."""
    speckv: SpecKVSettings | None = SpecKVConfig()
    """Prune the target's KV cache: SpecKVConfig or a dict of its fields; None keeps all."""
    streaming: bool | None = None
    """True streams to the callbacks even where the caller does not; False never; None leaves it to the caller."""
    context: Any = Field(default=None, exclude=True, repr=False)
    """A spec_rag.ContextCache that this target has read: what is asked follows it. None reads each prompt whole."""

    if TYPE_CHECKING:  # other names of fields, which a constructor and a call take as well
        model: Name = DEFAULT_DRAFT
        model_name: Name = DEFAULT_DRAFT
        max_new_tokens: int = 256
    else:

        @property
        def model_name(self) -> str:
            """The target's name, under which usage is counted."""
            return self.target

    _pair: ModelPair | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _read_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {_OTHER_NAMES.get(name, name): value for name, value in given.items()}
        for name in given:
            if name not in cls.model_fields and not any(name == f.alias for f in cls.model_fields.values()):
                raise unknown_field(cls.__name__, name, cls.model_fields)
        pair = given.get("pair")
        return given if pair is None else {**given, **_names_of(pair)}

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        options = self._arguments()
        SamplingConfig.of(
            options.pop("max_new_tokens"), {k: v for k, v in options.items() if k[:4] != "spec" and k != "context"}
        )
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Names and settings are written, weights never; a loaded pair without names is refused on loading."""
        return True

    def to_json(self) -> Any:
        """The settings as LangChain serialises them; loads nothing."""
        if self.pair is not None and not (self.pair.target_name and (self.pair.draft is None or self.pair.draft_name)):
            return unserializable(self)
        serialized: dict[str, Any] = dict(super().to_json())
        return {**serialized, "kwargs": {name: plain(value) for name, value in serialized["kwargs"].items()}}

    def __getstate__(self) -> dict[Any, Any]:
        """Settings and names; the models that were loaded for them are loaded again where they are needed."""
        state = dict(super().__getstate__())
        state["__pydantic_private__"] = {**(state["__pydantic_private__"] or {}), "_pair": None}
        return state

    def load(self) -> ModelPair:
        """The models, loaded now if they were not; the same names with the same options share their weights.

        Raises:
            ModelNotFoundError: a name is not found.
            IncompatibleModelsError: specpc is set, and draft and target do not share their tokens.
        """
        from spec_rag.models.model_pair import ModelPair

        if self.pair is not None:
            return cast(ModelPair, self.pair)
        if self._pair is None:
            self._pair = ModelPair.of_settings(
                cast("str | None", self.draft),
                cast(str, self.target),
                self.draft_options,
                self.target_options,
                same_tokens=self.specpc is not None,
            )
        return self._pair

    @property
    def is_loaded(self) -> bool:
        """Whether `load` has nothing left to do."""
        return self.pair is not None or self._pair is not None

    def for_call(self, stop: list[str] | None, settings: dict[str, Any]) -> Self:
        """This model with one call's settings; those that it has no field for are fields of GenerationConfig.

        None means the field's value, except that specpc=None and speckv=None switch these off. A temperature of 0 also
        switches off the fields' top_p and top_k.

        Raises:
            ValueError: a setting is out of range or unknown.
        """
        settings = {_OTHER_NAMES.get(name, name): value for name, value in settings.items() if name != "stream"}
        settings |= {} if stop is None else {"stop": stop}
        settings = {name: v for name, v in settings.items() if v is not None or name in _MAY_BE_SWITCHED_OFF}
        if not settings:
            return self
        own = set(DraftedModel.model_fields) | self._own_settings()
        changed = overriding({name: value for name, value in settings.items() if name in own})
        rest = {name: value for name, value in settings.items() if name not in own}
        if rest:
            changed["generation_kwargs"] = {**self.generation_kwargs, **rest}
        current = {name: value for name, value in self.__dict__.items() if name in type(self).model_fields}
        renamed = {"target", "draft"} & {name for name in changed if changed[name] != getattr(self, name)}
        if renamed:
            current["pair"] = None
        copy = type(self)(**{**current, **changed})
        if not renamed and copy.target_options == self.target_options and copy.draft_options == self.draft_options:
            copy._pair = self._pair
        return copy

    def requests(self, choice: ToolChoice | None = None) -> GenerationClient:
        """How requests are made with these settings, for what may be called; loads the models."""
        arguments = self._arguments() if choice is None else choice.constrained_options(self._arguments())
        return GenerationClient(GenerationRequest.of(self.load(), **arguments), self.timeout, self.max_retries)

    def _own_settings(self) -> set[str]:
        """Names of the settings that the adapter has beside the common ones."""
        return set()

    def _arguments(self) -> dict[str, Any]:
        """The keywords of `spec_rag.generate`."""
        return {
            **{name: getattr(self, name) for name in _SAMPLING},
            **self.generation_kwargs,
            "max_new_tokens": self.max_tokens,
            "specpc": self.specpc,
            "speckv": self.speckv,
            **({} if self.context is None else {"context": self.context}),
        }

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Every setting, so that no cache takes one model's answer for another's."""
        names = sorted((set(DraftedModel.model_fields) | self._own_settings()) - {"pair", "context"})
        settings = {name: plain(getattr(self, name)) for name in names}
        if self.pair is not None:
            settings["pair"] = [identity(model) for model in (self.pair.target, self.pair.draft, self.pair.tokenizer)]
        if self.context is not None:
            settings["context"] = identity(self.context)
        return {"model_name": self.target, **settings}

    def _tracing_params(self, kind: str, stop: list[str] | None, settings: dict[str, Any]) -> LangSmithParams:
        target = settings.get("model") or settings.get("target") or self.target
        params: dict[str, Any] = {
            "ls_provider": "spec_rag",
            "ls_model_name": str(target),
            "ls_model_type": kind,
            "ls_temperature": settings.get("temperature", self.temperature),
            "ls_max_tokens": settings.get("max_tokens", self.max_tokens),
            "ls_stop": stop or self.stop,
        }
        return cast(LangSmithParams, {name: value for name, value in params.items() if value is not None})

    def _context_tokens(self) -> int | None:
        """Tokens that prompt and answer may take, as far as that is known without loading a model."""
        if self.is_loaded:
            from spec_rag.generation.prompt_batch import prompt_limit

            specpc, speckv = cast(SpecPCConfig | None, self.specpc), cast(SpecKVConfig | None, self.speckv)
            return prompt_limit(DraftedModel.load(self), specpc, speckv)  # a chat model's load asks for this number
        if self.target == DEFAULT_DRAFT:
            return _DEFAULT_CONTEXT_TOKENS
        config = Path(self.target).expanduser() / "config.json"
        if not config.is_file():
            return None
        from spec_rag.models.model_config import context_tokens

        return context_tokens(json.loads(config.read_text()))


def own_token_ids(model: DraftedModel, text: str) -> list[int]:
    """Token ids of a text by the target's tokenizer, unless the user gave a counter of their own."""
    counter = model.custom_get_token_ids if isinstance(model, BaseLanguageModel) else None
    if counter is not None:
        return list(counter(text))
    from spec_rag.text.tokenization import text_ids

    return text_ids(model.load().require_tokenizer(), text)


def _names_of(pair: Any) -> dict[str, Any]:
    """The names of a pair that was given loaded, as the fields have them."""
    from spec_rag.models.model_pair import ModelPair

    if not isinstance(pair, ModelPair):
        raise ValueError(f"pair of type {type(pair).__name__}: give a spec_rag.ModelPair.")
    pair.require_target()
    return {"target": pair.name_of("target"), "draft": pair.name_of("draft")}
