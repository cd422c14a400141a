"""The thirteen tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654) in our own words, for any tokenizer and length.

Needles in a haystack (eight), variable tracking, common and frequent words, and two kinds of questions over documents
of a given file. Generated, deterministic by seed. This module does not know models.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice, pairwise

from benchmarks.cases import LongCase
from benchmarks.ruler_words import COMPOUNDS, prose, words
from spec_rag.errors import ConfigError
from spec_rag.evaluation.metrics import holds_answer
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document
from spec_rag.utils.validation import check_integer

Count = Callable[[str], int]


Builder = Callable[[random.Random, int], LongCase]
"""Makes a case of so many units (sentences, needles, words); the same chance makes the same case."""


@dataclass(frozen=True)
class _Needles:
    """A kind of needle: what is hidden where.

    Args:
        keys: different keys in the text, or None: the haystack is nothing but needles.
        asked: how many of the keys are asked for.
        values: of each key.
        key_ids, value_ids: keys or values are random identifiers instead of words and numbers.
        noise: the haystack repeats a few sentences instead of being prose.
    """

    keys: int | None = 1
    asked: int = 1
    values: int = 1
    key_ids: bool = False
    value_ids: bool = False
    noise: bool = False


_NEEDLES: Mapping[str, _Needles] = {
    "niah_single_1": _Needles(noise=True),
    "niah_single_2": _Needles(),
    "niah_single_3": _Needles(value_ids=True),
    "niah_multikey_1": _Needles(keys=4),
    "niah_multikey_2": _Needles(keys=None),
    "niah_multikey_3": _Needles(keys=None, key_ids=True, value_ids=True),
    "niah_multivalue": _Needles(values=4),
    "niah_multiquery": _Needles(keys=4, asked=4),
}
QUESTIONS = ("qa_1", "qa_2")
"""Questions of one hop and of several; what they are depends on the file that is given."""
TASKS = (*_NEEDLES, "vt", "cwe", "fwe", *QUESTIONS)
_NOISE = ("The day is long.", "The road is dry.", "Clouds drift over the hills.", "We walk on and come back again.")


def ruler_cases(
    task: str,
    count: Count,
    tokens: int,
    cases: int,
    seed: int = 0,
    *,
    questions: Sequence[AnsweredQuestion] = (),
    haystack: Sequence[str] = (),
) -> list[LongCase]:
    """Cases of a task whose prompts have at most `tokens` tokens, and hardly fewer.

    Args:
        task: one of TASKS.
        count: tokens of a text, as the model that will read it counts them.
        tokens: of each prompt, chat template not counted.
        cases: how many.
        seed: another one gives other cases.
        questions: for qa_1 and qa_2; documents of other questions fill the prompt.
        haystack: sentences of the user's own, read round and round, in place of generated prose.

    Raises:
        ConfigError: the task is unknown, or has no questions, or `tokens` is too few or too many for it.
    """
    if task not in TASKS:
        raise ConfigError(f"task={task!r}: must be one of {', '.join(TASKS)}.")
    check_integer("tokens", tokens, 1)
    check_integer("cases", cases, 1)
    if task in QUESTIONS and len(questions) < 2:
        raise ConfigError(f"task={task!r} needs a file of at least two questions with documents: give questions.")
    made = []
    for number in range(cases):
        own = f"{seed} {task} {number}"  # a string seeds the same on every machine
        if task in _NEEDLES:
            build: Builder = partial(_needles, task, _NEEDLES[task], haystack)
        elif task == "vt":
            build = partial(_variables, haystack)
        elif task == "cwe":
            build = partial(_common_words, 30 if tokens >= 4096 else 10, 3 if tokens >= 4096 else 1)
        elif task == "fwe":
            build = _frequent_words
        else:
            build = partial(_question, task, questions, number)
        made.append(_fitted(task, lambda size, build=build, own=own: build(random.Random(own), size), count, tokens))  # type: ignore[misc]
    return made


def _fitted(task: str, build: Callable[[int], LongCase], count: Count, tokens: int) -> LongCase:
    """The case of the most units that `tokens` allow, or nearly, found by steps along its slope and by halving."""

    def sized(size: int) -> LongCase:
        case = build(size)
        return replace(case, tokens=count(case.prompt))

    best, low = sized(0), 0
    high: int | None = None
    if best.tokens > tokens:
        raise ConfigError(f"tokens={tokens} is too few for {task}: give at least {best.tokens}.")
    size = 16
    while tokens - best.tokens > tokens / 100 and (high is None or high - low > 1):
        case = sized(size)
        if case.tokens > tokens:
            high = size
        else:
            slope = (case.tokens - best.tokens) / (size - low)
            best, low = case, size
            if slope == 0:  # nothing is left to be added
                break
            size = low + max(1, int((tokens - case.tokens) / slope))
        if high is not None and size >= high:
            size = (low + high) // 2
    if best.tokens < 0.95 * tokens:
        raise ConfigError(
            f"tokens={tokens} is more than {task} can fill ({best.tokens}): give fewer, or more questions to a task "
            "that asks them."
        )
    return best


def _sentences(chance: random.Random, haystack: Sequence[str]) -> Iterator[str]:
    """Sentences without end: the user's own, from a random one on, or prose."""
    if not haystack:
        return prose(chance)
    start = chance.randrange(len(haystack))
    return islice(cycle(haystack), start, None)


def _strewn(chance: random.Random, hay: list[str], needles: Sequence[str]) -> str:
    """The needles in random places of the hay, in their order."""
    places = sorted(chance.randint(0, len(hay)) for _ in needles)
    for place, needle in reversed(list(zip(places, needles, strict=True))):
        hay.insert(place, needle)
    return " ".join(hay)


def _noise(size: int) -> list[str]:
    return list(islice(cycle(_NOISE), size))


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _needles(task: str, kind: _Needles, haystack: Sequence[str], chance: random.Random, size: int) -> LongCase:
    total = 1 + min(size, COMPOUNDS - 1) if kind.keys is None else kind.keys
    names = [_id(chance) for _ in range(total)] if kind.key_ids else words(chance, total)
    numbers = iter(chance.sample(range(1_000_000, 10_000_000), total * kind.values))
    values = [[_id(chance) if kind.value_ids else str(next(numbers)) for _ in range(kind.values)] for _ in names]
    noun = "code" if kind.value_ids else "number"
    needles = [
        f"One of the secret {noun}s of {key} is {value}."
        for key, own in zip(names, values, strict=True)
        for value in own
    ]
    chance.shuffle(needles)
    if kind.keys is None:
        text = "\n".join(needles)
    else:
        hay = _noise(size) if kind.noise else list(islice(_sentences(chance, haystack), size))
        text = _strewn(chance, hay, needles)
    picked = chance.sample(range(total), kind.asked)
    asked = [names[i] for i in picked]
    answers = [value for i in picked for value in values[i]]
    listed = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])} and {asked[-1]}"
    one = len(answers) == 1
    question = f"What {'is' if one else 'are all'} the secret {noun}{'' if one else 's'} of {listed} in the text above?"
    start = f"The secret {noun}{'' if one else 's'} of {listed} in the text {'is' if one else 'are'}"
    longest = (32 if kind.value_ids else 10) * len(answers) + 16
    return LongCase(task, (Document(text),), question, start, tuple(answers), max_new_tokens=longest)


def _variables(haystack: Sequence[str], chance: random.Random, size: int, hops: int = 4) -> LongCase:
    """A chain of variables, each set to the one before; which of them have the first one's value?"""
    names: list[str] = []
    while len(names) <= hops:
        name = "".join(chance.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(5))
        names += [] if name in names else [name]
    value = str(chance.randrange(10_000, 100_000))
    chain = [f"VAR {names[0]} = {value}."]
    chain += [f"VAR {later} = VAR {earlier}." for earlier, later in pairwise(names)]
    hay = list(islice(_sentences(chance, haystack), size)) if haystack else _noise(size)
    question = f"Track the assignments in the text above. Which {len(names)} variables have the value {value}?"
    start = f"The {len(names)} variables that have the value {value} are"
    return LongCase("vt", (Document(_strewn(chance, hay, chain)),), question, start, tuple(names))


def _common_words(often: int, seldom: int, chance: random.Random, size: int, common: int = 10) -> LongCase:
    """A numbered list in which ten words come often and all others seldom."""
    drawn = words(chance, common + min(size, COMPOUNDS - common))
    listed = drawn[:common] * often + drawn[common:] * seldom
    chance.shuffle(listed)
    text = " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))
    question = f"What are the {common} most common words in the list above?"
    start = f"The {common} most common words in the list are"
    return LongCase("cwe", (Document(text),), question, start, tuple(drawn[:common]))


def _frequent_words(chance: random.Random, size: int, asked: int = 3) -> LongCase:
    """Made-up words whose frequency falls with the square of their rank (Zipf); the three most frequent are asked."""
    total, rank, listed, coded = 40 + size, 0, list[str](), list[str]()
    shares = [1 / (place * place) for place in range(1, 201)]
    while len(listed) < total and rank < len(shares):
        word = "".join(chance.choice("bcdfghjklmnprstvwz") + chance.choice("aeiou") for _ in range(3))
        if word not in coded:
            coded.append(word)
            listed += [word] * max(1, round(total * shares[rank] / sum(shares)))
            rank += 1
    chance.shuffle(listed)
    question = f"What are the {asked} words that come most often in the coded text above?"
    start = f"The {asked} words that come most often are"
    return LongCase("fwe", (Document(" ".join(listed)),), question, start, tuple(coded[:asked]))


def _question(
    task: str, questions: Sequence[AnsweredQuestion], number: int, chance: random.Random, size: int
) -> LongCase:
    """A question with those of its documents that hold an answer, or all, and `size` words of others."""
    asked = questions[number % len(questions)]
    own = [d for d in asked.documents if holds_answer(d.text, asked.answers)] if task == "qa_1" else []
    needed = own[:1] or list(asked.documents)
    pool = [d for d in asked.documents if d not in needed]
    others = [d for other in questions if other is not asked for d in other.documents]
    chance.shuffle(others)
    documents, left = list(needed), size
    for other in [*pool, *others]:
        pieces = other.text.split(" ")[:left]
        if not pieces or other in documents:
            continue
        documents.append(replace(other, text=" ".join(pieces)))
        left -= len(pieces)
    chance.shuffle(documents)
    start = "Answer in a few words: "
    return LongCase(task, tuple(documents), asked.question, start, tuple(asked.answers), "any")
