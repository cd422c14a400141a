"""Paths of requests that are forwarded to an upstream: checked after decoding, forwarded as the client wrote them.

An upstream, or a proxy before it, may decode a path more often than this server does, and may resolve dot segments. A
path that could leave the upstream's base URL under any number of decodings is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from spec_rag.serving.api_errors import ApiError

PREFIX = "/v1/"
_DECODINGS = 8
_ALLOWED = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")


def forwarded_path(scope: MutableMapping[str, Any]) -> str:
    """The part of a request's path below `/v1/`, with the client's own percent-encoding.

    Args:
        scope: the request's ASGI scope.

    Raises:
        ApiError: status 400; the path has dot segments, empty segments, backslashes, control characters or a wrong
            encoding, as it is or after it is decoded.
    """
    raw: bytes | None = scope.get("raw_path")
    written = quote(scope["path"]) if raw is None else raw.decode("latin-1")
    written = written.removeprefix(scope.get("root_path", ""))
    if not written.startswith(PREFIX) or not _ALLOWED.fullmatch(written):
        raise _refused()
    path = written.removeprefix(PREFIX)
    decoded = path
    for _ in range(_DECODINGS):
        if not _is_plain(decoded):
            raise _refused()
        try:
            further = unquote_to_bytes(decoded).decode()
        except UnicodeDecodeError:
            raise _refused() from None
        if further == decoded:
            return path
        decoded = further
    raise _refused()


def _is_plain(path: str) -> bool:
    """Whether a path cannot be resolved to another one."""
    path = unicodedata.normalize("NFKC", path)
    if "\\" in path or any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in path):
        return False
    segments = path.split("/")
    if not all(segments[:-1]):
        return False
    # some servers take what follows a semicolon for a parameter of the segment
    return all(segment.partition(";")[0].strip() not in (".", "..") for segment in segments)


def _refused() -> ApiError:
    return ApiError(
        400,
        "The path is refused: it has dot segments, empty segments, backslashes or a wrong encoding.",
        code="invalid_path",
    )
