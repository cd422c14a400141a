"""Errors as OpenAI's API has them: {"error": {"message", "type", "param", "code"}}, and which status they come with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from spec_rag.errors import (
    CancelledError,
    MissingDependencyError,
    NotFiniteError,
    OutOfMemoryError,
    PromptTooLongError,
    SpecRagError,
)

CLIENT_LEFT = 499  # what nginx logs where the client did not wait for an answer


class ApiError(Exception):
    """An error that a client is told.

    Args:
        status: of the response.
        message: what is wrong and what to do.
        param: the field of the request that is wrong, or None.
        code: a word for programs.
        headers: of the response.
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

    def raised_below(self) -> HTTPException:
        """The same for code inside the framework, which lets no other error of a body pass."""
        error = HTTPException(self.status, self.message)
        error.__cause__ = self
        return error

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _field(message: str) -> str | None:
    """The field that a message begins with, as in "ratio=2: must be ..."."""
    begins = re.match(r"([a-z_]+)[=:\[]", message)
    return begins.group(1) if begins else None


_TYPES = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}


def api_error(error: BaseException) -> ApiError | None:
    """What a client is told of an error; None where it is none of the client's business."""
    from jinja2.exceptions import TemplateError

    from spec_rag.models.error_context import is_out_of_memory

    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(400, _as_requested(str(error)), param="messages", code="context_length_exceeded")
    if isinstance(error, CancelledError):
        return ApiError(503, "The server is shutting down: try again.", code="shutting_down")
    if isinstance(error, TimeoutError):
        return ApiError(504, str(error) or "The time was up before the answer was complete.", code="timeout")
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
        message = "The model ran out of memory: try again, or send less."
        return ApiError(503, message, code="out_of_memory", headers={"Retry-After": "1"})
    if isinstance(error, NotFiniteError):
        return ApiError(500, "The model computed numbers that are none: tell who runs it.", code="not_finite")
    return None


def for_operators(error: BaseException) -> str | None:
    """What the log says of an error that clients cannot mend: which model, what to change, and no text of theirs."""
    return str(error) if isinstance(error, OutOfMemoryError | NotFiniteError) else None


def from_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """What a client is told of a body that does not fit the schema: the first wrong field, and where it is."""
    # tags of the forms of a body are no fields
    problems = [{**one, "loc": tuple(part for part in one["loc"] if not str(part).startswith("#"))} for one in problems]
    field = problems[0]["loc"][:2]
    # of a field that takes several forms, the form that was meant fails deepest
    first = max((one for one in problems if one["loc"][:2] == field), key=lambda one: len(_place(one["loc"])))
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
    """Names and indices of fields; pydantic adds the names of types that a field may have."""
    parts = [part for part in loc if part != "body"]
    return [
        str(part)
        for part in parts
        if isinstance(part, int) or (_FIELD.fullmatch(part) and part not in ("str", "int", "float", "bool", "nullable"))
    ]


_FIELD = re.compile(r"[a-z_][a-z0-9_]*|[0-9]+")
# arguments of the package, as requests call them
_REQUEST_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sequence_bias": "logit_bias",
    "set SpecPCConfig, or ": "or ",
    "set SpecPCConfig, ": "",
}


def _as_requested(message: str) -> str:
    """A message of the package in the words of a request."""
    for name, requested in _REQUEST_NAMES.items():
        message = message.replace(name, requested)
    return message
