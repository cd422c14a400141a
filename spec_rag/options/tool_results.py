"""Options for the tool results of agents."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from spec_rag.errors import ConfigError
from spec_rag.handles import EXPAND
from spec_rag.utils.validation import check_integer

Mode = Literal["auto", "lossless", "off"]
OnError = Literal["original", "raise"]


@dataclass(frozen=True)
class ToolResultOptions:
    """How tool results are shortened.

    Args:
        mode: "auto" leaves out pieces; "lossless" folds repeated lines and paths and removes white space of JSON; "off"
            leaves all results whole.
        only_tools: names of the tools whose results may be shortened, with wildcards; empty allows all.
        except_tools: names of tools whose results stay whole, with wildcards.
        min_chars: shorter results stay whole; the floor in tokens is `min_tokens` of the compression.
        show_omissions: put a mark with a handle where something is left out; False cuts prose without a trace, as
            retrieval chains do, and still marks the other kinds.
        deadline_seconds: time to shorten the results of a turn; None waits.
        on_error: "original" goes on with the whole text after an error or the deadline, "raise" raises it.

    Raises:
        ConfigError: a value is out of range.
    """

    mode: Mode = "auto"
    only_tools: tuple[str, ...] = ()
    except_tools: tuple[str, ...] = ()
    min_chars: int = 1000
    show_omissions: bool = True
    deadline_seconds: float | None = 60.0
    on_error: OnError = "original"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", ("auto", "lossless", "off")), ("on_error", ("original", "raise"))):
            if getattr(self, name) not in allowed:
                known = ", ".join(map(repr, allowed))
                raise ConfigError(f"{name}={getattr(self, name)!r:.80}: must be one of {known}.")
        for name in ("only_tools", "except_tools"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}={getattr(self, name)!r:.80}: give a list of names.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_integer("min_chars", self.min_chars, 0)
        deadline = self.deadline_seconds
        if deadline is not None and (
            isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0
        ):
            raise ConfigError(f"deadline_seconds={deadline!r}: must be above 0, or None.")

    def refusal(self, text: str, tool: str | None) -> str | None:
        """Why a result stays whole whatever its kind; None where it may be shortened."""
        name = tool or ""
        if name == EXPAND:
            return "fetched back"
        if self.mode == "off":
            return "mode off"
        allowed = not self.only_tools or any(fnmatchcase(name, one) for one in self.only_tools)
        if not allowed or any(fnmatchcase(name, one) for one in self.except_tools):
            return "tool not allowed"
        return "short" if len(text) < max(self.min_chars, 1) or not text.strip() else None
