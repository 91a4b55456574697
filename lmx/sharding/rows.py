"""Which rows of a global batch the devices of a process hold: what it has to read, and how it lays them out."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding


class RowParts(NamedTuple):
    """Those of `count` equal parts of a batch's rows that a process holds; processes may hold the same ones.

    indices   ascending, and not always neighbours: a mesh follows the links of a pod, not the order of its hosts
    """

    indices: tuple[int, ...]
    count: int

    def rows(self, global_batch_size: int) -> list[int]:
        """Numbers of the rows, ascending. ValueError where the rows cannot be split into `count` equal parts."""
        size, left = divmod(global_batch_size, self.count)
        if left:
            raise ValueError(
                f"a global batch of {global_batch_size} rows cannot be split {self.count} ways by the mesh; "
                f"set trainer.global_batch_size and trainer.eval_batch_size to multiples of {self.count}"
            )
        return [index * size + i for index in self.indices for i in range(size)]


@lru_cache(maxsize=64)
def rows_of_process(sharding: NamedSharding, process: int | None = None) -> RowParts:
    """The rows [B, ...] that a process (None: this one) holds of arrays laid out by `sharding`."""
    process = jax.process_index() if process is None else process
    pieces = _pieces(sharding)
    places = sharding.devices_indices_map(pieces or (1,)).items()
    mine = {index[0].start or 0 for device, index in places if device.process_index == process}
    return RowParts(tuple(sorted(mine)), pieces[0] if pieces else 1)


def _pieces(sharding: NamedSharding) -> tuple[int, ...]:
    """Into how many pieces each dimension is split."""
    sizes = sharding.mesh.shape
    names = [(part,) if isinstance(part, str) else tuple(part or ()) for part in sharding.spec]
    return tuple(math.prod(sizes[name] for name in axis) for axis in names)


def rows_to_devices(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """This process's rows of a global array (see `rows_of_process`), as its part of that array."""
    if sharding.num_devices == 1:
        return jax.device_put(x, sharding)
    parts = rows_of_process(sharding)
    size, left = divmod(x.shape[0], len(parts.indices))
    assert not left, (x.shape, parts)
    shape = (size * parts.count, *x.shape[1:])
    first = {index * size: place * size for place, index in enumerate(parts.indices)}

    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start = first[index[0].start or 0]
        return x[(slice(start, start + size), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, piece)
