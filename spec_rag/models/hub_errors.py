"""Explanations of the errors of huggingface_hub and its HTTP client, each with a suggestion."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_TOKEN = "a token that may read it (HF_TOKEN, or `hf auth login`)"


def explanation(name: str, revision: str | None, error: BaseException) -> str:
    """Why a model was not downloaded, what to do, and the hub library's message.

    Args:
        name: hub id.
        revision: requested revision.
        error: raised by the hub library, or by transformers with the hub library's error as its cause.
    """
    chain = list(_chain(error))
    for each in chain:
        why = _why(name, revision, each)
        if why is not None:
            return f"{why} The hub library says: {_said(each)}"
    return f"The hub did not deliver it. The hub library says: {_said(chain[0])}"


def is_of_hub(error: BaseException) -> bool:
    """Whether the error or one of its causes is an error of the hub library or HTTP client with an explanation."""
    theirs = [each for each in _chain(error) if type(each).__module__.startswith(("huggingface_hub", "httpx"))]
    return any(_why("", None, each) is not None for each in theirs)


def _why(name: str, revision: str | None, error: BaseException) -> str | None:
    if isinstance(error, OfflineModeIsEnabled):
        return (
            "Offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE), and the cache "
            f"{constants.HF_HUB_CACHE} does not have all files of it. Unset it to download them, or give a local path."
        )
    if isinstance(error, GatedRepoError):
        return f"It is gated: accept its licence at {constants.ENDPOINT}/{name}, and give {_TOKEN}."
    if isinstance(error, RevisionNotFoundError):
        return f"It has no revision {revision!r}: give a branch, a tag or a commit that it has."
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no such model, or it is private: check the spelling, and for a private one give {_TOKEN}."
    if isinstance(error, HfHubHTTPError):
        return _why_refused(error)
    return _why_unreachable(error)


def _why_refused(error: HfHubHTTPError) -> str | None:
    status = error.response.status_code
    if status == 401:
        return f"The hub refuses the token: give {_TOKEN}, or none for a public model."
    if status == 403:
        return f"The token may not read it: give {_TOKEN}."
    if status == 429:
        return "The hub limits the rate of requests: wait a moment, and give a token (HF_TOKEN)."
    if status >= 500:
        return (
            f"The hub at {constants.ENDPOINT} fails (status {status}): try again later, or set HF_ENDPOINT to a mirror."
        )
    return None


def _why_unreachable(error: BaseException) -> str | None:
    kinds = {kind.__name__ for kind in type(error).__mro__}  # of httpx or httpx2
    if "ProxyError" in kinds:
        return "The proxy fails: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    if kinds & {"TransportError", "ConnectError", "TimeoutException"}:
        return (
            f"The hub at {constants.ENDPOINT} cannot be reached, or the connection broke: connect to the network, set "
            "HTTPS_PROXY or HF_ENDPOINT where they are needed, and try again; or give a local path."
        )
    if isinstance(error, FileMetadataError | json.JSONDecodeError):
        return f"The server at {constants.ENDPOINT} is not a hub: check HF_ENDPOINT, the proxy and the firewall."
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"The cache {constants.HF_HUB_CACHE} cannot be written to: make room there, or set HF_HOME."
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "The download broke off: try again."
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
