"""Choice of tokens: validation of a caller's options, and their translation to transformers' GenerationConfig."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from spec_rag.errors import ConfigError
from spec_rag.generation.structured_output import Constraint
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.switches import Switch
from spec_rag.utils.validation import check_integer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_seeding = FairLock(is_work=False)  # torch's generators belong to the whole process

GREEDY: dict[str, Any] = {
    # every field that a checkpoint's generation_config may set, so that none of those values is used
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "return_dict_in_generate": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "min_p": None,
    "typical_p": 1.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    # generation modes and caches of a checkpoint do not apply either
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "stop_strings": None,
    "prompt_lookup_num_tokens": None,
    "guidance_scale": None,
    "max_time": None,
}
_SAMPLES = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
# values that change no probability; a temperature of 1 requests sampling
_NEUTRAL = {"top_p": 1, "top_k": 0, "min_p": 0, "typical_p": 1, "top_h": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}
_RANGES = {  # minimum, maximum, and whether the minimum itself is allowed
    "min_p": (0, 1, True),
    "typical_p": (0, 1, False),
    "top_h": (0, 1, False),
    "epsilon_cutoff": (0, 1, True),
    "eta_cutoff": (0, 1, True),
    "repetition_penalty": (0, float("inf"), False),
}
_MOST_LOGPROBS = 20
_REFUSED = {
    "max_length": "max_new_tokens counts generated tokens alone",
    "assistant_model": "the draft already writes the look-ahead",
    "prompt_lookup_num_tokens": "the look-ahead is checked as a guess already",
    "num_return_sequences": "call generate once per sequence, with different seeds",
    "cache_implementation": "SpecKV brings its own cache",
    "return_dict_in_generate": "an Answer is returned",
    "stop_strings": "use stop",
    "cache_config": "SpecKV brings its own cache",
    "use_cache": "the target always generates with a cache, which gives the same answer faster: leave it out",
}
_REFUSED_BUT = {"num_return_sequences": 1, "use_cache": True}  # the value that is allowed


@dataclass(frozen=True)
class SamplingConfig:
    """Length, constraint and choice of tokens of an answer.

    Args:
        max_new_tokens: maximum number of tokens.
        stop: the answer ends before the first of these strings.
        seed: makes sampling repeatable; None does not change torch's generators.
        constraint: constraint of the answer, or None.
        prefill_chunk_size: tokens that the feed-forward layers of draft and target process at a time; fewer need less
            memory and give the same tokens. None is all.
        presence_penalty: -2 to 2; subtracted from the logit of each token that occurs in the answer.
        frequency_penalty: -2 to 2; subtracted for each occurrence.
        logprobs: record the log-probability of each token, with this many most probable tokens (0 to 20); None records
            none. Not with num_beams above 1.
        options: fields of transformers' GenerationConfig: temperature, top_p, top_k, repetition_penalty, num_beams,
            eos_token_id, max_time ... Decoding is greedy unless do_sample, a temperature above 0 or another sampling
            option (top_p, top_k, min_p ...) is given. A temperature of 0 is greedy whatever the others are. Values that
            change no probability (top_p=1, top_k=0, min_p=0, typical_p=1 ...) do not enable sampling. `eos_token_id`
            (an id or several, -1 for none) replaces the end tokens of model and tokenizer.

    Raises:
        ConfigError: a value is out of range, an option is unknown, or do_sample contradicts temperature or another
            option.
    """

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    constraint: Constraint | None = None
    prefill_chunk_size: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.max_new_tokens, bool) or not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r}: must be an integer of at least 1.")
        if any(not isinstance(s, str) or not s for s in self.stop):
            raise ConfigError(f"stop={list(self.stop)!r}: must be strings of at least one character.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0):
            raise ConfigError(f"seed={self.seed!r}: must be a non-negative integer or None.")
        check_integer("prefill_chunk_size", self.prefill_chunk_size, 1, optional=True)
        check_integer("logprobs", self.logprobs, 0, optional=True)
        if self.logprobs is not None and self.logprobs > _MOST_LOGPROBS:
            raise ConfigError(f"logprobs={self.logprobs}: must be at most {_MOST_LOGPROBS}.")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not _is_number(value) or not -2 <= value <= 2:
                raise ConfigError(f"{name}={value!r}: must be a number from -2 to 2.")
        object.__setattr__(self, "options", _checked_options(self.options))
        if self.logprobs is not None and self.beams > 1:
            raise ConfigError(f"logprobs={self.logprobs} with num_beams={self.beams}: give one of them.")

    @classmethod
    def of(cls, max_new_tokens: int, options: Mapping[str, Any]) -> SamplingConfig:
        """The config of keyword arguments; None means not given, `schema` and `regex` become the constraint."""
        own = {f.name for f in fields(cls)} - {"options", "max_new_tokens"}
        chosen = {name: value for name, value in options.items() if name in own}
        for name in ("presence_penalty", "frequency_penalty"):
            if chosen.get(name, 0.0) is None:
                del chosen[name]
        stop = chosen.pop("stop", None)
        if stop is not None and not isinstance(stop, str | Sequence | Set):
            raise ConfigError(f"stop={stop!r:.80} of type {type(stop).__name__}: give a string, or a list of strings.")
        chosen["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        form = {name: options.get(name) for name in ("schema", "regex")}
        if any(value is not None for value in form.values()):
            if chosen.get("constraint") is not None:
                raise ConfigError("constraint and schema or regex are both given: give one of them.")
            chosen["constraint"] = Constraint.of(**form)
        rest = {name: value for name, value in options.items() if name not in own and name not in form}
        return cls(max_new_tokens=max_new_tokens, options=rest, **chosen)

    @property
    def beams(self) -> int:
        """Rows per prompt."""
        return int(self.options.get("num_beams", 1))


def overriding(given: Mapping[str, Any]) -> dict[str, Any]:
    """One call's options, and None for settings that they disable: a temperature of 0 disables top_p and top_k."""
    return {"top_p": None, "top_k": None, **given} if given.get("temperature") == 0 else dict(given)


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import GenerationConfig

    known = set(GenerationConfig().to_dict()) | set(GREEDY)
    chosen = {name: value for name, value in options.items() if value is not None}
    for name, value in chosen.items():
        if name in _REFUSED and not (name in _REFUSED_BUT and value == _REFUSED_BUT[name]):
            raise ConfigError(f"{name}={value!r} is not supported: {_REFUSED[name]}.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f": did you mean {near[0]!r}?" if near else "."
            raise ConfigError(f"{name}={value!r} is no option of generate() and no field of GenerationConfig{meant}")
    check_integer("num_beams", chosen.get("num_beams", 1), 1)
    temperature, top_p, top_k = (chosen.get(name) for name in ("temperature", "top_p", "top_k"))
    if temperature is not None and not (_is_number(temperature) and temperature >= 0):
        raise ConfigError(f"temperature={temperature!r}: must be a number of at least 0 (0 is greedy).")
    if top_p is not None and not (_is_number(top_p) and 0 < top_p <= 1):
        raise ConfigError(f"top_p={top_p!r}: must be above 0 and at most 1.")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0):
        raise ConfigError(f"top_k={top_k!r}: must be an integer of at least 1, or 0 for all tokens.")
    _check_ranges(chosen)
    chosen = {
        name: float(value) if name in (*_RANGES, "temperature", "top_p") else value for name, value in chosen.items()
    }
    if "eos_token_id" in chosen:
        chosen["eos_token_id"] = _checked_ends(chosen["eos_token_id"])
    asked = [name for name in _SAMPLES if name in chosen and chosen[name] != _NEUTRAL.get(name)]
    do_sample = chosen.get("do_sample")
    if do_sample is True and temperature == 0:
        raise ConfigError(
            "temperature=0 is greedy, so do_sample=True does nothing: leave it out, or raise temperature."
        )
    contradicting = [name for name in asked if not (name == "temperature" and temperature in (0, 1))]
    if do_sample is False and contradicting:
        name = contradicting[0]
        raise ConfigError(
            f"do_sample=False is greedy, so {name}={chosen[name]!r} does nothing: leave it out, or leave do_sample out."
        )
    if temperature == 0 or do_sample is False or not (asked or do_sample):
        return {**GREEDY, **{name: value for name, value in chosen.items() if name not in _SAMPLES}, "do_sample": False}
    return {**GREEDY, **chosen, "do_sample": True}


def _check_ranges(chosen: Mapping[str, Any]) -> None:
    for name, (low, high, inclusive) in _RANGES.items():
        value = chosen.get(name)
        if value is None:
            continue
        if not _is_number(value) or not (low <= value <= high) or (value == low and not inclusive):
            limits = f"{'at least' if inclusive else 'above'} {low}" + ("" if high > 1 else f" and at most {high}")
            raise ConfigError(f"{name}={value!r}: must be a number {limits}.")


def _checked_ends(value: Any) -> list[int]:
    """A caller's end tokens as a list, without negative ones."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    ends = list(value) if isinstance(value, Sequence | Set) and not isinstance(value, str) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in ends):
        raise ConfigError(f"eos_token_id={value!r:.80}: must be a token id or a list of token ids; -1 stands for none.")
    return [token for token in ends if token >= 0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seeded(seed: int | None, model: PreTrainedModel) -> Switch[None]:
    """Seed torch's generators inside the block, and restore their states afterwards."""
    return _Seeded(seed, model)


class _Seeded(Switch[None]):
    """Seeds and restores torch's generators of the CPU and of the model's device."""

    def __init__(self, seed: int | None, model: PreTrainedModel) -> None:
        self._seed = seed
        self._device = model.device
        self._turn = _seeding.hold()
        self._states: list[tuple[Any, Any]] = []  # a generator's setter, and the state before

    def _on(self) -> None:
        import torch

        if self._seed is None:
            return
        self._turn.__enter__()
        # torch.manual_seed would also seed all other devices
        generators = [torch.default_generator]
        if self._device.type == "cuda":
            index = self._device.index
            generators.append(torch.cuda.default_generators[torch.cuda.current_device() if index is None else index])
        for generator in generators:
            self._states.append((generator.set_state, generator.get_state()))
            generator.manual_seed(self._seed)

    def _off(self) -> None:
        for put_back, state in self._states:
            put_back(state)
        self._states.clear()
        self._turn.__exit__(None, None, None)


def eos_token_ids(model: PreTrainedModel) -> list[int]:
    """End tokens of the model's generation config; empty if it has none."""
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    if eos is None:
        return []
    return [int(i) for i in eos] if isinstance(eos, list | tuple) else [int(eos)]


def pad_token_id(model: PreTrainedModel) -> int:
    """The id of padding; it is always masked, so an end token is fine."""
    pad = model.generation_config.pad_token_id if model.generation_config is not None else None
    if pad is not None:
        return int(pad)
    return next(iter(eos_token_ids(model)), 0)
