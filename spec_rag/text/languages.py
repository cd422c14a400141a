"""Language codes (ISO 639-1), function words, and language detection for sentence splitting.

Scripts decide first, then counts of function words.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg
ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn
no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta
te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""

AUTO = "auto"
"""Detect the language of each text."""

LANGUAGES = frozenset(_CODES.split()) | {AUTO}

_SAMPLE_CHARS = 20_000
_MIN_WORDS = 2  # function words required for a language other than English

# the first script with enough letters decides; kana precedes Han, which Japanese uses as well
_SCRIPTS = (
    ("ja", "\u3040-\u30ff"),
    ("zh", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"),
    ("ko", "\u1100-\u11ff\uac00-\ud7af"),
    ("el", "\u0370-\u03ff"),
    ("he", "\u0590-\u05ff"),
    ("ar", "\u0600-\u06ff"),
    ("hy", "\u0530-\u058f"),
    ("hi", "\u0900-\u097f"),
    ("bn", "\u0980-\u09ff"),
    ("pa", "\u0a00-\u0a7f"),
    ("gu", "\u0a80-\u0aff"),
    ("ta", "\u0b80-\u0bff"),
    ("te", "\u0c00-\u0c7f"),
    ("kn", "\u0c80-\u0cff"),
    ("ml", "\u0d00-\u0d7f"),
    ("th", "\u0e00-\u0e7f"),
    ("my", "\u1000-\u109f"),
    ("ka", "\u10a0-\u10ff"),
    ("am", "\u1200-\u137f"),
    ("km", "\u1780-\u17ff"),
    ("ru", "\u0400-\u04ff"),
)
_SCRIPT_SHARE = 0.2  # minimum share of the letters: Chinese texts may have many Latin names
_LETTERS_OF = (("uk", "іїєґ"), ("fa", "پچژگ"), ("ur", "ٹڈڑے"))
"""Letters that distinguish a language from the main one of its script."""

_FUNCTION_WORDS = {
    "en": "the of and to in is it that for on was are as with by at from this be have has or an not which were "
    "their its a he she they his her but been had will would can what who how when where there one than "
    "then about into if so do does did no yes you your we our i me my them these those all also only such "
    "very",
    "de": "der die das und ist nicht ein eine einer eines einem einen zu den dem des mit von auf für im sich "
    "auch es an als nach bis zum zur bei wird werden sind wurde aus hat er sie wie wo wer wann oder aber "
    "über um am im ab vom januar februar märz mai juni juli oktober dezember montag dienstag mittwoch "
    "donnerstag freitag samstag sonntag uhr ja nein ich du wir ihr mein sein ihre diese dieser dieses was",
    "fr": "le la les des et est une un du de dans que qui pour pas sur avec au aux ce cette sont par il elle ne "
    "se plus ou où mais été être ont leur à en",
    "es": "el la los las y es en que de del un una por con para no se su al lo como más pero sus le ha este "
    "esta son fue ser entre cuando donde quién",
    "it": "il lo la gli le e è di che un una per non con del della dei delle nel nella sono si da al alla come "
    "più ma anche questo questa ha dove chi i",
    "pt": "o a os as e é de do da dos das em no na que um uma para com não por se mais ao à foi são como mas "
    "ser seu sua pelo pela onde quem",
    "nl": "de het een en van is niet dat die in op te voor met zijn aan er om ook als naar door bij uit wordt "
    "worden maar wie waar deze tot",
    "sv": "och att det som en ett är på av för med den till inte om har de från var men när eller kan ska där",
    "da": "og at det som en et er på af for med den til ikke om har de fra var men når eller kan skal der i blev",
    "nb": "og at det som en et er på av for med den til ikke om har de fra var men når eller kan skal der i ble",
    "fi": "ja on ei se että joka oli ovat myös mutta kun hän tai kuin sen tämä ole niin mitä missä",
    "pl": "i w na nie się z do jest to że jak o po co za od przez dla są był ale tego który która",
    "cs": "a v na se je že s z do o k i to jsou ale jak pro od po za byl která který není",
    "sk": "a v na sa je že s z do o k i to sú ale ako pre od po za bol ktorá ktorý nie",
    "hu": "a az és hogy nem is egy van ez meg de csak volt vagy mint még el ha amely",
    "ro": "și în de la cu este nu pe un o care din pentru mai sunt că se au fost sau prin",
    "tr": "ve bir bu da de için ile olarak çok daha olan ne gibi kadar var sonra değil her",
}
_LATIN_WORD = re.compile(r"[^\W\d_]+")


def detect_language(text: str) -> str:
    """Detect the language of a text from its first 20,000 characters.

    Returns:
        ISO 639-1 code; "en" if neither the script nor function words indicate another language.
    """
    sample = text[:_SAMPLE_CHARS]
    letters = sum(character.isalpha() for character in sample)
    for code, pattern in _script_patterns():
        count = len(pattern.findall(sample))
        if count and count >= _SCRIPT_SHARE * letters * (0.25 if code == "ja" else 1):
            return _variant(code, sample)
    counts = Counter(_LATIN_WORD.findall(sample.casefold()))
    scores = {code: sum(counts[word] for word in own) for code, own in _word_sets().items()}
    best = max(scores, key=lambda code: scores[code])  # English is first, so a tie is English
    return best if scores[best] >= _MIN_WORDS else "en"


def function_words(text: str) -> frozenset[str]:
    """Function words of the text's language, case-folded."""
    return _word_sets().get(detect_language(text), frozenset())


def _variant(code: str, sample: str) -> str:
    """The main language of a script, or another one if the sample has its letters."""
    bases = {"uk": "ru", "fa": "ar", "ur": "ar"}
    found = [own for own, marks in _LETTERS_OF if bases[own] == code and any(mark in sample for mark in marks)]
    return found[-1] if found else code


@cache
def _script_patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [(code, re.compile(f"[{characters}]")) for code, characters in _SCRIPTS]


@cache
def _word_sets() -> dict[str, frozenset[str]]:
    return {code: frozenset(own.split()) for code, own in _FUNCTION_WORDS.items()}
