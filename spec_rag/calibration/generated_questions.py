"""Questions over documents invented from a seed: single facts, facts two documents apart, and needles.

The same seed gives the same questions on every machine. The names are made up, and the sentences and questions come
from `data/question_templates.toml`; nothing is taken from a data set. This module knows no models.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document

_KINDS = ("fact", "two-step", "fact", "needle", "fact", "two-step")  # in turn
_MIN_DOCUMENTS = 6  # what is needed, and the documents that distract from it
_WORDS = (80, 102)  # a document ends with the sentence that reaches a number between these
_NEEDLE = "needle"

_Lines = list[tuple[str | None, str]]  # the fact that a sentence states, if any, and the sentence


@dataclass(frozen=True)
class GeneratedQuestion:
    """A question, its documents and where the answer stands.

    Args:
        kind: "fact" (one sentence is needed), "two-step" (one sentence each of two documents, in the order of
            thought) or "needle" (one sentence, in a document about something else).
        question: as somebody might type it.
        answers: what counts as right; the first stands in the last needed sentence and nowhere else.
        documents: with text and title, shuffled; no two have the same title.
        needed: (document index, start, end) of each needed sentence, in characters of the document's text.
    """

    kind: str
    question: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...]
    needed: tuple[tuple[int, int, int], ...]


def generated_questions(count: int, seed: int = 0, documents: int = 10) -> Iterator[GeneratedQuestion]:
    """Invent questions: of every six, three are facts, two are two-step and one is a needle.

    Args:
        count: how many.
        seed: another one gives other questions; question i of a seed does not depend on `count`.
        documents: how many each question has.

    Raises:
        ConfigError: `count` is below 1 or `documents` below 6.
    """
    for name, value, least in (("count", count, 1), ("documents", documents, _MIN_DOCUMENTS)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}={value!r}: must be a whole number of at least {least}.")
    return (_question(_KINDS[index % len(_KINDS)], f"{seed}-{index}", documents) for index in range(count))


@cache
def _templates(table: str) -> Any:
    path = files("spec_rag").joinpath("data", "question_templates.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))[table]


class _Slots(dict[str, str]):
    """What fills the braces of a pattern; what is not given is made when the pattern asks for it."""

    def __init__(self, make: Callable[[str], str], **given: str) -> None:
        super().__init__(given)
        self._make = make

    def __missing__(self, slot: str) -> str:
        return self.setdefault(slot, self._make(slot))


@dataclass(frozen=True, eq=False)
class _Page:
    """A document while its sentences are known by the facts they state."""

    title: str
    lines: _Lines

    @property
    def text(self) -> str:
        return " ".join(sentence for _, sentence in self.lines)

    def span(self, fact: str) -> tuple[int, int]:
        index = [stated for stated, _ in self.lines].index(fact)
        start = sum(len(sentence) + 1 for _, sentence in self.lines[:index])
        return start, start + len(self.lines[index][1])


class _Writer:
    """Makes the names, values and pages of one case. Once it has an `answer`, no new name or value contains it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.answer = ""
        self._parts: dict[str, _Slots] = {}  # what each name was put together from

    def value(self, kind: str) -> str:
        """A value of some kind; a new one if it is a kind of name."""
        if kind in _templates("names"):
            return self.name(kind)
        limits = _templates("ranges").get(kind)
        while True:
            made = str(self.random.randint(*limits)) if limits else self._filled("values", kind, _Slots(self.value))
            if not self._has_answer(made):
                return made

    def name(self, kind: str, like: str | None = None) -> str:
        """A new name, which often shares a word with that of another thing of its kind."""
        while True:
            slots = _Slots(self.value)
            if like is not None and self.random.random() < 0.6:
                slot = _templates("similar")[kind]
                slots[slot] = self._parts_of(like)[slot]
            made = self._filled("names", kind, slots)
            if made.removeprefix("The ") not in self._parts and not self._has_answer(made):
                self._parts[made.removeprefix("The ")] = slots
                return made

    def anything(self) -> tuple[str, str]:
        """A kind of thing and the name of a new one."""
        thing = self.random.choice(list(_templates("things")))
        return thing, self.name(thing)

    def facts(self, thing: str, without: Collection[str] = ()) -> list[str]:
        """The facts there are about a kind of thing, in random order."""
        facts = [fact for fact in _templates("things")[thing]["facts"] if fact not in without]
        return self.random.sample(facts, len(facts))

    def fact_value(self, thing: str, fact: str) -> str:
        return self.value(_templates("things")[thing]["facts"][fact]["value"])

    def similar_page(self, thing: str, name: str, fact: str) -> _Page:
        """A page that states the same fact of another thing, which may have a similar name."""
        return self.page(thing, self.name(thing, like=name), {fact: self.fact_value(thing, fact)})

    def ask(self, thing: str, fact: str, called: str) -> str:
        question: str = self.random.choice(_templates("things")[thing]["facts"][fact]["questions"])
        return question.format(n=called)

    def page(
        self, thing: str, name: str, known: Mapping[str, str], others: Sequence[str] | None = None, stray: str = ""
    ) -> _Page:
        """A page about a thing: the facts that are known, others of any value, fillers, perhaps a stray sentence."""
        templates = _templates("things")[thing]
        others = self.facts(thing, known)[: self.random.randint(3, 4)] if others is None else others
        lines: _Lines = [(_NEEDLE, stray)] if stray else []
        for fact, value in [*known.items(), *((other, self.fact_value(thing, other)) for other in others)]:
            statement = self.random.choice(templates["facts"][fact]["statements"])
            lines.append((fact, self._sentence(templates, name, statement, value)))
        fillers = self.random.sample(templates["fillers"], len(templates["fillers"]))
        enough = self.random.randint(*_WORDS)
        while fillers and sum(len(sentence.split()) for _, sentence in lines) < enough:
            lines.append((None, self._sentence(templates, name, fillers.pop())))
        self.random.shuffle(lines)
        if self.random.random() < 0.8:
            lines.insert(0, (None, self._sentence(templates, name, self.random.choice(templates["openers"]))))
        return _Page(name, lines)

    def _sentence(self, templates: Mapping[str, Any], name: str, pattern: str, value: str = "") -> str:
        pronouns = [one for one in templates["pronouns"] if one in self._parts_of(name)] or templates["pronouns"]
        p = templates["called"].format(n=name) if self.random.random() < 0.3 else self.random.choice(pronouns)
        return _capitalised(pattern.format_map(_Slots(self.value, n=name, p=p, P=_capitalised(p), v=value)))

    def _filled(self, table: str, kind: str, slots: _Slots) -> str:
        pattern: str = self.random.choice(_templates(table)[kind])
        return pattern.format_map(slots)

    def _parts_of(self, name: str) -> _Slots:
        return self._parts[name.removeprefix("The ")]

    def _has_answer(self, text: str) -> bool:
        return bool(self.answer) and self.answer.casefold() in text.casefold()


def _question(kind: str, seed: str, documents: int) -> GeneratedQuestion:
    """The first attempt whose answer stands in one place only."""
    write = {"fact": _fact, "two-step": _two_step, "needle": _needle}[kind]
    random = Random(seed)
    while True:
        writer = _Writer(random)
        question, pages, needed = write(writer)
        pages += [writer.page(*writer.anything(), {}) for _ in range(documents - len(pages))]
        random.shuffle(pages)
        everything = "\n".join([question, *(f"{page.title}\n{page.text}" for page in pages)])
        if everything.casefold().count(writer.answer.casefold()) == 1:
            made = tuple(Document(page.text, title=page.title) for page in pages)
            spans = tuple((pages.index(page), *page.span(fact)) for page, fact in needed)
            typed = random.choice((question, question.lower(), f"{question}?", f"{_capitalised(question)}?"))
            return GeneratedQuestion(kind, typed, (writer.answer,), made, spans)


_Written = tuple[str, list[_Page], list[tuple[_Page, str]]]  # question, pages, (page, fact) of each needed sentence


def _fact(writer: _Writer) -> _Written:
    """One fact; the same of things with similar names, and perhaps another page about the thing itself."""
    random = writer.random
    thing = random.choice(list(_templates("things")))
    fact, *others = writer.facts(thing)
    name = writer.name(thing)
    writer.answer = writer.fact_value(thing, fact)
    needed = writer.page(thing, name, {fact: writer.answer}, others[:2])
    pages = [needed]
    if random.random() < 0.4:
        title = random.choice(_templates("things")[thing]["related"]).format(n=name)
        pages.append(replace(writer.page(thing, name, {}, others[2:]), title=title))
    pages += [writer.similar_page(thing, name, fact) for _ in range(random.randint(2, 4))]
    return writer.ask(thing, fact, name), pages, [(needed, fact)]


def _two_step(writer: _Writer) -> _Written:
    """A fact of the thing that is the value of another thing's fact; both facts of things with similar names."""
    random = writer.random
    step = random.choice(_templates("steps"))
    thing, target, relation = step["from"], step["to"], step["fact"]
    name, bridge = writer.name(thing), writer.name(target)
    fact, *others = writer.facts(target, without=[relation] if thing == target else [])
    writer.answer = writer.fact_value(target, fact)
    first = writer.page(thing, name, {relation: bridge})
    second = writer.page(target, bridge, {fact: writer.answer}, others[:3])
    pages = [first, second, writer.similar_page(thing, name, relation)]
    pages += [writer.similar_page(target, bridge, fact) for _ in range(2)]
    question = writer.ask(target, fact, random.choice(step["ways"]).format(n=name))
    return question, pages, [(first, relation), (second, fact)]


def _needle(writer: _Writer) -> _Written:
    """A sentence in a page about something else; the same about other places, and others about the same place."""
    random = writer.random
    wanted, *others = random.sample(_templates("needles"), 3)
    place = writer.name("city")
    writer.answer = writer.value(wanted["value"])
    hidden = [(wanted, place, writer.answer)]
    hidden += [(wanted, writer.name("city"), writer.value(wanted["value"])) for _ in range(random.randint(1, 3))]
    hidden += [(other, place, writer.value(other["value"])) for other in others[: random.randint(0, 2)]]
    pages = []
    for needle, where, value in hidden:
        sentence = needle["statement"].format_map(_Slots(writer.value, x=where, v=value))
        pages.append(writer.page(*writer.anything(), {}, stray=sentence))
    return wanted["question"].format(x=place), pages, [(pages[0], _NEEDLE)]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
