"""How a checkpoint is loaded, as values: checked, written plainly, and read back.

Importing this module loads neither torch nor transformers. It does not know where checkpoints are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from spec_rag.errors import ConfigError, unknown_field

if TYPE_CHECKING:
    import torch

    Dtype: TypeAlias = torch.dtype | str | None
else:
    Dtype = Any  # whoever resolves the annotation need not import torch

DEFAULT_DRAFT = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded. What is None is chosen by the machine.

    Args:
        device: "cuda", "cuda:1", "mps", "cpu" ...; None takes the first of CUDA, MPS, CPU that is there.
        dtype: torch dtype or its name; None takes the checkpoint's on a GPU and float32 on a CPU.
        device_map: handed to `from_pretrained`; excludes device.
        quantization_config: handed to `from_pretrained`.
        attn_implementation: handed to `from_pretrained`; also the base of the captured attention.
        revision: the checkpoint's revision on the hub.
        trust_remote_code: handed to `from_pretrained`; False never runs code from a checkpoint.

    Raises:
        ConfigError: device and device_map are both given, or dtype is not the name of a torch dtype.
    """

    device: str | None = None
    dtype: Dtype = None
    device_map: Any = None
    quantization_config: Any = None
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise ConfigError(
                f"device={self.device!r} and device_map={self.device_map!r} contradict each other: give one of them."
            )
        if isinstance(self.dtype, str) and self.dtype != "auto":
            import torch

            if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
                raise ConfigError(f"dtype={self.dtype!r} is no torch dtype: try 'float32', 'bfloat16' or 'float16'.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, trusted: bool = False) -> LoadOptions:
        """The options of a dict of their names.

        A dict may come from a file that somebody else wrote, so it cannot switch on remote code, unless it is trusted.

        Raises:
            ConfigError: a name is unknown, a value cannot work, or trust_remote_code is set.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_field(cls.__name__, name, known)
        if values.get("trust_remote_code") and not trusted:
            raise ConfigError(
                "trust_remote_code=True runs code from the checkpoint, which a dict, and so a file, cannot switch on. "
                "If you trust it, give LoadOptions(trust_remote_code=True, ...) itself."
            )
        return cls(**values)

    @classmethod
    def of(cls, given: LoadOptions | Mapping[str, Any] | None) -> LoadOptions:
        """The options that were given as such, as a dict of their names, or not at all.

        Raises:
            ConfigError: they are of another kind, or the dict is refused (see `from_dict`).
        """
        if given is None or isinstance(given, cls):
            return given or cls()
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"options={given!r:.80} of type {type(given).__name__}: give LoadOptions or a dict of its fields, such "
                "as {'device': 'cpu'}."
            )
        return cls.from_dict(given)

    @staticmethod
    def of_draft(
        draft: str | None,
        given: LoadOptions | Mapping[str, Any] | None,
        target: str,
        target_options: LoadOptions | Mapping[str, Any],
    ) -> LoadOptions | Mapping[str, Any] | None:
        """How an application's draft is loaded: as given, else like the target where both are one model."""
        return target_options if given is None and draft == target else given

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON can hold it: dtypes by name, quantisation configs as their dicts."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value for name, value in values.items() if value is not None and value is not False}
        if "dtype" in plain:
            plain["dtype"] = str(plain["dtype"]).removeprefix("torch.")
        if hasattr(plain.get("quantization_config"), "to_dict"):
            plain["quantization_config"] = plain["quantization_config"].to_dict()
        return plain

    def resolved_device(self) -> str:
        """The device's name.

        Raises:
            ConfigError: the device that was asked for is not there, or torch knows none of that name.
        """
        import torch

        if self.device is not None:
            try:
                kind = torch.device(self.device).type
            except RuntimeError as error:
                raise ConfigError(f"device={self.device!r} is no device of torch: give 'cuda' or 'cpu'.") from error
            no_cuda = kind == "cuda" and not torch.cuda.is_available()
            if no_cuda or (kind == "mps" and not torch.backends.mps.is_available()):
                raise ConfigError(
                    f"device={self.device!r}: torch sees no such device on this machine. Leave device out, or give "
                    "device='cpu'; a CUDA device needs a torch built for CUDA (pytorch.org/get-started)."
                )
            return self.device
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def from_pretrained_arguments(self) -> dict[str, Any]:
        """The keywords of `from_pretrained`; trust_remote_code is always among them, so that nobody is asked."""
        import torch

        dtype = getattr(torch, self.dtype) if isinstance(self.dtype, str) and self.dtype != "auto" else self.dtype
        if dtype is None:
            on_cpu = self.device_map is None and self.resolved_device() == "cpu"
            dtype = torch.float32 if on_cpu else "auto"
        arguments = {
            "dtype": dtype,
            "device_map": self.device_map,
            "quantization_config": self.quantization_config,
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code,
        }
        return {name: value for name, value in arguments.items() if value is not None}
