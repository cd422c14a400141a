"""What an answer is held to, read by a validator: every drawn value fits its schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hostile import llama_style_tokenizer
from tiny import random_ids, tiny_model, tiny_tokenizer
from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from spec_rag import ModelPair, generate
from spec_rag.generation.constrained import Vocabulary, allowed_tokens
from spec_rag.generation.structured_output import Constraint, llguidance

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

FORMATS = jsonschema.FormatChecker(formats=["date", "ipv4", "uuid"])


def drawn_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of one of the shapes that answers are held to."""
    low = chance.randint(-50, 50)
    simple: list[dict[str, Any]] = [
        {"const": chance.choice([1, 2.5, "one", None, True, {"a": 1}, [1, 2]])},
        {"enum": chance.sample([1, 2, 2.5, "x", "y", None, False], 3)},
        {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 200)},
        {"type": "number", "exclusiveMinimum": low, "maximum": low + 10},
        {"type": "string", "minLength": 1, "maxLength": chance.randint(1, 6)},
        {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"},
        {"type": "string", "format": chance.choice(["date", "ipv4", "uuid"])},
        {"type": ["boolean", "null"]},
        {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    ]
    if depth > 1 or chance.random() < 0.4:
        return chance.choice(simple)
    names = chance.sample(["name", "age", "when", "loads", "note"], chance.randint(1, 3))
    return chance.choice(
        [
            {
                "type": "object",
                "properties": {name: drawn_schema(chance, depth + 1) for name in names},
                "required": names[: chance.randint(0, len(names))],
            },
            {"type": "array", "items": drawn_schema(chance, depth + 1), "minItems": 1, "maxItems": 3},
            {"anyOf": [drawn_schema(chance, depth + 1), drawn_schema(chance, depth + 1)]},
        ]
    )


def drawn_value(schema: dict[str, Any], vocabulary: Vocabulary, chance: random.Random) -> str:
    """A text that the mask allows, token by token; closing tokens are taken where they may come."""
    matcher = llguidance().LLMatcher(vocabulary.tokens, Constraint.of(schema=schema).grammar, log_level=0)  # type: ignore[union-attr]
    ids: list[int] = []
    while not matcher.is_stopped() and len(ids) < 300:
        allowed = [int(i) for i in allowed_tokens(matcher, vocabulary.size).nonzero()]
        printable = [i for i in allowed if vocabulary.tokens.decode_str([i]).isascii()]
        closing = [i for i in allowed if vocabulary.tokens.decode_str([i]) in ('"', "}", "]")]
        if matcher.is_accepting() and (not printable or chance.random() < 0.7):
            break
        choices = closing if closing and chance.random() < 0.4 else printable or allowed
        ids.append(chance.choice(choices))
        assert matcher.consume_token(ids[-1])
    assert matcher.is_accepting(), schema
    return str(vocabulary.tokens.decode_str([i for i in ids if i not in vocabulary.ends]))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(one)


def is_29_february(text: str) -> bool:
    return text.endswith("-02-29") and len(text) == 10


def test_a_validator_agrees_on_two_hundred_drawn_values() -> None:
    vocabulary, chance = Vocabulary.of(tiny_tokenizer(), 320, [1]), random.Random(11)
    seen = 0
    while seen < 200:
        schema = drawn_schema(chance)
        text = drawn_value(schema, vocabulary, chance)
        value = json.loads(text)
        if any(is_29_february(one) for one in strings(value)):
            continue  # counts as a day of every year
        jsonschema.validate(value, schema, format_checker=FORMATS)
        seen += 1


def accepts(schema: dict[str, Any], text: str) -> bool:
    vocabulary = Vocabulary.of(tiny_tokenizer(), 320, [1])
    matcher = llguidance().LLMatcher(vocabulary.tokens, Constraint.of(schema=schema).grammar, log_level=0)  # type: ignore[union-attr]
    ids = vocabulary.tokens.tokenize_str(text)
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and bool(matcher.is_accepting())


@pytest.mark.parametrize(
    ("schema", "written", "refused"),
    [
        ({"const": 1}, ["1"], ["1.0", "1e0", "2"]),
        ({"enum": [2.5, "a"]}, ["2.5", '"a"'], ["2.50", "a"]),
        ({"type": "integer"}, ["1", "-3"], ["1.0"]),
        ({"type": "number"}, ["1", "1.0", "1.25"], ["01", "1."]),
        ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2023-02-29"'],
         ['"2023-02-30"', '"2023-13-01"', '"2023-04-31"']),
        ({"const": "\u00e9"}, ['"\u00e9"'], ['"\\u00e9"']),
    ],
)  # fmt: skip
def test_of_several_spellings_an_answer_has_the_documented_ones(
    schema: dict[str, Any], written: list[str], refused: list[str]
) -> None:
    assert [text for text in written if not accepts(schema, text)] == []
    assert [text for text in refused if accepts(schema, text)] == []


def sentencepiece_style() -> PreTrainedTokenizerFast:
    """Llama's: words begin with a marked space, and the decoder drops the first one."""
    tokenizer = llama_style_tokenizer()
    own = tokenizer.backend_tokenizer
    own.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("form", [{"schema": {"enum": ["a", "b"]}}, {"regex": "yes|no"}, {"schema": True}])
def test_the_usual_first_token_of_a_sentencepiece_target_is_not_barred(form: dict[str, Any]) -> None:
    tokenizer = sentencepiece_style()
    space, end = tokenizer.convert_tokens_to_ids("\u2581"), tokenizer.convert_tokens_to_ids("</s>")
    target = tiny_model(vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=0)
    pair = ModelPair(target=target, tokenizer=tokenizer)
    handle = target.lm_head.register_forward_hook(lambda module, given, out: out.index_fill(-1, _id(space), 1e4))
    try:
        answer = generate(pair, random_ids(20), max_new_tokens=40, **form)
    finally:
        handle.remove()
    assert answer.output_ids[0] == space
    assert not answer.text.startswith(" ")
    if "regex" in form:
        assert answer.text in ("yes", "no")
    else:
        json.loads(answer.text)


def _id(token: int) -> Any:
    import torch

    return torch.tensor([token])


def test_a_byte_tokenizer_gets_no_room_for_a_space() -> None:
    assert not Vocabulary.of(tiny_tokenizer(), 320, [1]).drops_first_space
    assert not Vocabulary.of(llama_style_tokenizer(), 400, [1]).drops_first_space
    assert Vocabulary.of(sentencepiece_style(), 400, [1]).drops_first_space
