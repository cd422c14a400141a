"""JSON schemas of many shapes, and how often an answer that is held to one is valid JSON of it.

Generated, deterministic by seed: objects in objects, arrays, tuples, maps, enumerations, alternatives, references that
come back to themselves, ranges, patterns, formats, strings without an end. The generator does not know models;
`schemas_answered` does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spec_rag.generation.generate import generate
from spec_rag.generation.structured_output import schema_instruction
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.compression import SpecKVConfig
from spec_rag.results import Answer
from spec_rag.utils.progress import steps

Schema = dict[str, Any]

_NAMES = ("name", "age", "city", "email", "price", "tags", "address", "notes", "größe", "is_open", "score", "kind")
_WORDS = ("red", "green", "blue", "Lisbon", "Oslo", "mule", "ferry", "naïve", 'with "quotes"', "two words")
_TEXT = (
    "Saffron the mule is nine years old and carries mail over the pass in Lisbon. The ferry to Oslo leaves at 8:30 on "
    "2024-05-17 and costs 41.50. The harbour office is open, has three red boats, and answers at mail@harbour.example."
)


@dataclass(frozen=True)
class Asked:
    """One schema, what shape it has, and the answer that was given to it."""

    shape: str
    schema: Schema
    answer: Answer


def schemas(count: int, seed: int = 0) -> list[tuple[str, Schema]]:
    """`count` schemas with the names of their shapes, all shapes in turn."""
    chance = random.Random(seed)
    names = list(_SHAPES)
    return [(name, _SHAPES[name](chance)) for name in (names[i % len(names)] for i in range(count))]


def schemas_answered(
    pair: ModelPair,
    count: int = 100,
    max_new_tokens: int = 160,
    speckv: SpecKVConfig | None = None,
    seed: int = 0,
) -> list[Asked]:
    """Ask the target for JSON of each schema, as the adapters ask.

    Args:
        pair: the models.
        count: how many schemas.
        max_new_tokens: of each answer.
        speckv: prune the cache before the answer.
        seed: of the schemas.
    """
    found = []
    with steps("Answering", count) as done:
        for shape, schema in schemas(count, seed):
            messages = [
                {"role": "system", "content": schema_instruction(schema)},
                {"role": "user", "content": f"{_TEXT}\n\nWhat does the text say?"},
            ]
            answer = generate(pair, messages, speckv=speckv, max_new_tokens=max_new_tokens, schema=schema)
            found.append(Asked(shape, schema, answer))
            done()
    return found


def fault(schema: Schema, text: str) -> str | None:
    """Why a text is not valid JSON of the schema; None where it is."""
    import jsonschema

    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def table(found: Sequence[Asked]) -> str:
    """Markdown: a row per shape."""
    lines = ["| shape | schemas | valid | ended by the model | tokens, mean |", "|---|---|---|---|---|"]
    groups = {shape: [one for one in found if one.shape == shape] for shape in dict.fromkeys(a.shape for a in found)}
    for shape, own in {**groups, "all": list(found)}.items():
        valid = sum(fault(one.schema, one.answer.text) is None for one in own)
        ended = sum(one.answer.finish_reason == "stop" for one in own)
        tokens = sum(one.answer.completion_tokens for one in own) / len(own)
        lines.append(f"| {shape} | {len(own)} | {valid} | {ended} | {tokens:.0f} |")
    return "\n".join(lines)


def _scalar(chance: random.Random) -> Schema:
    low = chance.randint(-5, 50)
    return chance.choice(
        [
            {"type": "string", "maxLength": chance.randint(5, 40)},
            {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 1000)},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": chance.sample(_WORDS, 3)},
            {"type": ["string", "null"], "maxLength": 20},
        ]
    )


def _object(chance: random.Random, fields: int, depth: int = 0) -> Schema:
    names = chance.sample(_NAMES, fields)
    inner = {name: _scalar(chance) for name in names}
    if depth:
        inner[names[0]] = _object(chance, fields, depth - 1)
    required = [name for name in names if chance.random() < 0.7] or names[:1]
    return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def _flat(chance: random.Random) -> Schema:
    return _object(chance, chance.randint(1, 8))


def _nested(chance: random.Random) -> Schema:
    return _object(chance, chance.randint(2, 3), depth=chance.randint(2, 4))


def _array(chance: random.Random) -> Schema:
    least = chance.randint(0, 3)
    return {"type": "array", "items": _scalar(chance), "minItems": least, "maxItems": least + chance.randint(1, 4)}


def _array_of_objects(chance: random.Random) -> Schema:
    items = {"type": "array", "items": _object(chance, 2), "minItems": chance.randint(0, 2)}
    return {"type": "object", "properties": {"items": items}, "required": ["items"]}


def _tuple(chance: random.Random) -> Schema:
    parts = [_scalar(chance) for _ in range(chance.randint(1, 4))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def _map(chance: random.Random) -> Schema:
    return {"type": "object", "additionalProperties": _scalar(chance), "maxProperties": chance.randint(1, 4)}


def _enumeration(chance: random.Random) -> Schema:
    return {"enum": [*chance.sample(_WORDS, 3), chance.randint(0, 9), None, True]}


def _constant(chance: random.Random) -> Schema:
    value = {"kind": chance.choice(_WORDS), "at": [chance.randint(0, 99), None]}
    return {"type": "object", "properties": {"value": {"const": value}}, "required": ["value"]}


def _alternatives(chance: random.Random) -> Schema:
    kinds = chance.sample(_WORDS[:6], 3)
    options = []
    for kind in kinds:
        fields = {"kind": {"const": kind}, "value": _scalar(chance)}
        options.append({"type": "object", "properties": fields, "required": ["kind", "value"]})
    return {"anyOf": options}


def _recursive(chance: random.Random) -> Schema:
    node = {
        "type": "object",
        "properties": {
            "label": {"type": "string", "maxLength": chance.randint(5, 20)},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": chance.randint(1, 3)},
        },
        "required": ["label", "children"],
        "additionalProperties": False,
    }
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}


def _linked(chance: random.Random) -> Schema:
    item = {
        "type": "object",
        "properties": {"value": _scalar(chance), "next": {"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]}},
        "required": ["value", "next"],
    }
    return {"$defs": {"item": item}, "type": "object", "properties": {"first": {"$ref": "#/$defs/item"}}}


def _ranges(chance: random.Random) -> Schema:
    low = chance.randint(-1000, 1000)
    fields = {
        "count": {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 30)},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "above": {"type": "number", "exclusiveMinimum": chance.randint(0, 9)},
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


def _patterns(chance: random.Random) -> Schema:
    digits, letters = chance.randint(1, 5), chance.randint(1, 4)
    fields = {
        "code": {"type": "string", "pattern": f"^[A-Z]{{{letters}}}-[0-9]{{{digits}}}$"},
        "time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


def _formats(chance: random.Random) -> Schema:
    formats = chance.sample(["date", "time", "date-time", "email", "uuid", "ipv4", "uri"], 3)
    fields = {name: {"type": "string", "format": name} for name in formats}
    return {"type": "object", "properties": fields, "required": formats}


def _lengths(chance: random.Random) -> Schema:
    least = chance.randint(1, 20)
    fields = {"text": {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 20)}}
    return {"type": "object", "properties": fields, "required": ["text"]}


def _endless(chance: random.Random) -> Schema:
    names = chance.sample(_NAMES, chance.randint(2, 5))
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}


def _everything(chance: random.Random) -> Schema:
    return {
        "type": "object",
        "properties": {
            "who": {"$ref": "#/$defs/person"},
            "others": {"type": "array", "items": {"$ref": "#/$defs/person"}, "maxItems": 2},
            "where": {"anyOf": [{"enum": chance.sample(_WORDS, 2)}, _array(chance), {"type": "null"}]},
            "more": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["who", "others", "where"],
        "$defs": {"person": _object(chance, 3)},
    }


def _scalar_alone(chance: random.Random) -> Schema:
    return _scalar(chance)


def _anything(chance: random.Random) -> Schema:
    return chance.choice([{"type": "object"}, {}, {"type": "array"}])


_SHAPES: dict[str, Callable[[random.Random], Schema]] = {
    "flat object": _flat,
    "nested objects": _nested,
    "array": _array,
    "array of objects": _array_of_objects,
    "tuple": _tuple,
    "map": _map,
    "enumeration": _enumeration,
    "constant": _constant,
    "alternatives": _alternatives,
    "recursive": _recursive,
    "linked list": _linked,
    "ranges": _ranges,
    "patterns": _patterns,
    "formats": _formats,
    "string lengths": _lengths,
    "strings without an end": _endless,
    "everything": _everything,
    "a value alone": _scalar_alone,
    "anything": _anything,
}
