"""Structured output: constraints from JSON schemas and regular expressions, the instruction, and parsing of answers.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spec_rag.errors import ConfigError, MissingDependencyError
from spec_rag.utils.validation import check_depth

_INSTRUCTION = (
    "{opening} with one JSON object that fits the JSON schema below, and with nothing else: no explanation, no code "
    "fence, no schema.\n\n{schema}"
)
JSON_OBJECT = {"type": "object"}
# the format of json.dumps: the most frequent one in training data, and without unbounded white space
JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
    "coerce_one_of": True,
}
_NAMED = ("properties", "$defs", "definitions", "patternProperties")  # map names, not keywords, to schemas
_VALUES = ("const", "enum", "default", "examples", "required")  # values are not schemas
_FENCE_OPENING = re.compile(r"```(?:json)?[^\S\n]*\n")


@dataclass(frozen=True)
class Constraint:
    """A constraint of an answer, enforced token by token.

    Attributes:
        kind: the type of `text`: JSON schema, regular expression, or grammar in llguidance's dialect of Lark.
        text: the constraint.
        strict: refuse a schema with keywords that cannot be enforced; False ignores these keywords.
    """

    kind: Literal["json", "regex", "lark"]
    text: str
    strict: bool = True

    @classmethod
    def of(cls, schema: Any = None, regex: str | None = None, strict: bool | None = None) -> Constraint | None:
        """The constraint of one call's options, of which at most one is given; None without one.

        Args:
            schema: a JSON schema as a dict or as JSON text, a pydantic class, or True for any JSON object. Objects with
                named properties get no others, unless `additionalProperties` allows them.
            regex: a regular expression in Rust's syntax (no look-around, no back-references) that matches the whole
                answer.
            strict: see the attribute; None is False for a pydantic class, which validates the rest, else True.

        Raises:
            ConfigError: both are given, or one is invalid.
            MissingDependencyError: llguidance is not installed.
        """
        if schema is None and regex is None:
            return None
        if schema is not None and regex is not None:
            raise ConfigError(f"schema and regex={regex!r} are both given: give one of them.")
        if regex is not None:
            if not isinstance(regex, str) or not regex:
                raise ConfigError(f"regex={regex!r}: must be a regular expression of at least one character.")
            return cls("regex", regex).checked("regex", regex)
        given: Any = JSON_OBJECT if schema is True else schema
        if hasattr(given, "model_json_schema"):
            given, strict = schema_of(given), bool(strict)
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"schema={schema!r:.80} is no JSON: {error}.") from error
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"schema={schema!r:.80} of type {type(schema).__name__}: give a JSON schema as a dict or as JSON, a "
                "pydantic class, or True for any JSON object."
            )
        check_depth("schema", given)
        return cls("json", json.dumps(closed_schema(given), ensure_ascii=False), strict is not False).checked(
            "schema", schema
        )

    @property
    def grammar(self) -> str:
        """The constraint as a grammar of llguidance."""
        matcher = llguidance().LLMatcher
        if self.kind == "json":
            return str(matcher.grammar_from_json_schema(self.text, overrides=JSON_STYLE))
        if self.kind == "regex":
            return str(matcher.grammar_from_regex(self.text))
        return str(matcher.grammar_from_lark(self.text))

    @property
    def grammar_behind_space(self) -> str:
        """The grammar with an optional leading space.

        The first token of an answer often has one with a sentencepiece tokenizer, whose decoder removes it.
        """
        matcher = llguidance().LLMatcher
        if self.kind == "json":
            body = json.dumps({**json.loads(self.text), "x-guidance": JSON_STYLE}, ensure_ascii=False)
            return str(matcher.grammar_from_lark(f'start: " "? %json {body}'))
        if self.kind == "regex":
            return str(matcher.grammar_from_regex(f" ?(?:{self.text})"))
        return self.grammar  # a tool call: its text continues the prompt

    def checked(self, name: str, given: Any) -> Constraint:
        """The constraint itself, if it is valid.

        Args:
            name: the argument it was made from.
            given: the argument's value.

        Raises:
            ConfigError: it is invalid, or it is strict and has keywords that cannot be enforced.
            MissingDependencyError: llguidance is not installed.
        """
        failed, messages = llguidance().LLMatcher.validate_grammar_with_warnings(self.grammar)
        if failed:
            raise ConfigError(f"{name}={given!r:.200} cannot be read: {' '.join(str(messages[0]).split())}")
        unheld = [message for message in messages if "format" not in message.lower()]  # unknown formats are annotations
        if unheld and self.strict:
            raise ConfigError(
                f"{name}={given!r:.200} has keywords that cannot be enforced ({'; '.join(unheld)}): leave "
                "them out and check the answer for them."
            )
        return self


def schema_of(model: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class.

    Raises:
        ConfigError: there is none, or it is nested too deeply.
    """
    from pydantic.errors import PydanticUserError

    try:
        schema: dict[str, Any] = model.model_json_schema()
    except (PydanticUserError, RecursionError) as error:
        raise ConfigError(
            f"schema={getattr(model, '__name__', model)!r}: no JSON schema can be made of it ({error})."
        ) from error
    return schema


def closed_schema(schema: Any) -> Any:
    """The schema with additionalProperties=False where it is not set.

    A schema that combines others (allOf, if ...) is unchanged, since each part names only some of the properties.
    """
    parts = list(_subschemas(schema))
    together = {"allOf", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"}
    beside = {"anyOf", "oneOf", "$ref", "patternProperties"}
    if any(together & part.keys() or ("properties" in part and beside & part.keys()) for part in parts):
        return schema
    return _mapped(schema)


def _subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for name, entry in schema.items():
            if name in _NAMED:
                for inner in entry.values() if isinstance(entry, Mapping) else ():
                    yield from _subschemas(inner)
            elif name not in _VALUES:
                yield from _subschemas(entry)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _subschemas(inner)


def _mapped(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_mapped(inner) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for name, entry in schema.items():
        if name in _NAMED and isinstance(entry, Mapping):
            found[name] = {key: _mapped(inner) for key, inner in entry.items()}
        elif name not in _VALUES:
            found[name] = _mapped(entry)
    if isinstance(schema.get("properties"), Mapping) and "additionalProperties" not in schema:
        found["additionalProperties"] = False
    return found


def llguidance() -> Any:
    """The library, imported on first use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'Answers that fit a schema or a regular expression need llguidance: pip install "spec-rag[structured]"'
        ) from error
    return llguidance


def schema_instruction(schema: Mapping[str, Any], *, has_tools: bool = False) -> str:
    """Text of a system message that requests JSON of a schema, optionally after tool calls."""
    opening = "Call tools where you need them. When you answer, answer" if has_tools else "Answer"
    return _INSTRUCTION.format(opening=opening, schema=json.dumps(schema, ensure_ascii=False))


def answer_format(response_format: Any) -> tuple[dict[str, Any] | None, Constraint | None]:
    """The schema and the constraint of a `response_format`; None and None for free text.

    Args:
        response_format: in the format of OpenAI's API ("text", "json_object" or "json_schema"), or a pydantic class.

    Raises:
        ConfigError: it is invalid.
        MissingDependencyError: llguidance is not installed.
    """
    if response_format is None:
        return None, None
    if hasattr(response_format, "model_json_schema"):
        return schema_of(response_format), Constraint.of(response_format)
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None, None
    if kind == "json_object":
        return dict(JSON_OBJECT), Constraint.of(True)
    wanted = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(wanted, Mapping):
        raise ConfigError(
            f"response_format={response_format!r:.80}: give {{'type': 'json_schema', 'json_schema': {{'name': ..., "
            "'schema': ...}}, {'type': 'json_object'}, {'type': 'text'} or a pydantic class."
        )
    schema = dict(wanted.get("schema") or {})
    return schema, Constraint.of(schema, strict=bool(wanted.get("strict")))


def read_json(text: str) -> Any:
    """Parse the JSON of an answer: the whole answer, its code fence, or the text from its first bracket.

    Raises:
        ValueError: there is no valid JSON; the message quotes the answer.
    """
    body = (_fenced(text) or text).strip()
    start = min((at for at in (body.find("{"), body.find("[")) if at >= 0), default=0)
    try:
        return json.JSONDecoder(strict=False).raw_decode(body[start:])[0]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The answer is no JSON ({error}): {text!r:.200}") from error


def _fenced(text: str) -> str:
    """Content of the first closed code fence, or ""."""
    opening = _FENCE_OPENING.search(text)
    closing = text.find("```", opening.end()) if opening else -1
    return text[opening.end() : closing] if opening and closing >= 0 else ""
