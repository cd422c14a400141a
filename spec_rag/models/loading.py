"""Loading of models by name, once per process and options, with as many layers as are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.errors import ConfigError, ModelNotFoundError, SpecRagError
from spec_rag.models.bundled_draft import name_end_of_turn
from spec_rag.models.checkpoints import forget_wheel, locate
from spec_rag.models.error_context import error_context
from spec_rag.models.gguf_files import GgufFile, correct_config, correct_model, correct_tokenizer, counted_tensors
from spec_rag.models.hub import quiet_transformers
from spec_rag.models.hub_errors import explanation, is_of_hub
from spec_rag.models.model_config import context_tokens, decoder_layers, keep_first_layers
from spec_rag.options.loading import LoadOptions
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.forking import new_lock, working
from spec_rag.utils.object_state import state_of
from spec_rag.utils.progress import steps


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, its tokenizer (None for token ids only), and its requested name.

    Copies share the weights. A model loaded by name is pickled as its name and options and loaded again on unpickling;
    a model given as an object is pickled with its weights.

    Attributes:
        checkpoint_layers: number of layers in the checkpoint, if only the first ones were loaded.
        options: the options it was loaded with; None if it was given as an object.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    checkpoint_layers: int | None = None
    options: LoadOptions | None = None

    @property
    def lock(self) -> FairLock:
        """The lock of the model; every call that runs it waits here."""
        return state_of(self.model, FairLock)

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
        """Maximum context length, or None if the config has none."""
        return context_tokens(self.model.config)

    def refuse_other(self, options: LoadOptions | Mapping[str, Any] | None) -> None:
        """Refuse options that differ from the defaults and from those the model was loaded with.

        Raises:
            ConfigError: the options cannot take effect on a loaded model.
        """
        if options is not None and LoadOptions.of(options) not in (LoadOptions(), self.options):
            raise ConfigError(
                f"options={options!r} (draft_options, target_options): {self.name!r} is loaded already, so they have "
                "no effect. Give the model by name, or load it with these options and leave them out here."
            )

    def __copy__(self) -> LoadedModel:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.options is not None:
            layers = self.loaded_layers if self.checkpoint_layers else None
            return _loaded_again, (self.name, self.options, layers)
        return LoadedModel, (self.model, self.tokenizer, self.name, self.checkpoint_layers)


_loaded: dict[tuple[str, str], LoadedModel] = {}
_loading = new_lock()


def load_model(
    name: str | Path | PreTrainedModel | LoadedModel,
    options: LoadOptions | Mapping[str, Any] | None = None,
    *,
    layers: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer, or return the ones already loaded by the same name and options.

    Args:
        name: hub id, folder of a checkpoint, path of a GGUF file, or a loaded model.
        options: how to load it; a dict has the names of LoadOptions.
        layers: load only the first `layers` layers, unless a loaded model has at least as many; None loads all.
        tokenizer: tokenizer of a model given as an object; None takes that of its `name_or_path`, if it has one.

    Raises:
        ConfigError: an argument has the wrong type, or the model needs remote code that is not trusted.
        ModelNotFoundError: nothing is found under that name, or the hub cannot be reached.
        FileNotWrittenError: the default draft cannot be converted into the cache folder.
        OutOfMemoryError: it does not fit into memory.
    """
    if isinstance(name, LoadedModel):
        name.refuse_other(options)
        return name if tokenizer is None else LoadedModel(name.model, tokenizer, name.name, name.checkpoint_layers)
    if isinstance(name, torch.nn.Module):
        loaded = _as_loaded(name, tokenizer)
        loaded.refuse_other(options)
        return loaded
    if not isinstance(name, str | Path):
        raise ConfigError(
            f"{name!r} of type {type(name).__name__} is not a model: give a name, a path or a loaded model."
        )
    options = LoadOptions.of(options)
    key = (str(name), repr(options))
    with _loading:
        found = _loaded.get(key)
        if found is None or found.loaded_layers < min(layers or found.total_layers, found.total_layers):
            with (
                working(),
                quiet_transformers(),
                error_context("model", str(name), None, lambda: _ways_of_loading(options)),
            ):
                found = _load(str(name), options, layers)
            _loaded[key] = found  # replaces a model with fewer layers
        return found


def checkpoint_layers(name: str | Path, options: LoadOptions | Mapping[str, Any] | None = None) -> int:
    """Number of decoder layers of a checkpoint; reads only its config.

    Raises:
        ModelNotFoundError: nothing is found under that name.
    """
    options = LoadOptions.of(options)
    with _loading:
        found = _loaded.get((str(name), repr(options)))
    if found is not None:
        return found.total_layers
    with quiet_transformers(), _explained(str(name), options):
        return decoder_layers(_config(*locate(str(name), options, "config"), options))


def unload_models() -> None:
    """Drop the shared models; their memory is freed once nothing else refers to them."""
    with _loading:
        _loaded.clear()
        forget_wheel()


def model_name(model: Any) -> str:
    """Name of a model object: the name it was loaded by, else its class."""
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


class _OwnTokenizer:
    """The tokenizer saved with the weights of a model that was given as an object."""

    tokenizer: PreTrainedTokenizerBase | None = None


def _as_loaded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    """The model with its tokenizer; None takes the one saved with its weights."""
    name = model_name(model)
    if tokenizer is not None or not getattr(model, "name_or_path", ""):
        return LoadedModel(model, tokenizer, name)
    own = state_of(model, _OwnTokenizer)
    with _loading:
        if own.tokenizer is None:
            with contextlib.suppress(OSError, ValueError), quiet_transformers():
                source, where = locate(name, LoadOptions(), "tokenizer")
                own.tokenizer = AutoTokenizer.from_pretrained(source, **where, trust_remote_code=False)
    return LoadedModel(model, own.tokenizer, name)


def _loaded_again(name: str, options: LoadOptions, layers: int | None) -> LoadedModel:
    return load_model(name, options, layers=layers)


@contextlib.contextmanager
def _explained(name: str, options: LoadOptions) -> Iterator[None]:
    """Convert errors of transformers on loading a checkpoint to errors with a suggestion."""
    try:
        yield
    except SpecRagError:
        raise
    except SafetensorError as error:
        raise ModelNotFoundError(
            f"Model {name!r}: a file of its weights is damaged ({_first_line(error)}): delete it, and download or copy "
            "it again."
        ) from error
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error) and not options.trust_remote_code:
            raise ConfigError(
                f"Model {name!r} needs remote code, which trust_remote_code=False does not run. If you trust it, "
                "load it with LoadOptions(trust_remote_code=True); else choose a model that transformers knows."
            ) from error
        if is_of_hub(error):
            raise ModelNotFoundError(
                f"Model {name!r} cannot be loaded. {explanation(name, options.revision, error)}"
            ) from error
        raise ModelNotFoundError(
            f"Model {name!r} cannot be loaded: {_first_line(error)} Give a hub id that exists (and a network or a "
            "filled Hugging Face cache), a folder with config.json and weights, or a .gguf file."
        ) from error


def _load(name: str, options: LoadOptions, layers: int | None) -> LoadedModel:
    source, where = locate(name, options)
    with _explained(name, options):
        if "gguf_file" in where:
            model, tokenizer, total = _read_gguf(Path(source) / where["gguf_file"], options, layers)
        else:
            model, tokenizer, total = _read(source, where, options, layers)
    if options.device_map is None:
        model = model.to(options.resolved_device())
    name_end_of_turn(model, tokenizer)
    return LoadedModel(model.eval(), tokenizer, name, checkpoint_layers=total, options=options)


_Read: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase, int | None]
"""Model, tokenizer, and number of layers in the checkpoint (None if all were loaded)."""


def _read(source: str, where: dict[str, Any], options: LoadOptions, layers: int | None) -> _Read:
    arguments = {**where, **options.from_pretrained_arguments()}
    tokenizer = AutoTokenizer.from_pretrained(source, **where, trust_remote_code=options.trust_remote_code)
    total = None
    if layers is not None:
        config = _config(source, where, options)
        total = decoder_layers(config)
        if layers < total:
            keep_first_layers(config, layers)
            arguments["config"] = config
    return AutoModelForCausalLM.from_pretrained(source, **arguments), tokenizer, total


def _read_gguf(path: Path, options: LoadOptions, layers: int | None) -> _Read:
    file = GgufFile.read(path)
    source, where = str(path.parent), {"gguf_file": path.name}
    with steps(f"Reading {path.name}", len(file.tensors)) as done, counted_tensors(done):
        tokenizer = AutoTokenizer.from_pretrained(source, **where, trust_remote_code=options.trust_remote_code)
        correct_tokenizer(tokenizer, file)
        config = _config(source, where, options)
        correct_config(config, file)
        total = None if layers is None else decoder_layers(config)
        if layers is not None:
            keep_first_layers(config, min(layers, decoder_layers(config)))
        arguments = {**where, **options.from_pretrained_arguments(), "config": config}
        model = AutoModelForCausalLM.from_pretrained(source, **arguments)
    correct_model(model, file)
    return model, tokenizer, total


def _ways_of_loading(options: LoadOptions) -> list[str]:
    """Ways to load the model with less memory than with these options."""
    ways = []
    if str(options.dtype).removeprefix("torch.") not in ("bfloat16", "float16"):
        ways.append("LoadOptions(dtype='bfloat16')")
    if options.device_map is None and options.resolved_device() != "cpu":
        ways.append("LoadOptions(device='cpu')")
    return [*ways, "a smaller model"]


def _config(source: str, where: dict[str, Any], options: LoadOptions) -> Any:
    return AutoConfig.from_pretrained(source, **where, trust_remote_code=options.trust_remote_code)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
