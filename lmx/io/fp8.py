"""Tensors in 8-bit floats with a factor a block (arXiv:2412.19437, 3.3.2), as DeepSeek V3 and others are published.

A checkpoint keeps a matrix `X.weight` as float8_e4m3fn [rows, columns] and `X.weight_scale_inv`, float32
[ceil(rows / block), ceil(columns / block)], which its blocks are multiplied by; the last ones may be ragged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lmx.config.errors import RequestError
from lmx.io.safetensors import Entry

_SUFFIX = "_scale_inv"
_FORMAT = np.dtype(ml_dtypes.float8_e4m3fn)


class Fp8(NamedTuple):
    """A matrix in that form, to be read as an `Entry` of float32; `block` is the size of one, rows and columns."""

    values: Entry
    factors: Entry
    block: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """What `rows` gives."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, columns]."""
        return self.values.shape

    @property
    def n_bytes(self) -> int:
        """Size of what `rows` gives of all."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1, multiplied by the factors of their blocks."""
        high, wide = self.block
        found = self.values.rows(start, stop).astype(np.float32)
        factors = self.factors.rows(start // high, -(-stop // high)).astype(np.float32)
        factors = factors[np.arange(start, stop) // high - start // high]
        for i, at in enumerate(range(0, self.shape[1], wide)):
            found[:, at : at + wide] *= factors[:, i, None]
        return found


def join_scales(entries: Mapping[str, Any], settings: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The tensors of a checkpoint, each matrix and its factors as one; `settings` is its quantization_config.

    RequestError for settings that are not this form, for factors without a matrix, and for shapes that do not fit.
    """
    block = settings.get("weight_block_size", [128, 128])
    sizes = isinstance(block, list | tuple) and len(block) == 2
    if not sizes or not all(isinstance(n, int) and n > 0 for n in block):
        raise RequestError(
            f"{where}: quantization_config.weight_block_size={json.dumps(block)} is not supported, only [rows, columns]"
        )
    for key, value in (("fmt", "e4m3"), ("activation_scheme", "dynamic")):
        if settings.get(key, value) != value:
            raise RequestError(
                f"{where}: quantization_config.{key}={json.dumps(settings[key])} is not supported, only {value}"
            )
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        if not name.endswith(f".weight{_SUFFIX}"):
            factors = entries.get(name + _SUFFIX)
            found[name] = entry if factors is None else Fp8(entry, factors, tuple(block))
            continue
        values = entries.get(name.removesuffix(_SUFFIX))
        if values is None or values.dtype != _FORMAT or len(values.shape) != 2:
            raise RequestError(f"{where}: {name} has no matrix of float8_e4m3fn; copy the checkpoint again")
        wanted = tuple(-(-n // b) for n, b in zip(values.shape, block, strict=True))
        if entry.shape != wanted:
            raise RequestError(
                f"{where}: {name} has shape {list(entry.shape)}, weight_block_size makes it {list(wanted)}"
            )
    return found
