"""Answers that are held to a schema or a regular expression."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from tiny import random_ids, tiny_model, tiny_pair, tiny_tokenizer

from benchmarks.json_schemas import fault, schemas, schemas_answered, table
from spec_rag import ModelPair, SpecKVConfig, generate, generate_batch, stream
from spec_rag.errors import ConfigError, MissingDependencyError
from spec_rag.generation.constrained import ConstrainedLogits, Vocabulary, route_to_end
from spec_rag.generation.structured_output import Constraint, closed_schema, llguidance, read_json
from spec_rag.generation.tool_grammars import call_or_answer, calls_in_text, forced_call

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

SPECKV = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead="none")
MULE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 40},
        "loads": {"type": "array", "items": {"enum": ["mail", "salt"]}, "maxItems": 3},
    },
    "required": ["name", "age", "loads"],
    "additionalProperties": False,
}


class Mule(BaseModel):
    name: str
    sisters: set[int]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.mark.parametrize("max_new_tokens", [46, 60, 200])
@pytest.mark.parametrize("speckv", [None, SPECKV])
def test_a_random_model_writes_json_of_the_schema_however_little_it_may_write(
    pair: ModelPair, speckv: SpecKVConfig | None, max_new_tokens: int
) -> None:
    prompts = [random_ids(n, seed=n) for n in (150, 31, 90)]
    for answer in generate_batch(pair, prompts, None, speckv, max_new_tokens, schema=MULE):
        jsonschema.validate(json.loads(answer.text), MULE)
        assert answer.completion_tokens <= max_new_tokens


def test_schemas_of_every_shape_are_held_to_and_closed_in_time(pair: ModelPair) -> None:
    tokenizer = pair.require_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 320, [1])
    chance = torch.Generator().manual_seed(0)
    for shape, schema in schemas(38, seed=1):
        constraint = Constraint.of(schema=schema)
        assert constraint is not None
        shortest = route_to_end(ConstrainedLogits(constraint, vocabulary, 0, 9999, greedy=True)._start, vocabulary)
        assert shortest is not None
        tokens = len(shortest) + 30
        held, written = ConstrainedLogits(constraint, vocabulary, 0, tokens, greedy=True), torch.zeros(1, 0).long()
        while written.shape[1] < tokens and 1 not in written:
            scores = held(written, torch.randn(1, 320, generator=chance))
            written = torch.cat([written, scores.argmax(-1, keepdim=True)], dim=1)
        text = tokenizer.decode(written[0], skip_special_tokens=True)
        assert fault(schema, text) is None, (shape, schema, text)


def test_the_evaluation_tells_what_is_valid(pair: ModelPair) -> None:
    found = schemas_answered(pair, 1, max_new_tokens=200)
    assert "| all | 1 | 1 |" in table(found)
    assert "ValidationError" in str(fault({"type": "integer"}, '"a"'))
    assert "JSONDecodeError" in str(fault({}, "{"))


def test_a_row_of_a_batch_is_held_as_alone(pair: ModelPair) -> None:
    prompts = [random_ids(n, seed=n) for n in (150, 31, 90)]
    options: dict[str, Any] = {"speckv": SPECKV, "max_new_tokens": 80, "schema": MULE}
    batch = generate_batch(pair, prompts, **options)
    assert [row.output_ids for row in batch] == [generate(pair, prompt, **options).output_ids for prompt in prompts]


@pytest.mark.parametrize("options", [{"temperature": 1.5, "seed": 3}, {"num_beams": 3}, {"repetition_penalty": 1.3}])
def test_sampling_beams_and_penalties_stay_within_the_schema(pair: ModelPair, options: dict[str, Any]) -> None:
    for tokens in (50, 120):
        answer = generate(pair, random_ids(120), None, SPECKV, tokens, schema=MULE, **options)
        jsonschema.validate(json.loads(answer.text), MULE)


def test_a_stream_is_held_and_ends_whole(pair: ModelPair) -> None:
    with stream(pair, random_ids(120), None, SPECKV, 80, schema=MULE) as pieces:
        text = "".join(pieces)
    assert text == generate(pair, random_ids(120), None, SPECKV, 80, schema=MULE).text
    jsonschema.validate(json.loads(text), MULE)


def test_a_regular_expression_is_what_the_whole_answer_fits(pair: ModelPair) -> None:
    answer = generate(pair, random_ids(120), None, SPECKV, 30, regex=r"(yes|no), [0-9]{2,4} (EUR|USD)")
    assert re.fullmatch(r"(yes|no), [0-9]{2,4} (EUR|USD)", answer.text)
    assert answer.finish_reason == "stop"


def test_a_loop_in_a_regular_expression_is_left_in_time(pair: ModelPair) -> None:
    answer = generate(pair, random_ids(120), max_new_tokens=24, regex=r"(ab|cd)*!")
    assert re.fullmatch(r"(ab|cd)*!", answer.text)


def test_an_answer_that_was_closed_in_time_says_so(pair: ModelPair) -> None:
    closed = generate(pair, random_ids(60, seed=1), max_new_tokens=40, schema={"type": "string"})
    assert isinstance(json.loads(closed.text), str)
    assert closed.finish_reason == "length"
    free = generate(pair, random_ids(60), max_new_tokens=40, schema={"enum": ["red", "blue"]})
    assert json.loads(free.text) in ("red", "blue")
    assert free.finish_reason == "stop"


def test_a_stop_string_still_ends_the_answer(pair: ModelPair) -> None:
    answer = generate(pair, random_ids(60), max_new_tokens=80, schema=MULE, stop='"age"')
    assert answer.text.startswith('{"name": "')
    assert '"age"' not in answer.text


def test_an_unheld_answer_is_as_it_was(pair: ModelPair) -> None:
    plain = generate(pair, random_ids(60), max_new_tokens=12)
    assert generate(pair, random_ids(60), max_new_tokens=12, schema=None, regex=None).output_ids == plain.output_ids


def test_schemas_are_given_as_dicts_text_classes_or_true(pair: ModelPair) -> None:
    def answered(schema: Any) -> Any:
        return json.loads(generate(pair, random_ids(60), max_new_tokens=60, schema=schema).text)

    assert answered(MULE) == answered(json.dumps(MULE))
    assert isinstance(Mule.model_validate(answered(Mule)), Mule)
    assert isinstance(answered(True), dict)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"schema": {"type": "strin"}}, "Invalid type"),
        ({"schema": "{"}, "is no JSON"),
        ({"schema": 3}, "of type int"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"schema": {"$ref": "#/$defs/x"}}, "does not exist"),
        ({"regex": "[a-z"}, "unclosed character class"),
        ({"regex": ""}, "at least one character"),
        ({"regex": "a", "schema": MULE}, "one of them"),
        ({"schema": MULE, "max_new_tokens": 5}, "about .* tokens at least"),
    ],
)
def test_what_cannot_be_held_is_refused_with_the_reason(pair: ModelPair, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        generate(pair, random_ids(60), **options)


def test_without_the_library_the_error_names_the_extra(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"spec-rag\[structured\]"):
        generate(pair, random_ids(60), schema=MULE)


def test_objects_get_no_properties_that_the_schema_does_not_name(pair: ModelPair) -> None:
    named = {"properties": {"required": {"type": "boolean"}}, "required": ["required"], "type": "object"}
    answer = generate(pair, random_ids(60), max_new_tokens=60, schema=named)
    assert json.loads(answer.text).keys() == {"required"}
    together = {"allOf": [named, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]}
    answer = generate(pair, random_ids(60), max_new_tokens=60, schema=together)
    assert json.loads(answer.text).keys() >= {"required", "b"}


def test_alternatives_are_closed_unless_they_share_properties_with_what_is_around_them() -> None:
    named = {"type": "object", "properties": {"a": {"type": "null"}}}
    closed = {**named, "additionalProperties": False}
    assert closed_schema({"anyOf": [named, {"type": "string"}]}) == {"anyOf": [closed, {"type": "string"}]}
    shared = {**named, "oneOf": [{"properties": {"b": {"type": "null"}}}]}
    assert closed_schema(shared) == shared


def test_formats_that_are_not_known_are_remarks() -> None:
    assert Constraint.of(schema={"type": "string", "format": "path"}) is not None


def test_a_way_to_the_end_is_known_inside_numbers_and_strings(pair: ModelPair) -> None:
    tokenizer = pair.require_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 320, [1])
    fields = {"a": {"type": "number"}, "b": {"type": "integer", "minimum": 5}, "c": {"type": "string"}}
    constraint = Constraint.of(schema={"type": "object", "properties": fields, "required": list(fields)})
    assert constraint is not None
    written = '{"a": 9.25e3, "b": 71, "c": "x"}'
    held = ConstrainedLogits(constraint, vocabulary, 0, 200, greedy=True)
    for end in range(len(written)):
        ids = tokenizer(written[:end], add_special_tokens=False)["input_ids"]
        scores = torch.zeros(1, 320)
        wanted = tokenizer(written[end], add_special_tokens=False)["input_ids"][0]
        scores[0, wanted] = 1.0
        assert int(held(torch.tensor([ids], dtype=torch.long), scores).argmax()) == wanted, written[: end + 1]
    assert not held.steered, "nothing had to be steered with so much room"


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"schema": {"type": "string", "format": "time"}}, '"20:00:00.' + "0" * 30),
        ({"schema": {"type": "string", "format": "uri"}}, '"https:'),
        ({"regex": "[0-9]+x"}, "0" * 30),
        ({"regex": "(0|10)*1!"}, "0" * 30),
    ],
)
def test_what_need_not_end_is_left_by_a_short_way(pair: ModelPair, asked: dict[str, Any], written: str) -> None:
    tokenizer = pair.require_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 320, [1])
    constraint = Constraint.of(**asked)
    assert constraint is not None
    matcher = ConstrainedLogits(constraint, vocabulary, 0, 200, greedy=True)._start.deep_copy()
    assert matcher.consume_tokens(tokenizer(written, add_special_tokens=False)["input_ids"])
    route = route_to_end(matcher, vocabulary)
    assert route is not None
    assert len(route) < 25
    assert matcher.consume_tokens(route)
    assert matcher.is_accepting()


def test_a_target_without_an_end_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    pair = ModelPair(target=tiny_model("llama", eos_token_id=None), tokenizer=tokenizer)
    assert json.loads(generate(pair, random_ids(60), schema=MULE, max_new_tokens=60).text), "the tokenizer names one"
    tokenizer.eos_token = tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="names no end token"):
        generate(pair, random_ids(60), schema=MULE)


@pytest.mark.parametrize(("chosen", "names"), [("any", ["weigh", "feed"]), ("feed", ["feed"]), ("any", ["weigh"])])
def test_the_arguments_of_a_forced_call_fit_the_tool(pair: ModelPair, chosen: str, names: list[str]) -> None:
    weigh = {"type": "object", "properties": {"kilos": {"type": "integer"}}, "required": ["kilos"]}
    parameters = {"weigh": weigh, "feed": MULE}
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters[name]}} for name in names]
    constraint = forced_call(tools, chosen)
    text = generate(pair, random_ids(60), max_new_tokens=120, constraint=constraint).text
    name = names[0]
    if len(names) > 1:
        name, text = text.split('", "arguments": ', 1)
    assert text.endswith("}\n</tool_call>")
    jsonschema.validate(read_json(text), parameters[name])


FEED = {"type": "function", "function": {"name": "feed", "parameters": MULE}}
CALL = '<tool_call>\n{"name": "feed", "arguments": '


def follows(constraint: Constraint, text: str) -> bool:
    """Whether an answer may begin with this text."""
    tokenizer = tiny_pair().require_tokenizer()
    matcher = llguidance().LLMatcher(Vocabulary.of(tokenizer, 320, [1]).tokens, constraint.grammar, log_level=0)
    return bool(matcher.consume_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]))


@pytest.mark.parametrize("single", [False, True])
def test_in_free_text_every_call_is_held_to_its_tool(single: bool) -> None:
    constraint = calls_in_text([FEED], single)
    fitting = CALL + '{"name": "Saffron", "age": 9, "loads": ["mail"]}}\n</tool_call>'
    assert follows(constraint, "Some text, 1 < 2, with {braces}.")
    assert follows(constraint, "Let me look. " + fitting)
    assert not follows(constraint, "Let me look. " + CALL + '{"name": 3')
    assert not follows(constraint, '<tool_call>\n{"name": "other"')
    assert follows(constraint, fitting + "\n" + fitting) is not single


@pytest.mark.parametrize(
    "form", [{"schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}, {"regex": "yes/no"}]
)
def test_an_answer_of_a_form_or_a_call_are_both_possible(form: dict[str, Any]) -> None:
    wanted = Constraint.of(**form)
    assert wanted is not None
    constraint = call_or_answer([FEED], wanted, single=False)
    fitting = '{"name": "Saffron", "age": 9, "loads": ["mail"]}'
    assert follows(constraint, '{"a": 3}' if "schema" in form else "yes/no")
    assert follows(constraint, CALL + fitting + "}\n</tool_call>\n" + CALL + fitting + "}\n</tool_call>")
    assert follows(constraint, '{"name": "feed", "parameters": ' + fitting + "}")
    assert not follows(constraint, CALL + '{"name": 3')
    assert not follows(constraint, "Some text")


def test_the_mask_follows_a_row_that_goes_back(pair: ModelPair) -> None:
    tokenizer = pair.require_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 320, [1])
    constraint = Constraint.of(regex="ab(c|d)e")
    assert constraint is not None
    held = ConstrainedLogits(constraint, vocabulary, 2, 60, greedy=True)

    def next_letters(text: str) -> str:
        ids = torch.tensor([[7, 7, *(tokenizer.convert_tokens_to_ids(letter) for letter in text)]])
        allowed = (held(ids, torch.zeros(1, 320))[0] > -torch.inf).nonzero()[:, 0].tolist()
        return "".join(sorted(tokenizer.convert_ids_to_tokens(allowed)))

    assert next_letters("ab") == "cd"
    assert next_letters("abd") == "e"
    assert next_letters("abc") == "e"
    assert next_letters("a") == "b"
    assert next_letters("abce") == "<|im_end|>"


@pytest.mark.parametrize(("given_up", "left"), [("a", "x"), ("axccc", "c")])
def test_a_row_that_goes_back_forgets_the_way_to_the_end_of_what_was_given_up(
    pair: ModelPair, given_up: str, left: str
) -> None:
    tokenizer = pair.require_tokenizer()
    constraint = Constraint.of(regex="axcccc|bx(d|[ghijklmopq]z{20})")
    assert constraint is not None
    held = ConstrainedLogits(constraint, Vocabulary.of(tokenizer, 320, [1]), 0, 10, greedy=True)
    liked = torch.zeros(1, 320)
    liked[0, tokenizer.convert_tokens_to_ids(list("ghijklmopq"))] = 1.0  # too long to be completed

    def next_letters(text: str) -> list[str]:
        found = held(torch.tensor([tokenizer.convert_tokens_to_ids(list(text))]), liked)[0]
        return list(tokenizer.convert_ids_to_tokens((found > -torch.inf).nonzero()[:, 0].tolist()))

    assert next_letters(given_up) == [left]
    assert next_letters("bx") == ["d"]


def test_other_end_tokens_of_a_later_call_end_its_answer(pair: ModelPair) -> None:
    first = generate(pair, random_ids(30), max_new_tokens=10, regex="yes")
    second = generate(pair, random_ids(30), max_new_tokens=10, regex="yes", eos_token_id=2)
    assert [first.text, second.text] == ["yes", "yes"]
    assert [first.output_ids[-1], second.output_ids[-1]] == [1, 2]


def test_a_row_that_has_ended_is_left_alone_and_a_token_from_outside_is_refused(pair: ModelPair) -> None:
    tokenizer = pair.require_tokenizer()
    constraint = Constraint.of(regex="ab(c|d)e")
    assert constraint is not None
    held = ConstrainedLogits(constraint, Vocabulary.of(tokenizer, 320, [1]), 0, 60, greedy=True)
    a, z = tokenizer.convert_tokens_to_ids(["a", "z"])
    scores = torch.rand(2, 320, generator=torch.Generator().manual_seed(0))
    found = held(torch.tensor([[a, 1], [7, a]])[:1], scores[:1])
    assert torch.equal(found, scores[:1])
    with pytest.raises(ConfigError, match="Another option of the generation forced a token"):
        held(torch.tensor([[a, z]]), scores[:1])


def test_a_tokenizer_whose_tokens_cannot_be_read_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="tokens of Slow cannot be read"):
        Vocabulary(Slow(), 320, [1])


def test_an_end_token_beyond_the_vocabulary_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"eos_token_id=9999: schema or regex needs end tokens of the vocabulary"):
        generate(tiny_pair(), "When?", max_new_tokens=4, regex="[ab]+", eos_token_id=9999)
