"""Observation of every attention call of a transformers model inside a `with` block.

Works for every architecture that uses transformers' attention interface.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
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
    """The arguments of one layer's attention function, after rotary embedding.

    Attributes:
        layer: index of the layer.
        query: [batch, heads, queries, dim].
        key: [batch, KV heads, keys, dim]; the last `queries` keys are the queries' own.
        value: [batch, KV heads, keys, dim].
        mask: the model's attention mask, in the form of its attention implementation, or None.
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
    """Is called before each attention call.

    Returns None to leave the call unchanged, a mask that replaces the call's, or `Replaced` with its output.
    """

    def __call__(self, call: AttentionCall) -> Tensor | Replaced | None:
        """Observe one call of one layer."""
        ...


@dataclass(frozen=True)
class Replaced:
    """Attention output [batch, heads, queries, dim] that replaces the model's own."""

    output: Tensor


@dataclass(eq=False)
class _ActiveCapture:
    """One capture while it is on; it does not refer to its `_Capture`, which is undone when it is deleted.

    Attributes:
        observer: None once the capture is off.
        configs: the configs it has switched.
        thread: identifier of the thread whose calls it observes.
    """

    observer: AttentionObserver | None
    configs: list[Any]
    thread: int


_switching = FairLock(is_work=False)
_active: list[_ActiveCapture] = []  # innermost last; changed while `_switching` is held


def _observer_of(config: Any) -> AttentionObserver | None:
    """The innermost observer of this thread for a config."""
    thread = threading.get_ident()
    for active in reversed(list(_active)):
        if active.thread == thread and active.observer is not None and any(config is own for own in active.configs):
            return active.observer
    return None


def _base_forward(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if name == "eager":
        # transformers defines eager attention in each model's module, not in the registry
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
        result = observer(call)
        if isinstance(result, Replaced):
            return result.output.transpose(1, 2).contiguous(), None
        return base(module, query, key, value, attention_mask if result is None else result, **kwargs)

    return forward


def _register(base_name: str) -> str:
    name = _PREFIX + base_name
    # two checks: an interrupt between the two must not leave a function without its masks
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base_name])
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _observed(base_name))
    return name


def _base_name(config: Any) -> str:
    """The attention implementation of a config, without the prefix of a capture."""
    return str(config._attn_implementation or "eager").removeprefix(_PREFIX)


def attention_configs(model: nn.Module) -> list[Any]:
    """The distinct config objects that the model's decoder layers consult for their attention function."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    owners = [module for module in decoder.modules() if hasattr(module, "layer_idx") and hasattr(module, "config")]
    distinct: list[Any] = []
    # the decoder too: it makes the masks from its own config, and they must match the attention function
    for owner in [*owners, decoder]:
        config = getattr(owner, "config", None)
        if config is not None and not any(config is other for other in distinct):
            distinct.append(config)
    return distinct


def base_attention(model: nn.Module) -> str:
    """The model's own attention implementation, also inside a capture."""
    return _base_name(attention_configs(model)[0])


def capture(model: PreTrainedModel, observer: AttentionObserver) -> Switch[None]:
    """Call `observer` for each attention call that this thread makes on `model` inside the block.

    Other threads may run the same model at the same time, with other observers or none. The model is restored when its
    last capture ends: also after an exception or an interrupt at any instruction, and in a child that is forked while
    another thread captures.

    Raises:
        UnsupportedModelError: the model's attention does not use transformers' attention interface.
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
        self._observer = observer
        self._active = _ActiveCapture(None, configs, 0)
        self._turn = _switching.hold()

    def _on(self) -> None:
        active = self._active = _ActiveCapture(self._observer, self._active.configs, threading.get_ident())
        self._turn.__enter__()
        _active.append(active)
        for config in active.configs:
            config._attn_implementation = _register(_base_name(config))
        self._turn.__exit__(None, None, None)

    def _off(self) -> None:
        self._active.observer = None  # first, so that an interrupt leaves nothing observed
        self._turn.__enter__()
        _release([self._active])
        self._turn.__exit__(None, None, None)


def _release(ended: list[_ActiveCapture]) -> None:
    """Restore the configs of these captures that no other one has switched; `_switching` is held."""
    for active in ended:
        while active in _active:  # twice if it was interrupted and entered again
            _active.remove(active)
    held = [config for active in _active for config in active.configs]
    for config in [config for active in ended for config in active.configs]:
        if not any(config is other for other in held):
            config._attn_implementation = _base_name(config)


class _OtherThreads:
    """The captures of threads that do not exist in a forked child."""

    def renew_in_child(self) -> None:
        """Undo them."""
        _release([active for active in _active if active.thread != threading.get_ident()])


_other_threads = _OtherThreads()
renew_in_children(_other_threads)
