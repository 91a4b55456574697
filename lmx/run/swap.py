"""The same mesh on other devices: every position goes to the next device of its own process, and arrays with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

Touch = Callable[[str, list[jax.Array]], list[jax.Array]]
"""(name of an array, its parts on this process's devices) -> parts."""


def swapped(mesh: jax.sharding.Mesh) -> tuple[jax.sharding.Mesh, dict[Any, Any]]:
    """A mesh of the same shape, and old device -> new device. A process with one device keeps it."""
    own: dict[int, list[Any]] = {}
    for device in mesh.devices.flat:
        own.setdefault(device.process_index, []).append(device)
    to = {old: new for devices in own.values() for old, new in zip(devices, _turned(devices), strict=True)}
    devices = np.array([to[device] for device in mesh.devices.flat], dtype=object)
    shape = mesh.devices.shape
    return jax.sharding.Mesh(devices.reshape(shape), mesh.axis_names, axis_types=mesh.axis_types), to


def _turned(devices: list[Any]) -> list[Any]:
    return [*devices[1:], devices[0]]


def moved(tree: Any, mesh: jax.sharding.Mesh, to: Mapping[Any, Any], touch: Touch | None = None) -> Any:
    """Arrays on a mesh as the same arrays on `mesh`, part by part, each copied from its device to `to` of it.

    Nothing crosses hosts. `touch` may change the copies: a staged fault does.
    """
    from lmx.params import path_name

    def one(path: tuple, array: jax.Array) -> jax.Array:
        assert isinstance(array.sharding, NamedSharding)
        where = NamedSharding(mesh, array.sharding.spec)
        parts = [jax.device_put(part.data, to[part.device]) for part in array.addressable_shards]
        if touch is not None:
            parts = touch(path_name(path), parts)
        return jax.make_array_from_single_device_arrays(array.shape, where, parts)

    return jax.tree_util.tree_map_with_path(one, tree)
