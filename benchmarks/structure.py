"""Structured documents: is the right value kept under the right name?

`documents()` renders small record sets in all formats: tables, records, sections, lists, dialogues, code. `verdict`
reads the kept text as a reader would: a value belongs to the last name above it. Run `python -m benchmarks.structure`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Domain:
    """Records with the same fields.

    Attributes:
        noun: what a record is called.
        rows: per name, its values in the order of the fields.
        fields: per field, its question and its sentence, with {name} and {value}.
        filler: sentences that say nothing about a field.
    """

    noun: str
    rows: Rows
    fields: Mapping[str, tuple[str, str]]
    filler: Sequence[str]


@dataclass(frozen=True)
class Case:
    """A question about one field of one record.

    Attributes:
        kind: the format.
        text: the document.
        question: the question.
        name: the record that is asked for.
        value: its value.
        names: names of all records.
        others: values of the field in the other records.
    """

    kind: str
    text: str
    question: str
    name: str
    value: str
    names: tuple[str, ...]
    others: tuple[str, ...]


def _domain(noun: str, table: str, fields: Mapping[str, tuple[str, str]], filler: Sequence[str]) -> Domain:
    rows = {}
    for line in table.strip().splitlines():
        name, *values = (cell.strip() for cell in line.split("|"))
        rows[name] = dict(zip(fields, values, strict=True))
    return Domain(noun, rows, fields, filler)


DOMAINS = (
    _domain(
        "service",
        """
        frontend | nginx:1.27 | 8080 | 256m | Imani
        grafana | grafana-oss:11.2 | 3000 | 512m | Tomas
        ledger | postgres:16 | 5432 | 2048m | Ulrike
        cache | redis:7 | 6379 | 128m | Viktor
        mailer | exim:4.98 | 2525 | 64m | Wanda
        search | solr:9.6 | 8983 | 1024m | Xenia
        gateway | traefik:3.1 | 8443 | 96m | Yusuf
        builder | forgejo:8.0 | 3922 | 768m | Zofia
        """,
        {
            "image": ("Which image does {name} use?", "The image of {name} is {value}."),
            "port": ("On which port does {name} listen?", "It listens on port {value}."),
            "memory": ("What is the memory limit of {name}?", "Its memory limit is {value}."),
            "owner": ("Who is the owner of {name}?", "Its owner is {value}."),
        },
        ("It is restarted every night.", "Logs are kept for two weeks.", "It starts within a minute."),
    ),
    _domain(
        "oven",
        """
        Aurora | 595 mm | 31 kg | 399 EUR | 24 months
        Borea | 448 mm | 22 kg | 329 EUR | 18 months
        Cirrus | 897 mm | 52 kg | 999 EUR | 60 months
        Delta | 612 mm | 33 kg | 419 EUR | 30 months
        Ember | 641 mm | 41 kg | 529 EUR | 36 months
        Fjord | 436 mm | 19 kg | 299 EUR | 12 months
        Gale | 668 mm | 35 kg | 479 EUR | 42 months
        Harbor | 703 mm | 47 kg | 649 EUR | 54 months
        """,
        {
            "width": ("How wide is the {name}?", "The {name} has a width of {value}."),
            "weight": ("How much does the {name} weigh?", "Its weight is {value}."),
            "price": ("What does the {name} cost?", "Its price is {value}."),
            "warranty": ("How long is the warranty of the {name}?", "Its warranty is {value}."),
        },
        ("It comes with two trays.", "The door opens to the left.", "It was tested by a jury of cooks."),
    ),
    _domain(
        "employee",
        """
        Berglund | accountant | 2.14 | 5-7710 | Malmö
        Castellano | translator | 1.03 | 5-7724 | Palermo
        Dvorak | electrician | 0.27 | 5-7731 | Brno
        Eriksen | librarian | 3.40 | 5-7748 | Bergen
        Fontaine | radiologist | 4.05 | 5-7752 | Lyon
        Gruber | gardener | 0.11 | 5-7769 | Graz
        Hakala | surveyor | 2.86 | 5-7773 | Oulu
        Ivanova | archivist | 1.59 | 5-7785 | Plovdiv
        """,
        {
            "profession": ("What is the profession of {name}?", "{name} works as {value}."),
            "room": ("In which room is {name}?", "The room is {value}."),
            "phone": ("What is the phone number of {name}?", "The phone number is {value}."),
            "city": ("In which city does {name} live?", "The city of residence is {value}."),
        },
        ("The contract is permanent.", "Holidays are taken in summer.", "Training was finished last year."),
    ),
    _domain(
        "boat",
        """
        Kayak | 14 euros | 50 euros | two | Heron Jetty
        Canoe | 18 euros | 60 euros | three | Otter Jetty
        Dinghy | 25 euros | 90 euros | four | Lock House
        Raft | 40 euros | 120 euros | eight | Mill Pond
        Pedalo | 22 euros | 70 euros | five | Rose Garden
        Punt | 31 euros | 80 euros | six | Old Bridge
        Skiff | 28 euros | 75 euros | one | Willow Bank
        Barge | 95 euros | 300 euros | twelve | Coal Wharf
        """,
        {
            "fee": ("What is the daily fee for a {name}?", "The daily fee for a {name} is {value}."),
            "deposit": ("How high is the deposit for a {name}?", "The deposit is {value}."),
            "seats": ("How many seats does a {name} have?", "The number of seats is {value}."),
            "place": ("At which place is the {name} handed out?", "The place of hire is {value}."),
        },
        ("Life jackets must be worn.", "Children need an adult.", "Bring dry clothes."),
    ),
)


def _pairs(row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return iter(row.items())


def _sections(domain: Domain, heading: Callable[[str], str], paragraph: str = "{}\n\n") -> str:
    parts = []
    for i, (name, row) in enumerate(domain.rows.items()):
        sentences = [domain.fields[field][1].format(name="it", value=value) for field, value in _pairs(row)]
        sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
        sentences.insert(i % 4, domain.filler[i % len(domain.filler)])
        parts.append(heading(name) + paragraph.format(" ".join(sentences)))
    return "".join(parts)


def _table(domain: Domain, row: Callable[[Sequence[str]], str], rule: str = "") -> str:
    header = [domain.noun, *domain.fields]
    lines = [row(header), *([rule] if rule else []), *(row([n, *r.values()]) for n, r in domain.rows.items())]
    return "\n".join(lines) + "\n"


def _nested(domain: Domain) -> dict[str, Any]:
    return {f"{domain.noun}s": {name: dict(row) for name, row in domain.rows.items()}}


def _listed(domain: Domain) -> dict[str, Any]:
    return {f"{domain.noun}s": [{"name": name, **row} for name, row in domain.rows.items()]}


def _grid(domain: Domain) -> str:
    border = "+" + "+".join(["-" * 20] * 5) + "+"
    lines = _table(domain, lambda cells: "|" + "|".join(f" {cell:<19}" for cell in cells) + "|").splitlines()
    body = f"\n{border}\n".join(lines[1:])
    return f"{border}\n{lines[0]}\n{border.replace('-', '=')}\n{body}\n{border}\n"


def _html_table(domain: Domain) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in [domain.noun, *domain.fields])
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in [n, *r.values()]) + "</tr>" for n, r in domain.rows.items()
    )
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>\n<p>All is checked twice a year.</p><p>Ask at the desk.</p>"


def _dialogue(domain: Domain) -> str:
    turns = ["Moderator: Welcome everyone. Please report one after the other."]
    for i, (name, row) in enumerate(domain.rows.items()):
        own = [domain.fields[field][1].format(name="mine", value=value) for field, value in _pairs(row)]
        own.insert(i % 4, domain.filler[i % len(domain.filler)])
        turns.append(f"{name}: {' '.join(s[0].upper() + s[1:] for s in own)}")
        turns.append("Moderator: Thank you. Next please, we have little time left.")
    return "\n".join(turns)


def _questions(domain: Domain) -> str:
    pairs = []
    for name, row in domain.rows.items():
        for field, value in _pairs(row):
            question, _ = domain.fields[field]
            pairs.append(f"Q: {question.format(name=name)}\nA: It is {value}. Write to us for more.\n")
    return "\n".join(pairs)


def _code(domain: Domain) -> str:
    parts = ['"""Settings of all records."""\n\nimport registry\n']
    for name, row in domain.rows.items():
        body = "\n".join(f'    {field} = "{value}"' for field, value in _pairs(row))
        parts.append(
            f'\n\ndef add_{name}(registry):\n    """Add it to the registry."""\n{body}\n'
            f"    return registry.add({', '.join(row)})\n"
        )
    return "".join(parts)


def _log(domain: Domain) -> str:
    lines = []
    for i, (name, row) in enumerate(domain.rows.items()):
        for j, (field, value) in enumerate(_pairs(row)):
            lines.append(f"2024-05-{10 + i} 10:0{j}:0{i} INFO {name}: {field} set to {value}")
    return "\n".join(lines)


def _toml_value(row: Mapping[str, str]) -> str:
    return "\n".join(f'{field} = "{value}"' for field, value in _pairs(row))


RENDERERS: Mapping[str, Callable[[Domain], str]] = {
    "markdown table": lambda d: _table(d, lambda c: f"| {' | '.join(c)} |", "|---|---|---|---|---|"),
    "csv": lambda d: _table(d, ",".join),
    "tsv": lambda d: _table(d, "\t".join),
    "aligned table": lambda d: _table(d, lambda c: "".join(f"{cell:<18}" for cell in c).rstrip()),
    "grid table": _grid,
    "html table": _html_table,
    "yaml": lambda d: f"{d.noun}s:\n" + "".join(
        f"  {n}:\n" + "".join(f"    {f}: {v}\n" for f, v in _pairs(r)) for n, r in d.rows.items()),
    "yaml list": lambda d: f"{d.noun}s:\n" + "".join(
        f"  - name: {n}\n" + "".join(f"    {f}: {v}\n" for f, v in _pairs(r)) for n, r in d.rows.items()),
    "json": lambda d: json.dumps(_nested(d), indent=2, ensure_ascii=False),
    "json list": lambda d: json.dumps(_listed(d), indent=2, ensure_ascii=False),
    "json on one line": lambda d: json.dumps(_listed(d), ensure_ascii=False),
    "toml": lambda d: "\n\n".join(f"[{d.noun}s.{n}]\n{_toml_value(r)}" for n, r in d.rows.items()) + "\n",
    "toml array": lambda d: "\n\n".join(
        f'[[{d.noun}s]]\nname = "{n}"\n{_toml_value(r)}' for n, r in d.rows.items()) + "\n",
    "ini": lambda d: "\n".join(
        f"[{n}]\n" + "".join(f"{f} = {v}\n" for f, v in _pairs(r)) for n, r in d.rows.items()),
    "properties": lambda d: "".join(f"{d.noun}.{n}.{f}={v}\n" for n, r in d.rows.items() for f, v in _pairs(r)),
    "records": lambda d: "\n".join(
        f"Name: {n}\n" + "".join(f"{f.title()}: {v}\n" for f, v in _pairs(r)) for n, r in d.rows.items()),
    "markdown sections": lambda d: f"# All {d.noun}s\n\n" + _sections(d, "## {}\n\n".format),
    "underlined sections": lambda d: _sections(d, lambda n: f"{n}\n{'-' * len(n)}\n\n"),
    "html sections": lambda d: "<html><body>" + _sections(d, "<h2>{}</h2>\n".format, "<p>{}</p>\n") + "</body></html>",
    "bold sections": lambda d: _sections(d, "**{}**\n\n".format),
    "nested list": lambda d: f"The {d.noun}s are:\n\n" + "".join(
        f"- {n}\n" + "".join(f"  - {f}: {v}\n" for f, v in _pairs(r)) for n, r in d.rows.items()),
    "dialogue": _dialogue,
    "questions and answers": _questions,
    "code": _code,
    "log": _log,
    "fenced yaml": lambda d: "# Setup\n\nUse this file.\n\n```yaml\n" + RENDERERS["yaml"](d) + "```\n\nThen start it.",
}  # fmt: skip


def cases(per_kind: int = 3) -> Iterator[Case]:
    """Four questions on each of `per_kind` documents per format."""
    for k, (kind, render) in enumerate(RENDERERS.items()):
        for n in range(per_kind):
            domain = DOMAINS[(k + n) % len(DOMAINS)]
            text = render(domain)
            for i, (field, (question, _)) in enumerate(domain.fields.items()):
                name = list(domain.rows)[(k + 2 * i + n) % len(domain.rows)]
                others = tuple(row[field] for other, row in domain.rows.items() if other != name)
                yield Case(
                    kind, text, question.format(name=name), name, domain.rows[name][field], tuple(domain.rows), others
                )


@dataclass(frozen=True)
class Verdict:
    """Whether the value is kept under its name, another's value under the name, or only another's value anywhere."""

    right: bool
    wrong: bool
    only_others: bool


def verdict(case: Case, kept: str) -> Verdict:
    """Read a kept text: a value belongs to the last name before it."""
    places = sorted((at, name) for name in case.names for at in _places(kept, name))

    def owner(at: int) -> str:
        return next((name for place, name in reversed(places) if place < at), "")

    right = any(owner(at) == case.name for at in _places(kept, case.value))
    foreign = [at for value in case.others for at in _places(kept, value)]
    wrong = any(owner(at) == case.name for at in foreign)
    return Verdict(right, wrong, bool(foreign) and not right)


def _places(text: str, piece: str) -> list[int]:
    found, at = [], text.find(piece)
    while at >= 0:
        before, behind = text[at - 1 : at], text[at + len(piece) : at + len(piece) + 1]
        if not ((piece[0].isdigit() and before.isdigit()) or (piece[-1].isdigit() and behind.isdigit())):
            found.append(at)
        at = text.find(piece, at + 1)
    return found


def main() -> None:
    """Measure with the default draft and print a table."""
    from spec_rag import DocumentIndex, compress

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.125])
    parser.add_argument("--per-kind", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--show", action="store_true", help="print what is kept where the answer is not right")
    options = parser.parse_args()
    chosen = [case for case in cases(options.per_kind) if not options.kinds or case.kind in options.kinds]
    index = DocumentIndex()  # each document is encoded once
    for ratio in options.ratios:
        count: Counter[tuple[str, str]] = Counter()
        for case in chosen:
            result = compress([case.text], case.question, ratio=ratio, index=index)
            found = verdict(case, result.text)
            count[case.kind, "asked"] += 1
            count[case.kind, "right"] += found.right
            count[case.kind, "over budget"] += bool(result.over_budget)
            count[case.kind, "wrong"] += found.wrong
            count[case.kind, "only others"] += found.only_others
            if options.show and (not found.right or found.wrong or result.over_budget):
                print(f"--- {case.kind} | {case.question} | {case.value} | over {result.over_budget}\n{result.text}")
        columns = ("right", "over budget", "wrong", "only others")
        kinds = dict.fromkeys(case.kind for case in chosen)
        for kind in kinds:
            print(f"{ratio} {kind:24}", *(f"{count[kind, column]:3} {column}" for column in columns), sep="  ")
        asked = sum(count[kind, "asked"] for kind in kinds)
        total = {column: sum(count[kind, column] for kind in kinds) for column in columns}
        print(f"{ratio} of {asked}:", ", ".join(f"{total[c]} {c}" for c in columns), flush=True)


if __name__ == "__main__":
    main()
