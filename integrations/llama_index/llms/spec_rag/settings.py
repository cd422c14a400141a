"""The settings of SpecKVLLM, the models behind them, and the requests that are made with them.

This module does not know prompts, messages or answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from llama_index.core.bridge.pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.llms.spec_rag.load_options import PlainLoadOptions, refuse_remote_code

from spec_rag.errors import unknown_field
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import SamplingConfig, overriding
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.generation import GenerationOptions
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions

if TYPE_CHECKING:
    from spec_rag.models.model_pair import ModelPair

_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
_OTHER_NAMES = {"model": "target", "model_name": "target", "max_new_tokens": "max_tokens"}
_MAY_BE_SWITCHED_OFF = ("specpc", "speckv")


def _config_from_dict(kind: type[SpecPCConfig] | type[SpecKVConfig]) -> BeforeValidator:
    return BeforeValidator(lambda given: kind.from_dict(dict(given)) if isinstance(given, Mapping) else given)


def _as_name(given: Any) -> Any:
    return str(given) if isinstance(given, Path) else given


class DraftedLLM(FunctionCallingLLM, GenerationOptions):
    """Settings of a target that answers with the help of a draft. See SpecKVLLM."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    target: Annotated[str | Path, BeforeValidator(_as_name)] = Field(
        default=DEFAULT_DRAFT, description="The model that answers: hub id, folder, or GGUF file."
    )
    draft: Annotated[str | Path | None, BeforeValidator(_as_name)] = Field(
        default=DEFAULT_DRAFT,
        description="The small model that looks ahead, of the target's family. None where no setting needs one.",
    )
    pair: Any = Field(
        default=None, exclude=True, repr=False, description="Models that are loaded already, instead of the names."
    )
    target_options: PlainLoadOptions = Field(
        default_factory=LoadOptions, description="How to load the target: LoadOptions or a dict of its fields."
    )
    draft_options: PlainLoadOptions | None = Field(
        default=None,
        description="How to load the draft; None is target_options where both models have one name, else the defaults.",
    )
    specpc: Annotated[SpecPCConfig | dict[str, Any] | None, _config_from_dict(SpecPCConfig)] = Field(
        default=None, description="Drop prompt tokens before the target reads them. None reads all."
    )
    speckv: Annotated[SpecKVConfig | dict[str, Any] | None, _config_from_dict(SpecKVConfig)] = Field(
        default_factory=SpecKVConfig, description="Prune the target's KV cache. None keeps all."
    )
    context_window: int | None = Field(
        default=None, gt=0, description="Tokens of prompt and answer; None takes what the models were made for."
    )
    context: Any = Field(
        default=None,
        exclude=True,
        repr=False,
        description="A ContextCache that this target has read: what is asked follows it. None reads prompts whole.",
    )

    if TYPE_CHECKING:  # other names of fields, which a constructor and a call take as well
        model: str | Path = DEFAULT_DRAFT
        model_name: str | Path = DEFAULT_DRAFT
        max_new_tokens: int = 256

    _loaded: Any = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _read_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {_OTHER_NAMES.get(name, name): value for name, value in given.items()}
        for name in given:
            if name not in cls.model_fields and name != "class_name":
                raise unknown_field(cls.__name__, name, cls.model_fields)
        pair = given.get("pair")
        if pair is None:
            return given
        from spec_rag.models.model_pair import ModelPair

        if not isinstance(pair, ModelPair):
            raise ValueError(f"pair of type {type(pair).__name__}: give a ModelPair.")
        pair.require_target()
        return {**given, "target": pair.name_of("target"), "draft": pair.name_of("draft")}

    @model_validator(mode="after")
    def _check_sampling_and_adopt_pair(self) -> Self:
        self._arguments({})
        self._loaded = self.pair
        return self

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Build the LLM from `to_dict()`. Nothing is loaded; loaded models go in as `pair=`.

        Raises:
            ValueError: the data would run code from a checkpoint, or a setting is out of range or unknown.
        """
        refuse_remote_code({**data, **dict.fromkeys(kwargs)}, "target_options", "draft_options")
        return super().from_dict(data, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and names; the models that were loaded for them are loaded again where they are needed."""
        state: dict[str, Any] = dict(super().__getstate__())
        state["__pydantic_private__"] = {**(state.get("__pydantic_private__") or {}), "_loaded": self.pair}
        return state

    def load(self) -> ModelPair:
        """The models, loaded now if they were not; the same names with the same options share their weights.

        Raises:
            ModelNotFoundError: a name is not found.
            IncompatibleModelsError: specpc is set, and draft and target do not share their tokens.
        """
        from spec_rag.models.model_pair import ModelPair

        if self._loaded is None:
            self._loaded = ModelPair.of_settings(
                cast("str | None", self.draft),
                cast(str, self.target),
                self.draft_options,
                self.target_options,
                same_tokens=self.specpc is not None,
            )
        return cast(ModelPair, self._loaded)

    async def _aload(self) -> ModelPair:
        return await asyncio.to_thread(self.load) if self._loaded is None else self._loaded

    def _requests(self, given: Mapping[str, Any]) -> GenerationClient:
        """How requests are made with the fields and one call's arguments, which are checked at once."""
        arguments = self._arguments(given)
        return GenerationClient(GenerationRequest.of(self.load(), **arguments), self.timeout, self.max_retries)

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords of `generate` from the fields and one call's arguments, checked."""
        given = {
            _OTHER_NAMES.get(name, name): value
            for name, value in given.items()
            if value is not None or name in _MAY_BE_SWITCHED_OFF
        }
        fields = {name: getattr(self, name) for name in _SAMPLING_FIELDS} | self.generation_kwargs
        options = {**fields, **overriding(given)}
        configs = {"specpc": options.pop("specpc", self.specpc), "speckv": options.pop("speckv", self.speckv)}
        for name, kind in (("specpc", SpecPCConfig), ("speckv", SpecKVConfig)):
            if isinstance(configs[name], Mapping):
                configs[name] = kind.from_dict(dict(configs[name]))
        max_new_tokens = options.pop("max_tokens", self.max_tokens)
        context = options.pop("context", self.context)
        SamplingConfig.of(max_new_tokens, options)
        return {**options, **configs, "context": context, "max_new_tokens": max_new_tokens}

    def _context_tokens(self) -> int:
        from spec_rag.generation.prompt_batch import prompt_limit

        specpc, speckv = cast(SpecPCConfig | None, self.specpc), cast(SpecKVConfig | None, self.speckv)
        return self.context_window or prompt_limit(self.load(), specpc, speckv) or DEFAULT_CONTEXT_WINDOW
