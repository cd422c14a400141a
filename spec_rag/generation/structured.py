"""Answers of a given form: how a model is asked for one, what it is held to, and how the answer is read.

Importing this module loads neither torch nor transformers. It does not know prompts, frameworks or logits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spec_rag.errors import ConfigError, MissingDependencyError

_INSTRUCTION = (
    "Answer with one JSON object that fits the JSON schema below, and with nothing else: no explanation, no code "
    "fence, no schema.\n\n{schema}"
)
_JSON_OBJECT = {"type": "object"}
# as json.dumps writes it: what models have seen most, and no room for white space without an end
_JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
    "coerce_one_of": True,
}
_NAMED = ("properties", "$defs", "definitions", "patternProperties")  # names that are not keywords, each with a schema
_VALUES = ("const", "enum", "default", "examples", "required")  # no schemas
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Constraint:
    """What an answer is held to, token by token.

    Attributes:
        kind: what `text` is: a JSON schema, a regular expression, or a grammar in llguidance's dialect of Lark.
        text: it, as text.
        strict: refuse a schema with keywords that cannot be held to; False leaves these to whoever reads the answer.
    """

    kind: Literal["json", "regex", "lark"]
    text: str
    strict: bool = True

    @classmethod
    def of(cls, schema: Any = None, regex: str | None = None, strict: bool | None = None) -> Constraint | None:
        """From one call's options, of which at most one is given.

        Args:
            schema: a JSON schema as a dict or as JSON text, a pydantic class, or True for any JSON object. Objects that
                name their properties get no others, unless `additionalProperties` says so.
            regex: a regular expression of Rust's kind (no look-around, no back-references) that the whole answer fits.
            strict: as the attribute; None is False for a pydantic class, which can check the rest, and True otherwise.

        Raises:
            ConfigError: both are given, or one cannot be read.
            MissingDependencyError: llguidance is not installed.
        """
        if schema is None and regex is None:
            return None
        if schema is not None and regex is not None:
            raise ConfigError(f"schema and regex={regex!r} are both given: an answer is held to one of them.")
        if regex is not None:
            if not isinstance(regex, str) or not regex:
                raise ConfigError(f"regex={regex!r}: must be a regular expression of at least one character.")
            return cls("regex", regex)._checked("regex", regex)
        given: Any = _JSON_OBJECT if schema is True else schema
        if hasattr(given, "model_json_schema"):
            given, strict = given.model_json_schema(), bool(strict)
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise ConfigError(f"schema={schema!r:.80} is no JSON: {error}.") from error
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"schema={schema!r:.80} of type {type(schema).__name__}: give a JSON schema as a dict or as JSON, a "
                "pydantic class, or True for any JSON object."
            )
        return cls("json", json.dumps(_closed(given), ensure_ascii=False), strict is not False)._checked(
            "schema", schema
        )

    @classmethod
    def tool_call(cls, tools: Sequence[Mapping[str, Any]], chosen: str, closing: str) -> Constraint:
        """What follows the beginning of a forced tool call (`tool_calls.beginning_of_call`): arguments that fit.

        Args:
            tools: as OpenAI's API has them.
            chosen: a tool's name, or "any" of them.
            closing: what ends a call.
        """
        functions = {tool["function"]["name"]: tool["function"].get("parameters") or _JSON_OBJECT for tool in tools}
        named = chosen == "any" and len(functions) > 1
        if chosen != "any":
            functions = {chosen: functions[chosen]}
        rules = []
        for name, parameters in functions.items():
            body = json.dumps({**_closed(parameters), "x-guidance": _JSON_STYLE}, ensure_ascii=False)
            opening = json.dumps(f'{name}", "arguments": ') + " " if named else ""
            rules.append(f"{opening}%json {body}")
        end = json.dumps("}\n" + closing)
        return cls("lark", f"start: ({' | '.join(rules)}) {end}", strict=False)._checked("tools", list(functions))

    @property
    def grammar(self) -> str:
        """The grammar as llguidance reads it."""
        matcher = llguidance().LLMatcher
        if self.kind == "json":
            return str(matcher.grammar_from_json_schema(self.text, overrides=_JSON_STYLE))
        if self.kind == "regex":
            return str(matcher.grammar_from_regex(self.text))
        return str(matcher.grammar_from_lark(self.text))

    @property
    def grammar_behind_space(self) -> str:
        """The same with room for one space in front.

        The usual first token of a sentencepiece tokenizer has it, and its decoder takes it away again.
        """
        matcher = llguidance().LLMatcher
        if self.kind == "json":
            body = json.dumps({**json.loads(self.text), "x-guidance": _JSON_STYLE}, ensure_ascii=False)
            return str(matcher.grammar_from_lark(f'start: " "? %json {body}'))
        if self.kind == "regex":
            return str(matcher.grammar_from_regex(f" ?(?:{self.text})"))
        return self.grammar  # what goes on behind the beginning of a call

    def _checked(self, name: str, given: Any) -> Constraint:
        failed, messages = llguidance().LLMatcher.validate_grammar_with_warnings(self.grammar)
        if failed:
            raise ConfigError(f"{name}={given!r:.200} cannot be read: {' '.join(str(messages[0]).split())}")
        unheld = [message for message in messages if "format" not in message.lower()]  # unknown formats are remarks
        if unheld and self.strict:
            raise ConfigError(
                f"{name}={given!r:.200} has keywords that an answer cannot be held to ({'; '.join(unheld)}): leave "
                "them out and check the answer for them."
            )
        return self


def _closed(schema: Any) -> Any:
    """The schema without room for properties that it does not name: what fits it fits the schema as well.

    Left as it is where schemas are put together, of which each names its part of the properties.
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
    """The library, imported where it is needed.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'Answers are held to a schema or a regular expression by llguidance: pip install "spec-rag[structured]"'
        ) from error
    return llguidance


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """What a system message says to get JSON of that schema."""
    return _INSTRUCTION.format(schema=json.dumps(schema, ensure_ascii=False))


def read_json(text: str) -> Any:
    """The JSON in an answer: the answer itself, what is in its code fence, or what follows its first bracket.

    Raises:
        ValueError: there is none, or it is broken; the message quotes the answer.
    """
    fenced = _FENCED.search(text)
    body = (fenced.group(1) if fenced else text).strip()
    start = min((at for at in (body.find("{"), body.find("[")) if at >= 0), default=0)
    try:
        return json.JSONDecoder(strict=False).raw_decode(body[start:])[0]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The answer is no JSON ({error}): {text!r:.200}") from error
