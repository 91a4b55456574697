"""Published figures of accelerators: memory, arithmetic, and the speed of each kind of link."""

from __future__ import annotations

import re
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One device as JAX counts them (half a chip on TPU7x). Bytes a second are one way; a link works both ways.

    name            as in `topology=NAME:SHAPE`
    kind            regular expression of its whole `device_kind`: of GPUs the same name with another ending (PCIe,
                    NVL) is another device, with other figures
    flops           dense bf16 FLOP/s
    hbm             bytes of memory that a program may fill (TPU: what the compiler itself allows)
    hbm_speed       bytes/s of that memory
    link_speed      bytes/s of one link to a neighbour (ICI), or of all of a GPU's (NVLink)
    links           links of a device: two a dimension of the torus
    dcn_speed       bytes/s between slices or hosts
    source          where the figures stand; what stands nowhere is said to be a guess
    """

    name: str
    kind: str
    flops: float
    hbm: int
    hbm_speed: float
    link_speed: float
    links: int
    dcn_speed: float
    source: str

    @property
    def dimensions(self) -> int:
        """Of the torus that a slice is: 2 or 3; 1 for GPUs, which a switch joins."""
        return max(self.links // 2, 1)


_TPU = "docs.cloud.google.com/tpu/docs/{}; memory: libtpu 0.0.42, which refuses larger programs"
_GPU = "NVIDIA's data sheet of the {}, without sparsity; dcn_speed: a guess, a network card of {} Gbit/s for each GPU"
CHIPS = (
    # A bidirectional ICI bandwidth of a chip, as published, is link_speed x links x 2. DCN: that of a pod over its
    # chips (v5e 6.4 Tbit/s and v6e 25.6 Tbit/s over 256), or that of a chip (v5p 50 Gbit/s).
    Chip(
        *("v4", "TPU v4", 275e12, int(30.75 * GIB), 1200e9, 50e9, 6, 6.25e9),
        _TPU.format("v4") + "; link_speed: arXiv:2304.01433; dcn_speed: a guess, that of v5p",
    ),
    Chip("v5e", "TPU v5( lite|e)", 197e12, int(15.75 * GIB), 819e9, 50e9, 4, 3.125e9, _TPU.format("v5e")),
    Chip("v5p", "TPU v5p?", 459e12, int(95.74 * GIB), 2765e9, 100e9, 6, 6.25e9, _TPU.format("v5p")),
    Chip("v6e", "TPU v6( lite|e)", 918e12, int(31.25 * GIB), 1638e9, 100e9, 4, 12.5e9, _TPU.format("v6e")),
    Chip(
        *("tpu7x", "TPU7x.*", 1153.5e12, int(94.75 * GIB), 3690e9, 50e9, 6, 6.25e9),
        _TPU.format("tpu7x") + "; half of a chip's 2,307 TFLOP/s, and half of its memory and links",
    ),
    Chip(
        *("a100", "NVIDIA A100-SXM4-80GB", 312e12, 80 * 10**9, 2039e9, 300e9, 1, 25e9),
        _GPU.format("A100 80GB SXM", 200),
    ),
    Chip(
        *("a100_40", "NVIDIA A100-SXM4-40GB", 312e12, 40 * 10**9, 1555e9, 300e9, 1, 25e9),
        _GPU.format("A100 40GB SXM", 200),
    ),
    Chip(
        *("h100", "NVIDIA H100 80GB HBM3", 989.4e12, 84929347584, 3352e9, 450e9, 1, 50e9),
        _GPU.format("H100 SXM", 400),
    ),
    Chip(
        *("h200", "NVIDIA H200", 989.4e12, 141 * 10**9, 4800e9, 450e9, 1, 50e9),
        _GPU.format("H200 SXM", 400),
    ),
    Chip(
        *("b200", "NVIDIA B200", 2250e12, 180 * 10**9, 8000e9, 900e9, 1, 50e9),
        _GPU.format("DGX B200 (a whole one over 8)", 400),
    ),
)


def chip_of(device_kind: str) -> Chip | None:
    """The figures of a device kind, or None where none are known (any CPU)."""
    return next((chip for chip in CHIPS if re.fullmatch(chip.kind, device_kind)), None)


def chip_named(name: str) -> Chip | None:
    """The figures of `v5p`, `v6e`, `h100`, ...; None for a name that is not here."""
    return next((chip for chip in CHIPS if chip.name == name), None)
