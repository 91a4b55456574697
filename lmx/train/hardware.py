"""Published peak rates of accelerators, for model FLOPs utilisation."""

from __future__ import annotations

from lmx.chips import chip_of


def peak_flops(device_kind: str) -> float | None:
    """Dense bf16 FLOP/s of one device of this kind, or None where it is not known (any CPU)."""
    chip = chip_of(device_kind)
    return None if chip is None else chip.flops
