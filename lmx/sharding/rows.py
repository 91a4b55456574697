"""Which rows of a global batch the devices of a process hold: what it has to read, and how it lays them out."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding


class Part(NamedTuple):
    """Part `index` of `count` equal parts of the rows, in order. Processes may hold the same part."""

    index: int
    count: int


def rows_of_process(sharding: NamedSharding, process: int | None = None) -> Part:
    """The rows [B, ...] that a process (None: this one) holds of arrays laid out by `sharding`.

    ValueError where they are not neighbours, which an order of the mesh's axes can cause.
    """
    process = jax.process_index() if process is None else process
    sizes = sharding.mesh.shape
    names = [(part,) if isinstance(part, str) else tuple(part or ()) for part in sharding.spec]
    pieces = tuple(math.prod(sizes[name] for name in axis) for axis in names)
    n = pieces[0] if pieces else 1
    places = sharding.devices_indices_map(pieces or (1,)).items()
    mine = {index[0].start or 0 for device, index in places if device.process_index == process}
    first, size = min(mine, default=0), max(len(mine), 1)
    if mine and (mine != set(range(first, first + size)) or first % size or n % size):
        raise ValueError(
            f"mesh.axes: the devices of process {process} hold the parts {sorted(mine)} of {n} of a batch, which are "
            "not neighbours; put the axes that split the batch first"
        )
    return Part(first // size, n // size)


def rows_to_devices(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """This process's rows of a global array, as its part of that array."""
    if sharding.num_devices == 1:
        return jax.device_put(x, sharding)
    part = rows_of_process(sharding)
    shape, first = (x.shape[0] * part.count, *x.shape[1:]), x.shape[0] * part.index

    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(shape[0])
        return x[(slice(start - first, stop - first), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, piece)
