"""One call's settings win over those that a compressor or a server was made with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spec_rag.compression.retrieval import similarities
from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.presets import COMPRESSION_PRESETS
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import as_document


def current(**settings: Any) -> dict[str, Any]:
    config = CompressionConfig.from_dict(settings)
    return dict(config) | {"preset": settings.get("preset")}


def config(**settings: Any) -> CompressionConfig:
    settings.pop("preset", None)
    return CompressionConfig(**settings)


@pytest.mark.parametrize(
    ("made_with", "called_with", "expected"),
    [
        ({"ratio": 0.3}, {"max_tokens": 60}, {"max_tokens": 60}),
        ({"max_tokens": 60}, {"ratio": 0.3}, {"ratio": 0.3}),
        ({"ratio": 0.3, "coverage": 0.5}, {"max_tokens": 60}, {"max_tokens": 60}),
        ({"coverage": 0.5}, {"ratio": 0.3}, {"ratio": 0.3}),
        ({"ratio": 0.3}, {"max_tokens": 60, "ratio": None}, {"max_tokens": 60}),
        ({"ratio": 0.3}, {"ratio": None}, {}),
        ({"ratio": 0.3, "min_tokens": 500}, {"max_tokens": 60}, {"max_tokens": 60, "min_tokens": 60}),
        (
            {"document_min_tokens": 50},
            {"document_max_tokens": 20},
            {"document_min_tokens": 20, "document_max_tokens": 20},
        ),
        ({"ratio": 0.3}, {"unit": "token"}, {"ratio": 0.3, "unit": "token"}),
    ],
)
def test_a_size_of_the_call_takes_the_place_of_all_sizes(made_with: Any, called_with: Any, expected: Any) -> None:
    assert config(**CompressionConfig.overridden(current(**made_with), called_with)) == CompressionConfig(**expected)


@pytest.mark.parametrize("before", [*COMPRESSION_PRESETS, None])
@pytest.mark.parametrize("after", [*COMPRESSION_PRESETS, None])
def test_a_preset_of_the_call_is_whole_and_mixes_with_none(before: str | None, after: str | None) -> None:
    given = current(preset=before, ellipsis=" … ")
    found = config(**CompressionConfig.overridden(given, {"preset": after}))
    assert found == CompressionConfig.from_dict({"preset": after, "ellipsis": " … "})


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="preset='papers'"):
        CompressionConfig.overridden(current(), {"preset": "papers"})


def test_a_request_to_the_server_wins_over_its_settings() -> None:
    server = ServerSettings(target="a", compression=CompressionConfig(ratio=0.3, min_tokens=100))
    assert server.compression_with({"max_tokens": 60}) == CompressionConfig(max_tokens=60, min_tokens=60)
    assert server.compression_with({"preset": "paper"}).unit == "token"


@pytest.mark.parametrize(
    ("told", "are_distances", "expected"),
    [
        ([0.0, 1.0, 3.0], False, [1.0, 0.5, 0.25]),
        ([0.9, 0.5], True, [0.9, 0.5]),  # their order says that they are none
        ([1.0], True, [0.5]),
        ([1.0, 1.0], True, [0.5, 0.5]),
        ([0.4], False, [0.4]),
        ([-0.9, -0.2], False, [0.9, 0.2]),
        ([0.2, 0.9, 0.1], True, None),
        ([], True, []),
    ],
)
def test_distances_become_scores(told: list[float], are_distances: bool, expected: list[float] | None) -> None:
    assert similarities(told, are_distances=are_distances) == expected


class Page:
    """What a LangChain Document looks like."""

    def __init__(self, **metadata: Any) -> None:
        self.page_content, self.metadata = "text", metadata


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"title": " Rates ", "source": "a.pdf"}, "Rates"),
        ({"title": "", "source": "/data/hand book.pdf"}, "hand book.pdf"),
        ({"source": "https://example.org/docs/rates.html?page=2#top"}, "rates.html"),
        ({"source": "C:\\data\\rates.pdf"}, "rates.pdf"),
        ({"source": Path("/data/rates.pdf"), "file_name": "own.pdf"}, "own.pdf"),
        ({"file_path": "/data/rates.pdf"}, "rates.pdf"),
        ({"source": "12"}, None),
        ({"source": 3}, None),
        ({}, None),
    ],
)
def test_a_title_is_that_of_the_metadata_or_the_file(metadata: dict[str, Any], title: str | None) -> None:
    assert as_document(Page(**metadata)).title == title


def test_mypy_takes_every_documented_name() -> None:
    pytest.importorskip("mypy")
    checked = Path(__file__).parent / "typed_names.py"
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(checked)]
    found = subprocess.run(command, cwd=checked.parent.parent, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
