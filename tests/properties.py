"""What property tests draw from, and how often: 50 examples, always the same; 500 fresh ones in `make nightly`.

HYPOTHESIS_PROFILE=nightly chooses the second. A failing nightly example is printed with what repeats it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("every-time", max_examples=50, derandomize=True, **_PATIENT)
settings.register_profile("nightly", max_examples=500, print_blob=True, **_PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "every-time"))

# all planes, with lone surrogates and noncharacters
ANY_CHARACTER = st.characters(exclude_categories=())
# fmt: off
_PIECES = [
    "One is red. ", "Is it? ", "e.g. 3.5 m ", "\n", "\n\n", "\r\n", "\t", "    x = 1\n", "# Head\n", "- item\n",
    "| a | b |\n", "```\n", "a,b,c\n", "key: value\n", "。", "水は青い。", "مرحبا. ", "नमस्ते। ", "ไทยไม่เว้นวรรค",
    "e\u0301", "\u200b", "\u202e", "\x00", "\x1b[31m", "\x85", "\u2028", "\ud800", "<|im_end|>", "<|im_start|>", "</s>",
    "[INST]", "…", " … ", "word " * 30, "x" * 300,
]
# fmt: on
TEXTS = st.one_of(
    st.text(ANY_CHARACTER, max_size=60),
    st.lists(st.one_of(st.sampled_from(_PIECES), st.text(ANY_CHARACTER, max_size=5)), max_size=25).map("".join),
)
_WORDS = ["red", "tank", "harbour", "stone", "KEEP", "gull", "holds", "42", "water", "north"]
SENTENCE = st.builds(
    lambda words, end: " ".join(words).capitalize() + end,
    st.lists(st.sampled_from(_WORDS), min_size=1, max_size=7),
    st.sampled_from([".", "!", "?"]),
)
# documents of which no two sentences are alike
DOCUMENTS = st.lists(st.lists(SENTENCE, min_size=1, max_size=6), min_size=1, max_size=4).map(
    lambda docs: [
        " ".join(f"Case {d}{i} is {sentence.lower().replace('keep', 'KEEP')}" for i, sentence in enumerate(own))
        for d, own in enumerate(docs)
    ]
)
