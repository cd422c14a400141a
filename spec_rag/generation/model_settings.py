"""Settings of a target that answers with the help of a draft, shared by the language models of the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, PrivateAttr, model_validator
from pydantic.json_schema import WithJsonSchema

from spec_rag.errors import unknown_field
from spec_rag.generation.client import GenerationClient
from spec_rag.generation.request import GenerationRequest
from spec_rag.generation.sampling import SamplingConfig, overriding
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig
from spec_rag.options.generation import GenerationOptions
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions

if TYPE_CHECKING:
    from spec_rag.generation.tool_calls import ToolChoice
    from spec_rag.models.model_pair import ModelPair

OTHER_NAMES = {"model": "target", "model_name": "target", "max_new_tokens": "max_tokens"}
"""Other accepted names of fields, for constructors and calls."""
NULLABLE = ("specpc", "speckv")
"""Settings that None switches off for one call; for other settings None is the value of the field."""
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")


def _object_or_dict(kind: Any) -> tuple[PlainValidator, WithJsonSchema]:
    """Validate an object of the kind, or a dict of its fields, to an object."""

    def read(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return kind.from_dict(dict(value))
        raise ValueError(
            f"{value!r:.80} of type {type(value).__name__}: give a {kind.__name__} or a dict of its fields."
        )

    return PlainValidator(read), WithJsonSchema({"type": "object", "title": kind.__name__})


ModelName = Annotated[str | Path, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
OptionsOrDict = Annotated[LoadOptions | dict[str, Any], *_object_or_dict(LoadOptions)]
SpecPCSettings = Annotated[SpecPCConfig | dict[str, Any], *_object_or_dict(SpecPCConfig)]
SpecKVSettings = Annotated[SpecKVConfig | dict[str, Any], *_object_or_dict(SpecKVConfig)]


class ModelSettings(GenerationOptions):
    """Models, methods and sampling of an adapter's language model."""

    model_config = ConfigDict(arbitrary_types_allowed=True, use_attribute_docstrings=True)

    target: ModelName = DEFAULT_DRAFT
    """The model that answers: hub id, folder or GGUF file."""
    draft: ModelName | None = DEFAULT_DRAFT
    """The draft model, of the target's family; None if no setting needs one."""
    pair: Any = Field(default=None, exclude=True, repr=False)
    """A loaded spec_rag.ModelPair instead of the names."""
    target_options: OptionsOrDict = LoadOptions()
    """How the target is loaded: spec_rag.LoadOptions or a dict of its fields, such as device and dtype."""
    draft_options: OptionsOrDict | None = None
    """How the draft is loaded; None is target_options if both models have the same name, else the defaults."""
    specpc: SpecPCSettings | None = None
    """Prompt compression (SpecPC): SpecPCConfig or a dict of its fields; None keeps the whole prompt."""
    speckv: SpecKVSettings | None = SpecKVConfig()
    """KV cache pruning (SpecKV): SpecKVConfig or a dict of its fields; None keeps all pairs."""
    context: Any = Field(default=None, exclude=True, repr=False)
    """A spec_rag.ContextCache of this target that precedes each prompt; None reads prompts alone."""

    if TYPE_CHECKING:  # other accepted names
        model: ModelName = DEFAULT_DRAFT
        model_name: ModelName = DEFAULT_DRAFT
        max_new_tokens: int = 256

    _pair: ModelPair | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _read_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {OTHER_NAMES.get(name, name): value for name, value in values.items()}
        accepted = {*cls.model_fields, *(field.alias for field in cls.model_fields.values()), "class_name"}
        for name in values:
            if name not in accepted:
                raise unknown_field(cls.__name__, name, cls.model_fields)
        pair = values.get("pair")
        return values if pair is None else {**values, **_names_of(pair)}

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        self._arguments()
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """Settings and names; models that were loaded by name are loaded again on use."""
        state = dict(super().__getstate__())
        state["__pydantic_private__"] = {**(state.get("__pydantic_private__") or {}), "_pair": None}
        return state

    def load(self) -> ModelPair:
        """Load the models unless they are loaded. Equal names with equal options share their weights.

        Raises:
            ModelNotFoundError: a name is not found.
            IncompatibleModelsError: specpc is set, and draft and target have different tokens.
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
        """Whether the models are loaded."""
        return self.pair is not None or self._pair is not None

    def _client(self, settings: Mapping[str, Any] | None = None, choice: ToolChoice | None = None) -> GenerationClient:
        """Load the models, and combine the fields with the settings and the tool choice of one call."""
        arguments = self._arguments(settings)
        arguments = arguments if choice is None else choice.constrained_options(arguments)
        request = GenerationRequest.of(ModelSettings.load(self), **arguments)
        return GenerationClient(request, self.timeout, self.max_retries)

    def _arguments(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Validated keywords of `spec_rag.generate`, from the fields and the settings of one call."""
        changes = {
            OTHER_NAMES.get(name, name): value
            for name, value in (settings or {}).items()
            if value is not None or name in NULLABLE
        }
        fields = {name: getattr(self, name) for name in _SAMPLING} | self.generation_kwargs
        options = {**fields, **overriding(changes)}
        configs = {"specpc": options.pop("specpc", self.specpc), "speckv": options.pop("speckv", self.speckv)}
        for name, kind in (("specpc", SpecPCConfig), ("speckv", SpecKVConfig)):
            if isinstance(configs[name], Mapping):
                configs[name] = kind.from_dict(dict(configs[name]))
        max_new_tokens = options.pop("max_tokens", self.max_tokens)
        context = options.pop("context", self.context)
        SamplingConfig.of(max_new_tokens, options)
        return {**options, **configs, "context": context, "max_new_tokens": max_new_tokens}

    def _prompt_limit(self) -> int | None:
        """Maximum tokens of prompt and answer; loads the models."""
        from spec_rag.generation.prompt_batch import prompt_limit

        specpc, speckv = cast(SpecPCConfig | None, self.specpc), cast(SpecKVConfig | None, self.speckv)
        return prompt_limit(ModelSettings.load(self), specpc, speckv)


def _names_of(pair: Any) -> dict[str, Any]:
    """The fields that name the models of a loaded pair."""
    from spec_rag.models.model_pair import ModelPair

    if not isinstance(pair, ModelPair):
        raise ValueError(f"pair of type {type(pair).__name__}: give a spec_rag.ModelPair.")
    pair.require_target()
    return {"target": pair.name_of("target"), "draft": pair.name_of("draft")}
