"""Errors in the form of OpenAI's API, {"error": {"message", "type", "param", "code"}}, and their status codes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from spec_rag.errors import (
    CancelledError,
    MissingDependencyError,
    NotFiniteError,
    OutOfMemoryError,
    PromptTooLongError,
    SpecRagError,
)

CLIENT_LEFT = 499  # as in nginx: the client closed the request


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        message: what is wrong and how to fix it.
        param: the wrong field of the request, or None.
        code: machine-readable reason.
        headers: response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """JSON body of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _field(message: str) -> str | None:
    """The field at the start of a message, as in "ratio=2: must be ..."."""
    match = re.match(r"([a-z_]+)[=:\[]", message)
    return match.group(1) if match else None


_TYPES = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}


def api_error(error: BaseException) -> ApiError | None:
    """The response for an error; None for internal errors, which clients do not see."""
    from jinja2.exceptions import TemplateError

    from spec_rag.models.error_context import is_out_of_memory

    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(400, _as_requested(str(error)), param="messages", code="context_length_exceeded")
    if isinstance(error, CancelledError):
        return ApiError(503, "The server is shutting down: try again.", code="shutting_down")
    if isinstance(error, TimeoutError):
        return ApiError(504, str(error) or "The time limit passed before the answer was complete.", code="timeout")
    if isinstance(error, MissingDependencyError):
        return ApiError(501, str(error), code="missing_dependency")
    if isinstance(error, SpecRagError) and isinstance(error, ValueError | NotImplementedError):
        message = _as_requested(str(error))
        return ApiError(400, message, param=_field(message), code="invalid_value")
    if isinstance(error, TemplateError):
        return ApiError(
            400, f"The model's chat template refuses these messages: {error}", param="messages", code="chat_template"
        )
    if isinstance(error, RecursionError):
        return ApiError(400, "The request is nested too deeply: send a flatter one.", code="nested_too_deeply")
    if is_out_of_memory(error):
        message = "The model ran out of memory: try again, or send a shorter request."
        return ApiError(503, message, code="out_of_memory", headers={"Retry-After": "1"})
    if isinstance(error, NotFiniteError):
        return ApiError(500, "The model produced NaN or infinity. Please contact the operator.", code="not_finite")
    return None


def for_operators(error: BaseException) -> str | None:
    """Log message for an error that only an operator can fix; it contains no text of clients."""
    return str(error) if isinstance(error, OutOfMemoryError | NotFiniteError) else None


def from_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The response for a body that fails validation: the first wrong field and its path."""
    # tags of the forms of a body are no fields
    problems = [{**one, "loc": tuple(part for part in one["loc"] if not str(part).startswith("#"))} for one in problems]
    field = problems[0]["loc"][:2]
    # of a union type, the member that was meant fails at the deepest path
    first = max((entry for entry in problems if entry["loc"][:2] == field), key=lambda entry: len(_place(entry["loc"])))
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['ctx']['error']}.", code="invalid_json")
    message = str(first["msg"])
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
    place = _place(first["loc"])
    if named := re.match(r"([a-z_]+): ", message):
        place, message = [*place, named.group(1)], message[named.end() :]
    param = ".".join(place) or None
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(first["type"])
    return ApiError(400, f"{param or 'body'}: {message}.", param=param, code=code or "invalid_value")


def _place(loc: Sequence[str | int]) -> list[str]:
    """Path of field names and indices, without the type names that pydantic inserts."""
    parts = [part for part in loc if part != "body"]
    return [
        str(part)
        for part in parts
        if isinstance(part, int) or (_FIELD.fullmatch(part) and part not in ("str", "int", "float", "bool", "nullable"))
    ]


_FIELD = re.compile(r"[a-z_][a-z0-9_]*|[0-9]+")
# arguments of the package by the names of the API
_REQUEST_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sequence_bias": "logit_bias",
    "set SpecPCConfig, or ": "or ",
    "set SpecPCConfig, ": "",
}


def _as_requested(message: str) -> str:
    """Replace argument names of the package by those of the API."""
    for name, requested in _REQUEST_NAMES.items():
        message = message.replace(name, requested)
    return message
