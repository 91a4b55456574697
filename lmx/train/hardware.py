"""Published peak rates of accelerators, for model FLOPs utilisation."""

from __future__ import annotations

PEAK_BF16_FLOPS = {
    # dense bf16 FLOP/s of one JAX device, from the makers' data sheets; a key is the start of `device_kind`
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bf16 FLOP/s of one device of this kind, or None where it is not known (any CPU)."""
    for kind, flops in PEAK_BF16_FLOPS.items():
        if device_kind.startswith(kind):
            return flops
    return None
