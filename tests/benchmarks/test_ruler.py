"""Generated long-context tasks: their answers can be found, their length is what was asked for."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from tiny import tiny_tokenizer

from benchmarks.ruler import QUESTIONS, TASKS, LongCase, ruler_cases
from benchmarks.ruler_words import COMPOUNDS, words
from spec_rag.errors import ConfigError
from spec_rag.evaluation.questions import AnsweredQuestion
from spec_rag.text.documents import Document
from spec_rag.text.tokenization import text_ids

TOKENIZER = tiny_tokenizer()
ASKED = [
    AnsweredQuestion(
        f"Who founded town {i}?",
        [f"Person {i}X"],
        [
            Document(
                f"Town {i} was founded by Person {i}X. " + f"It has {i} mills and a pier. " * 12, title=f"Town {i}"
            ),
            Document(f"Mill {i} grinds corn for the coast. " * 12, title=f"Mill {i}"),
        ],
    )
    for i in range(40)
]


def byte_tokens(text: str) -> int:
    return len(text_ids(TOKENIZER, text))


def word_tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def made(task: str, tokens: int = 3000, cases: int = 2, seed: int = 0, count=byte_tokens) -> list[LongCase]:  # type: ignore[no-untyped-def]
    return ruler_cases(task, count, tokens, cases, seed, questions=ASKED)


def test_there_are_thirteen_tasks() -> None:
    assert len(set(TASKS)) == 13


@pytest.mark.parametrize(("count", "tokens"), [(byte_tokens, 4000), (byte_tokens, 12000), (word_tokens, 1500)])
@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_as_long_as_was_asked_for(task: str, count, tokens: int) -> None:  # type: ignore[no-untyped-def]
    for case in made(task, tokens, count=count):
        assert case.tokens == count(case.prompt)
        assert 0.95 * tokens <= case.tokens <= tokens


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_stand_in_the_documents_and_not_in_the_question(task: str) -> None:
    for case in made(task):
        documents = " ".join(document.text for document in case.documents)
        assert case.score(documents) == 1
        assert case.score(" ".join(case.answers)) == 1
        assert case.score(case.question + case.answer_start) == 0


@pytest.mark.parametrize("task", TASKS)
def test_cases_are_the_same_by_seed_and_differ_by_seed_and_number(task: str) -> None:
    first, again, other = made(task), made(task), made(task, seed=1)
    random.seed(5)
    assert first == again
    assert first[0].prompt != first[1].prompt
    assert first[0].prompt != other[0].prompt


def test_each_answer_counts_alike_unless_one_is_enough() -> None:
    (case,) = made("niah_multivalue", cases=1)
    assert len(case.answers) == 4
    assert case.score(f"It is {case.answers[2]}, I think.") == 0.25
    (asked,) = made("qa_1", cases=1)
    assert asked.score("nobody") == 0


def test_needles_are_as_many_as_the_task_says() -> None:
    def needles(task: str) -> list[tuple[str, str]]:
        (case,) = made(task, cases=1)
        return re.findall(r"One of the secret \w+ of (\S+) is (\S+)\.", case.documents[0].text)

    counts = {task: len(needles(task)) for task in TASKS[:8]}
    assert {task: n for task, n in counts.items() if "multikey_2" not in task and "multikey_3" not in task} == {
        "niah_single_1": 1,
        "niah_single_2": 1,
        "niah_single_3": 1,
        "niah_multikey_1": 4,
        "niah_multivalue": 4,
        "niah_multiquery": 4,
    }
    for task in ("niah_multikey_2", "niah_multikey_3"):
        found = needles(task)
        assert len(found) > 15
        assert len({key for key, _ in found}) == len({value for _, value in found}) == len(found)
    (case,) = made("niah_multiquery", cases=1)
    assert all(key in case.question for key, _ in needles("niah_multiquery"))


def test_needles_lie_anywhere() -> None:
    cases = made("niah_single_2", cases=40)
    depths = [case.documents[0].text.index("One of the secret") / len(case.documents[0].text) for case in cases]
    assert min(depths) < 0.2
    assert max(depths) > 0.8


def test_variables_lead_back_to_the_value() -> None:
    (case,) = made("vt", cases=1)
    text = case.documents[0].text
    values = dict(re.findall(r"VAR (\w+) = (\d+)", text))
    for later, earlier in re.findall(r"VAR (\w+) = VAR (\w+)", text):
        values[later] = values[earlier]
    (value,) = set(values.values())
    assert value in case.question
    assert set(case.answers) == values.keys()
    assert len(case.answers) == 5


def test_the_common_and_the_frequent_words_are_the_answer() -> None:
    (common,) = made("cwe", cases=1)
    listed = Counter(re.findall(r"\d+\. (\w+)", common.documents[0].text)).most_common(11)
    assert {word for word, _ in listed[:10]} == set(common.answers)
    assert listed[9][1] > listed[10][1]
    (frequent,) = made("fwe", cases=1)
    ranked = Counter(frequent.documents[0].text.split()).most_common(4)
    assert tuple(word for word, _ in ranked[:3]) == frequent.answers
    assert ranked[2][1] > ranked[3][1]


def test_questions_come_with_what_answers_them_and_documents_of_others() -> None:
    one, several = made("qa_1", cases=1)[0], made("qa_2", cases=1)[0]
    assert one.question == several.question == "Who founded town 0?"
    for case in (one, several):
        assert ASKED[0].documents[0] in case.documents
        assert len(case.documents) > 4
    assert ASKED[0].documents[1] in several.documents


def test_sentences_of_the_user_s_own_are_the_haystack() -> None:
    own = [f"Sentence {word} of mine." for word in ("one", "two", "three")]
    (case,) = ruler_cases("niah_single_2", byte_tokens, 2000, 1, haystack=own)
    rest = re.sub(r"One of the secret numbers of \w+ is \d+\. ?", "", case.documents[0].text)
    assert set(re.findall(r"Sentence \w+ of mine\.", rest)) == set(own)
    assert not re.sub(r"Sentence \w+ of mine\.", "", rest).strip()


def test_drawn_words_differ() -> None:
    assert len(set(words(random.Random(0), COMPOUNDS))) == COMPOUNDS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("niah", byte_tokens, 2000, 1), "task='niah': must be one of niah_single_1"),
        (("qa_1", byte_tokens, 2000, 1), "task='qa_1' needs a file"),
        (("cwe", byte_tokens, 300, 1), r"tokens=300 is too few for cwe: give at least \d+"),
        (("vt", byte_tokens, 0, 1), "tokens=0"),
        (("vt", byte_tokens, 2000, 0), "cases=0"),
    ],
)
def test_what_cannot_be_made_is_said(arguments: tuple[str, object, int, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ruler_cases(*arguments)  # type: ignore[arg-type]


def test_questions_that_cannot_fill_the_prompt_are_said() -> None:
    with pytest.raises(ConfigError, match=r"tokens=90000 is more than qa_1 can fill \(\d+\)"):
        ruler_cases("qa_1", byte_tokens, 90000, 1, questions=ASKED)
    assert set(QUESTIONS) < set(TASKS)
