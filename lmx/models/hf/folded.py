"""Factors of a model that a checkpoint keeps outside of its tensors, multiplied into them as they are read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Folded(NamedTuple):
    """A tensor whose first `columns` of the last axis are divided by `divisor`, to be read as an `Entry` of float32."""

    entry: Any
    columns: int
    divisor: float

    @property
    def dtype(self) -> np.dtype:
        """What `rows` gives."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor."""
        return self.entry.shape

    @property
    def n_bytes(self) -> int:
        """Size of what `rows` gives of all."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1."""
        found = self.entry.rows(start, stop).astype(np.float32)
        first = start if found.ndim == 1 else 0  # of a vector, rows are the last axis
        found[..., : max(self.columns - first, 0)] /= np.float32(self.divisor)
        return found
