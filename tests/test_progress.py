"""Progress of long work: a bar on a terminal, nothing elsewhere, or whatever the caller wants to show."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import huggingface_hub.utils
import pytest
import transformers
from tiny import saved, tiny_model, tiny_pair

from spec_rag import compress
from spec_rag.models.loading import load_model
from spec_rag.utils import progress
from spec_rag.utils.progress import listening, steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(silent: bool = False) -> None:
    with steps("Converting", 2, silent=silent) as done:
        done()
        done()


def test_a_terminal_shows_a_bar_and_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work()
    assert "Converting" in terminal.getvalue()
    assert "/2" in terminal.getvalue()


def test_the_clock_of_a_bar_runs_on_during_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_REFRESH_SECONDS", 0.01)
    with steps("Converting", 2):
        began = terminal.getvalue().count("Converting")
        deadline = time.monotonic() + 10
        while terminal.getvalue().count("Converting") < began + 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [thread.name for thread in threading.enumerate() if thread.name == "spec-rag-progress"] == []


def test_a_pipe_is_left_alone_and_so_is_a_terminal_by_what_every_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, silent in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        work(silent)
        assert stream.getvalue() == ""


def test_who_listens_is_told_each_step_and_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, told = Terminal(), []
    monkeypatch.setattr(sys, "stderr", terminal)
    with listening(lambda *what: told.append(what)):
        work()
        work(silent=True)
    assert told == [("Converting", 0, 2), ("Converting", 1, 2), ("Converting", 2, 2)] * 2
    assert terminal.getvalue() == ""
    work()
    assert len(told) == 6


def test_a_long_reading_says_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    documents = [f"Hut {i} is red. Its stove burns oak, and its warden sleeps in the loft. " * 9 for i in range(3)]
    with listening(lambda *what: told.append(what)):
        compress(documents, "Which is red?", draft=tiny_pair(), ratio=0.3)
    assert told == [("The draft reads", done, 3) for done in range(4)]


@pytest.mark.parametrize("hidden", [True, False])
def test_loading_on_a_terminal_shows_downloads_and_leaves_the_users_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    """transformers' own bars are switched off together with the hub's, of which the user is to see the downloads."""
    saved(tiny_model(), tmp_path)
    shown: list[bool] = []
    original = transformers.AutoModelForCausalLM.from_pretrained

    def spy(*given: object, **arguments: object) -> object:
        shown.append(not huggingface_hub.utils.are_progress_bars_disabled())
        assert not transformers.utils.logging.is_progress_bar_enabled()
        return original(*given, **arguments)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spy)
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = huggingface_hub.utils.are_progress_bars_disabled(), transformers.utils.logging.is_progress_bar_enabled()
    try:
        (huggingface_hub.utils.disable_progress_bars if hidden else huggingface_hub.utils.enable_progress_bars)()
        load_model(tmp_path)
        assert shown == [not hidden]
        assert huggingface_hub.utils.are_progress_bars_disabled() is hidden
    finally:
        (huggingface_hub.utils.disable_progress_bars if before[0] else huggingface_hub.utils.enable_progress_bars)()
    assert transformers.utils.logging.is_progress_bar_enabled() is before[1]
