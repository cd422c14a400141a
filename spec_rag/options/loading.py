"""Options of loading a checkpoint.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from spec_rag.errors import ConfigError
from spec_rag.options.definitions import CheckedOptions, documented, fields_of, option

if TYPE_CHECKING:
    import torch

    Dtype: TypeAlias = torch.dtype | str | None
else:
    Dtype = Any  # so that resolving the annotation does not import torch

DEFAULT_DRAFT = "HuggingFaceTB/SmolLM2-135M-Instruct"


@documented
@dataclass(frozen=True)
class LoadOptions(CheckedOptions):
    """How a checkpoint is loaded. Options that are `None` are chosen by device and checkpoint.

    Raises:
        ConfigError: device and device_map are both given, or dtype is not the name of a torch dtype.
    """

    # transformers and torch validate these when the model is loaded
    _unchecked: ClassVar = ("device", "dtype", "device_map", "quantization_config", "attn_implementation", "revision")

    device: Annotated[
        str | None,
        option(
            '`"cuda"`, `"cuda:1"`, `"mps"`, `"cpu"` ...; `None` is the first available of CUDA, MPS, CPU.',
            level="common",
        ),
    ] = None
    dtype: Annotated[
        Dtype,
        option(
            "torch dtype or its name; `None` is the checkpoint's on a GPU and float32 on a CPU.",
            level="common",
        ),
    ] = None
    device_map: Annotated[Any, option("Passed to `from_pretrained`; excludes `device`.")] = None
    quantization_config: Annotated[Any, option("Passed to `from_pretrained`.")] = None
    attn_implementation: Annotated[
        str | None, option("Passed to `from_pretrained`; also used inside a capture of the attention.")
    ] = None
    revision: Annotated[str | None, option("Revision of the checkpoint on the hub.")] = None
    trust_remote_code: Annotated[
        bool, option("Passed to `from_pretrained`; `False` never runs code from a checkpoint.")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
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
        """Build the options from a dict of their names.

        A dict may come from a file of unknown origin, so it cannot enable remote code unless it is trusted.

        Raises:
            ConfigError: a name is unknown, a value is invalid, or trust_remote_code is set.
        """
        if values.get("trust_remote_code") and not trusted:
            raise ConfigError(
                "trust_remote_code=True runs code from the checkpoint, which a dict, and so a file, cannot switch on. "
                "If you trust it, give LoadOptions(trust_remote_code=True, ...) itself."
            )
        return super().from_dict(values)

    @classmethod
    def of(cls, given: LoadOptions | Mapping[str, Any] | None) -> LoadOptions:
        """The options of an argument: LoadOptions, a dict of their names, or None for the defaults.

        Raises:
            ConfigError: the argument has another type, or the dict is refused (see `from_dict`).
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
        """Options of an application's draft: those given, else those of the target if both are the same model."""
        return target_options if given is None and draft == target else given

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from the defaults, as JSON values."""
        values = {name: getattr(self, name) for name in fields_of(type(self))}
        plain = {name: value for name, value in values.items() if value is not None and value is not False}
        if "dtype" in plain:
            plain["dtype"] = str(plain["dtype"]).removeprefix("torch.")
        if hasattr(plain.get("quantization_config"), "to_dict"):
            plain["quantization_config"] = plain["quantization_config"].to_dict()
        return plain

    def resolved_device(self) -> str:
        """The device's name.

        Raises:
            ConfigError: the requested device is not available or unknown to torch.
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
        """Keywords of `from_pretrained`; always with trust_remote_code, so that transformers never prompts for it."""
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
