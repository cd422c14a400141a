"""Base class of SpecKVLLM and ChatSpecKV: settings of one call, serialization, cache keys and tracing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict

from langchain_spec_rag.plain_values import identity, plain, unserializable
from spec_rag.generation.model_settings import NULLABLE, OTHER_NAMES, ModelSettings
from spec_rag.generation.sampling import overriding
from spec_rag.options.loading import DEFAULT_DRAFT

_DEFAULT_CONTEXT_TOKENS = 8192


class DraftedModel(ModelSettings, Serializable):
    """Settings of a target that answers with the help of a draft. See SpecKVLLM and ChatSpecKV."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    streaming: bool | None = None
    """True streams to the callbacks even if the caller does not stream; False never; None follows the caller."""

    if not TYPE_CHECKING:

        @property
        def model_name(self) -> str:
            """Name of the target, used for usage metadata."""
            return self.target

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Names and settings are serialized, weights are not; a loaded pair without names is refused on loading."""
        return True

    def to_json(self) -> Any:
        """Serialize the settings; loads nothing."""
        if self.pair is not None and not (self.pair.target_name and (self.pair.draft is None or self.pair.draft_name)):
            return unserializable(self)
        serialized: dict[str, Any] = dict(super().to_json())
        return {**serialized, "kwargs": {name: plain(value) for name, value in serialized["kwargs"].items()}}

    def for_call(self, stop: list[str] | None, settings: dict[str, Any]) -> Self:
        """A copy with the settings of one call; unknown names are fields of GenerationConfig.

        None is the value of the field, except that specpc=None and speckv=None switch these off. A temperature of 0
        also switches off top_p and top_k of the fields.

        Raises:
            ValueError: a setting is out of range or unknown.
        """
        settings = {OTHER_NAMES.get(name, name): value for name, value in settings.items() if name != "stream"}
        settings |= {} if stop is None else {"stop": stop}
        settings = {name: value for name, value in settings.items() if value is not None or name in NULLABLE}
        if not settings:
            return self
        names = set(DraftedModel.model_fields) | self._own_settings()
        changed = overriding({name: value for name, value in settings.items() if name in names})
        rest = {name: value for name, value in settings.items() if name not in names}
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

    def _own_settings(self) -> set[str]:
        """Names of the settings that only this class has."""
        return set()

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All settings, as a cache key."""
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
        """Maximum tokens of prompt and answer, if known without loading a model."""
        if self.is_loaded:
            return self._prompt_limit()
        if self.target == DEFAULT_DRAFT:
            return _DEFAULT_CONTEXT_TOKENS
        config = Path(self.target).expanduser() / "config.json"
        if not config.is_file():
            return None
        from spec_rag.models.model_config import context_tokens

        return context_tokens(json.loads(config.read_text()))


def own_token_ids(model: DraftedModel, text: str) -> list[int]:
    """Token ids of a text by `custom_get_token_ids` if it is set, else by the target's tokenizer."""
    counter = model.custom_get_token_ids if isinstance(model, BaseLanguageModel) else None
    if counter is not None:
        return list(counter(text))
    from spec_rag.text.tokenization import text_ids

    return text_ids(model.load().require_tokenizer(), text)
