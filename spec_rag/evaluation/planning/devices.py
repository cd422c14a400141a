"""What a device can do: its peaks as published.

This module does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spec_rag.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """Peaks of a device, and the share of them that programs reach.

    Args:
        name: of the device.
        flops: floating-point operations per second in matrix products, at `bits`.
        bandwidth: bytes per second that it reads of its memory.
        memory: bytes of memory, or None where it is not known.
        bits: of weights, keys and values.
        compute_share, bandwidth_share: of the peaks that are reached, above 0 and at most 1.
        between_seconds: what the operations between the products (norms, rotations, gates, sums) take per token, layer
            and value of the hidden width.
        layer_seconds: what starting its operations takes per layer, however few tokens there are.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float | None = None
    bits: int = 16
    compute_share: float = 0.5
    bandwidth_share: float = 0.7
    between_seconds: float = 0.0
    layer_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flops", "bandwidth"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be above 0.")
        for name in ("between_seconds", "layer_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must not be negative.")
        for name in ("compute_share", "bandwidth_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be above 0 and at most 1.")
        if self.bits not in (4, 8, 16, 32):
            raise ConfigError(f"bits={self.bits!r}: must be one of 4, 8, 16, 32.")

    def seconds(self, flops: float, read_bytes: float) -> float:
        """What takes longer: computing or reading (the roofline)."""
        return max(
            flops / (self.flops * self.compute_share),
            read_bytes / (self.bandwidth * self.bandwidth_share),
        )


# dense bfloat16 (float16 for t4) with float32 sums, as the makers' data sheets have them
DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("h100", 989.4e12, 3.35e12, 80e9),
        Device("h200", 989.4e12, 4.8e12, 141e9),
        Device("a100", 312e12, 2.039e12, 80e9),
        Device("a10", 125e12, 600e9, 24e9),
        Device("l4", 121e12, 300e9, 24e9),
        Device("l40s", 362e12, 864e9, 48e9),
        Device("t4", 65e12, 320e9, 16e9),
        Device("rtx4090", 165.2e12, 1008e9, 24e9),
        Device("mi300x", 1307.4e12, 5.3e12, 192e9),
    )
}
