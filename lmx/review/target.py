"""What a review is about: so many devices of a kind, in so many slices."""

from __future__ import annotations

from typing import NamedTuple

from lmx.chips import Chip


class Target(NamedTuple):
    """Devices that need not be here.

    name     as it is asked for: `v5p:4x4x8`, `h100:64`, `cpu:8`
    chip     their published figures; None for CPUs
    devices  all of them
    slices   groups with fast links inside: slices of TPUs, hosts of GPUs
    """

    name: str
    chip: Chip | None
    devices: int
    slices: int

    @property
    def platform(self) -> str:
        """tpu, gpu or cpu, as JAX calls them."""
        if self.chip is None:
            return "cpu"
        return "tpu" if self.chip.kind.startswith("TPU") else "gpu"

    @property
    def link(self) -> tuple[str, str]:
        """Names of the links inside a slice, and between slices."""
        return {"tpu": ("ICI", "DCN"), "gpu": ("NVLink", "network"), "cpu": ("memory", "sockets")}[
            self.platform
        ]

    def __str__(self) -> str:
        return self.name + (f" x {self.slices}" if self.slices > 1 and self.platform == "tpu" else "")
