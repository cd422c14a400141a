"""Let an observer see every attention call of a transformers model, for the length of a `with` block.

One mechanism serves every architecture that goes through transformers' attention interface. This module knows how
that interface is switched and restored; it does not know what observers do with what they see.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_rag.errors import UnsupportedModelError
from spec_rag.utils.fair_lock import FairLock
from spec_rag.utils.forking import renew_in_children
from spec_rag.utils.switches import Switch

_PREFIX = "spec_rag_observed_"


@dataclass(frozen=True)
class AttentionCall:
    """What one layer hands to its attention function, after rotary embedding.

    Attributes:
        layer: index of the layer.
        query: [batch, heads, queries, dim].
        key: [batch, KV heads, keys, dim]; the last `queries` keys are the queries' own.
        value: [batch, KV heads, keys, dim].
        mask: what the model made for its attention implementation, or None.
        scaling: factor of the logits.
        softcap: soft cap of the logits, or None.
        sliding_window: number of keys a query sees, itself included, or None.
        sinks: [heads], an extra logit of each head in the softmax, or None.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    scaling: float
    softcap: float | None
    sliding_window: int | None
    sinks: Tensor | None


class AttentionObserver(Protocol):
    """Sees each attention call before it runs.

    Returns None to let it run as it is, a mask to let it run with that mask, or, as `Replaced`, its output.
    """

    def __call__(self, call: AttentionCall) -> Tensor | Replaced | None:
        """Look at one call of one layer."""
        ...


@dataclass(frozen=True)
class Replaced:
    """Attention output [batch, heads, queries, dim] that stands in for the model's own."""

    output: Tensor


@dataclass(eq=False)
class _Holder:
    """One capture, as long as it is on.

    Attributes:
        observer: None once the capture is off.
        thread: identifier of the thread that made it.
        outer: the captures around it, by the id of the config that they hold.
    """

    observer: AttentionObserver | None
    thread: int
    outer: Mapping[int, _Holder]


@dataclass(eq=False)
class _Switched:
    """A config whose attention function is switched, the function's own name, and the captures that hold it."""

    config: Any
    base_name: str
    holders: set[_Holder] = field(default_factory=set)


_observers: ContextVar[Mapping[int, _Holder]] = ContextVar("spec_rag_observers", default={})  # noqa: B039
_switching = FairLock(is_work=False)
_switched: dict[int, _Switched] = {}  # by the id of the config


def _observer_of(config: Any) -> AttentionObserver | None:
    """The innermost observer of this thread or task whose capture is on."""
    holders = _observers.get()
    while (holder := holders.get(id(config))) is not None:
        if holder.observer is not None:
            return holder.observer
        holders = holder.outer
    return None


def _base_forward(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if name == "eager":
        # transformers keeps eager attention beside each model, not in the registry
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


def _observed(base_name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        base = _base_forward(base_name, module)
        observer = _observer_of(getattr(module, "config", None))
        if observer is None:
            return base(module, query, key, value, attention_mask, **kwargs)
        if kwargs.get("position_bias") is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} adds a position bias to its attention logits, which the scores do not "
                "follow: use a model without one."
            )
        scaling = kwargs.get("scaling")
        call = AttentionCall(
            layer=int(module.layer_idx),  # type: ignore[arg-type]
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            scaling=float(scaling) if scaling is not None else query.shape[-1] ** -0.5,
            softcap=kwargs.get("softcap"),
            sliding_window=kwargs.get("sliding_window"),
            sinks=kwargs.get("s_aux"),
        )
        seen = observer(call)
        if isinstance(seen, Replaced):
            return seen.output.transpose(1, 2).contiguous(), None
        return base(module, query, key, value, attention_mask if seen is None else seen, **kwargs)

    return forward


def _register(base_name: str) -> str:
    name = _PREFIX + base_name
    # each by itself: an interrupt between the two must not leave a function without its masks
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base_name])
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _observed(base_name))
    return name


def _base_name(config: Any) -> str:
    """The attention implementation of a config, switched or not."""
    return str(config._attn_implementation or "eager").removeprefix(_PREFIX)


def attention_configs(model: nn.Module) -> list[Any]:
    """The distinct config objects that the model's decoder layers consult for their attention function."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    configs = {
        id(module.config): module.config
        for module in decoder.modules()
        if hasattr(module, "layer_idx") and hasattr(module, "config")
    }
    # the masks are made by the decoder, from its own config, and must match the attention function
    own = getattr(decoder, "config", None)
    if own is not None:
        configs[id(own)] = own
    return list(configs.values())


def base_attention(model: nn.Module) -> str:
    """The attention implementation that the model runs with, captured or not."""
    return _base_name(attention_configs(model)[0])


def capture(model: PreTrainedModel, observer: AttentionObserver) -> Switch[None]:
    """Show `observer` each attention call that this thread or task makes on `model` inside the block.

    Other threads may run the same model meanwhile, captured by other observers or by none. The model is as before when
    the last capture of it ends, also after an exception, at whatever step it arrives, and in a child that is forked
    while another thread captures.

    Raises:
        UnsupportedModelError: the model's attention does not go through transformers' attention interface.
    """
    configs = attention_configs(model)
    if not configs or not hasattr(configs[0], "_attn_implementation"):
        raise UnsupportedModelError(
            f"{type(model).__name__} does not use transformers' attention interface: its attention cannot be observed."
        )
    return _Capture(configs, observer)


class _Capture(Switch[None]):
    """Switches the configs to the observed attention functions, and back."""

    def __init__(self, configs: list[Any], observer: AttentionObserver) -> None:
        self._configs = configs
        self._observer = observer
        self._holder = _Holder(None, 0, {})
        self._token: Token[Mapping[int, _Holder]] | None = None
        self._turn = _switching.hold()

    def _on(self) -> None:
        outer = _observers.get()
        self._holder = holder = _Holder(self._observer, threading.get_ident(), outer)
        self._turn.__enter__()
        for config in self._configs:
            switched = _switched.setdefault(id(config), _Switched(config, _base_name(config)))
            switched.holders.add(holder)
        for config in self._configs:
            config._attn_implementation = _register(_switched[id(config)].base_name)
        self._turn.__exit__(None, None, None)
        self._token = _observers.set({**outer, **{id(config): holder for config in self._configs}})

    def _off(self) -> None:
        self._holder.observer = None  # from here on nothing is observed, also where the variable cannot be reset
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError, RuntimeError):  # deleted in another thread or task
                _observers.reset(token)
        self._turn.__enter__()
        _release([self._holder])
        self._turn.__exit__(None, None, None)


def _release(holders: list[_Holder]) -> None:
    """Switch back what nobody else holds; in a turn of `_switching`."""
    for key, switched in list(_switched.items()):
        switched.holders.difference_update(holders)
        if not switched.holders:
            switched.config._attn_implementation = switched.base_name
            _switched.pop(key, None)


class _OtherThreads:
    """The captures of threads that are not in a forked child."""

    def renew_in_child(self) -> None:
        """Switch back what they held."""
        held = {holder for switched in _switched.values() for holder in switched.holders}
        _release([holder for holder in held if holder.thread != threading.get_ident()])


_other_threads = _OtherThreads()
renew_in_children(_other_threads)
