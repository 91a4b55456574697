"""MXFP4 tensors (OCP Microscaling Formats, version 1.0): 32 values of 4 bits share an exponent of 8 bits.

A checkpoint keeps a tensor `X` of shape [E, rows, columns] as `X_blocks`, uint8 [E, columns, rows / 32, 16] with the
lower half of each byte first, and `X_scales`, uint8 [E, columns, rows / 32]: transposed, as `X` was stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lmx.config.errors import RequestError
from lmx.io.safetensors import Entry, read_rows

_MAGNITUDES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
VALUES = np.array(_MAGNITUDES + [-x for x in _MAGNITUDES], np.float32)
"""What each of the 16 codes stands for (E2M1)."""


def decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [..., n, 32 m]: blocks uint8 [..., n, m, 16], scales uint8 [..., n, m], biased by 127."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 2 * blocks.shape[-1])
    values = np.ldexp(VALUES[codes], scales.astype(np.int32)[..., None] - 127)
    return values.reshape(*scales.shape[:-1], -1)


class Mxfp4(NamedTuple):
    """A tensor in that form, to be read as an `Entry` of bfloat16, which holds its values exactly."""

    blocks: Entry
    scales: Entry

    @property
    def dtype(self) -> np.dtype:
        """What `rows` gives."""
        return np.dtype(ml_dtypes.bfloat16)

    @property
    def shape(self) -> tuple[int, ...]:
        """[E, rows, columns]."""
        experts, columns, n, half = self.blocks.shape
        return experts, n * half * 2, columns

    @property
    def n_bytes(self) -> int:
        """Size of what `rows` gives of all."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Experts start..stop-1, one after another."""
        parts = (
            decode(read_rows(self.blocks, i, i + 1), read_rows(self.scales, i, i + 1))
            for i in range(start, stop)
        )
        return np.concatenate([part.swapaxes(1, 2).astype(self.dtype) for part in parts])


def join_blocks(entries: Mapping[str, Any], settings: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The tensors of a checkpoint, each pair of blocks and scales as one; RequestError where half of one is missing.

    `settings` is its quantization_config, of which nothing changes how they are read.
    """
    del settings
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        base = name.removesuffix("_blocks")
        if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in entries:
            continue
        if base == name:
            found[name] = entry
            continue
        scales = entries.get(f"{base}_scales")
        if scales is None or entry.shape[:-1] != scales.shape or len(entry.shape) != 4:
            raise RequestError(f"{where}: {name} has no {base}_scales that fits; copy the checkpoint again")
        found[base] = Mxfp4(entry, scales)
    return found
