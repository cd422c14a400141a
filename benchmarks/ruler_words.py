"""Words and sentences that generated tasks are made of. No sentence has a number or a name of a task's own."""

from __future__ import annotations

import random
from collections.abc import Iterator


def _listed(text: str) -> list[str]:
    return text.split()


_PEOPLE = _listed("Anna Boris Carla Dmitri Elena Farid Greta Hugo Ines Jonas Klara Luca Marta Nils Olga Pavel")
_DEEDS = _listed("painted visited described crossed photographed sketched remembered admired left measured drew found")
_THINGS = _listed("bridge garden library market museum orchard station theatre tower harbour mill chapel square pier")
_TIMES = (
    "in the morning",
    "before lunch",
    "after the rain",
    "on a quiet day",
    "late in spring",
    "with an old friend",
    "while the bells rang",
    "as the fog lifted",
)
_FIRST = _listed(
    "amber apple autumn birch bottle bramble bronze canvas cedar chalk cherry cloud clover copper coral cotton "
    "crystal dawn desert dune ember fern field flint forest frost ginger glass granite hazel honey indigo iron "
    "island ivory jasper juniper lantern lemon linen maple marble meadow mint moss night oak ocean olive opal paper "
    "pearl pebble pine plum quartz rain reed river rose ruby rust saffron salt sand scarlet shadow silk silver sky "
    "slate snow spruce star stone storm sugar summer sun thistle timber tulip valley velvet violet walnut water "
    "willow winter wool"
)
_SECOND = _listed(
    "anchor arrow badge barrel basket beacon bell bench blade boat bolt book boot bowl box branch brush bucket "
    "button cabin candle cap card cart chain chair chest clock coat coin comb compass cord cradle crown cup desk "
    "dial door drum fan feather flag flute fork frame gate glove hammer handle harp hat hinge hook horn jar kettle "
    "key kite knife ladder lamp latch ledger lens lid lock loom mask mat mirror nail needle net oar pan parcel pen "
    "pipe plate plough pot purse rack rail ring rod roof rope saddle sail scarf shelf shield shoe sled spoon stool "
    "strap table tent thread tile torch tray trunk vase wagon wallet wheel whistle"
)
COMPOUNDS = len(_FIRST) * len(_SECOND)
"""How many different words `words` can draw."""


def prose(chance: random.Random) -> Iterator[str]:
    """Plain sentences without end."""
    while True:
        person, deed, thing, time = (chance.choice(few) for few in (_PEOPLE, _DEEDS, _THINGS, _TIMES))
        yield f"{person} {deed} the {thing} {time}."


def words(chance: random.Random, count: int) -> list[str]:
    """Different made-up compounds such as "riverlamp", at most COMPOUNDS."""
    drawn = chance.sample(range(COMPOUNDS), count)
    return [_FIRST[number // len(_SECOND)] + _SECOND[number % len(_SECOND)] for number in drawn]
