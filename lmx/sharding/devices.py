"""Devices -> a mesh whose inner axes keep to the fast links, and words for which links those are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from lmx.config.mesh import Mesh as MeshConfig
from lmx.config.mesh import mesh_axes


class Link(NamedTuple):
    """What an axis of a mesh runs over.

    between     how many slices (TPU), hosts (GPU) or processes (CPU) it crosses
    inside      how many devices of each of those it has
    slow, fast  names of the links: between, and inside
    """

    between: int
    inside: int
    slow: str
    fast: str

    def __str__(self) -> str:
        parts = [f"{self.slow} {self.between}"] * (self.between > 1) + [f"{self.fast} {self.inside}"] * (
            self.inside > 1
        )
        if len(parts) == 1:
            return self.slow if self.between > 1 else self.fast
        return " x ".join(parts) or self.fast


def slice_of(device: Any) -> int:
    """Number of the group of devices with fast links inside that a device belongs to.

    A slice of TPU chips; of GPUs a host, or several that NVLink joins (JAX says which); of CPU devices a process.
    """
    if device.platform == "cpu":  # JAX puts the processes of one host into one slice
        return int(device.process_index)
    return int(getattr(device, "slice_index", None) or 0)


def n_slices(devices: Sequence[Any]) -> int:
    """How many such groups there are."""
    return len({slice_of(device) for device in devices})


def axis_sizes(config: MeshConfig, n_devices: int, slices: int = 1) -> dict[str, int]:
    """Devices along each mesh axis, `auto` and `slices` filled in.

    ValueError, with sizes that fit, when they do not multiply to `n_devices`, and where an axis of several devices is
    in no rule: they would all do the same.
    """
    used = {name for rule in config.rules.values() for name in mesh_axes(rule)}
    free = [name for name, size in config.axes.items() if size == "auto"]
    sizes = {name: slices if size == "slices" else size for name, size in config.axes.items()}
    if len(free) > 1:
        raise ValueError(f"mesh.axes: only one axis may be auto, but {' and '.join(free)} are")
    product = math.prod(size for size in sizes.values() if isinstance(size, int))
    if (n_devices % product) if free else (product != n_devices):
        said = " x ".join(f"{name} {size}" for name, size in sizes.items() if isinstance(size, int))
        problem = (
            f"is not a divisor of the {n_devices} devices" if free else f"but there are {n_devices} devices"
        )
        cure = _proposal(sizes, n_devices, slices) if used else _SPLIT
        raise ValueError(f"mesh.axes: {said} = {product}{' ' if free else ', '}{problem}; {cure}")
    whole = {name: size if isinstance(size, int) else n_devices // product for name, size in sizes.items()}
    idle = next((name for name, size in whole.items() if size > 1 and name not in used), None)
    if idle is not None:
        batch = ",".join([*mesh_axes(config.rules.get("batch")), idle])
        cure = f"split the batch over it: 'mesh.rules.batch=[{batch}]'" if used else _SPLIT
        raise ValueError(
            f"mesh.axes: no rule lays anything over {idle} {whole[idle]}: its devices would all do the same; {cure}"
        )
    return whole


_SPLIT = "batch and parameters are split over all of them by mesh=fsdp"


def _proposal(sizes: dict[str, Any], n_devices: int, slices: int) -> str:
    """Sizes near those asked for that fit the devices: of each axis, inner ones first, the largest divisor left.

    The outermost axis keeps the slices where it can: only it is meant to cross the slow links between them.
    """
    inner = dict(list(sizes.items())[1:])
    kept = slices if inner and n_devices % slices == 0 else 1
    left, fitting = n_devices // kept, {}
    for name, size in reversed(inner.items() if kept > 1 else sizes.items()):
        if isinstance(size, int):
            fitting[name] = max(n for n in range(1, size + 1) if left % n == 0)
            left //= fitting[name]
    if kept > 1:
        fitting[next(iter(sizes))] = kept
    free = next((name for name, size in sizes.items() if not isinstance(size, int)), next(iter(sizes)))
    fitting[free] = fitting.get(free, 1) * left
    words = [
        f"mesh.axes.{name}={'auto' if name == free else fitting[name]}"
        for name in sizes
        if name == free or fitting[name] != sizes[name]
    ]
    shape = " x ".join(f"{name} {fitting[name]}" for name in sizes)
    return f"{shape} fits: {' '.join(word for word in words if word != f'mesh.axes.{free}={sizes[free]}')}"


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The device mesh of a configuration, over all devices or over `devices` (those of a described topology, too).

    In each slice neighbours on an axis are neighbours in the hardware, and the outermost axes that can are those
    that cross slices. A mesh of one device takes the first of this process; any other takes all, or is a ValueError
    with sizes that fit.
    """
    devices = list(devices if devices is not None else jax.devices())
    one = all(size == 1 for size in config.axes.values())
    if one and len({d.process_index for d in devices}) == 1:
        devices = devices[:1]
    slices = n_slices(devices)
    sizes = axis_sizes(config, len(devices), slices)
    between = crossing(sizes, slices)
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(slice_of(device), []).append(device)
    if len({len(group) for group in groups.values()}) > 1:
        counts = ", ".join(f"{len(group)}" for group in groups.values())
        raise ValueError(f"mesh: the {slices} slices have unequal numbers of devices ({counts})")
    inside = tuple(size // n for size, n in zip(sizes.values(), between, strict=True))
    blocks = np.empty(slices, dtype=object)
    for i, key in enumerate(sorted(groups)):
        blocks[i] = _in_one_slice(inside, groups[key])
    array = np.block(blocks.reshape(between).tolist())
    return jax.sharding.Mesh(array, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _in_one_slice(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def crossing(sizes: dict[str, int], slices: int) -> tuple[int, ...]:
    """Over how many slices each axis goes: the outermost axes take as many as divide them.

    All are taken in the end: slices of equal size divide the devices, and the sizes multiply to those.
    """
    left, between = slices, []
    for size in sizes.values():
        between.append(math.gcd(size, left))
        left //= between[-1]
    assert left == 1
    return tuple(between)


_NVLINK = ("A100-SXM", "H100 80GB HBM3", "H200", "H20", "B200", "B300", "GH200", "GB200", "GB300", "V100-SXM")


def links(mesh: jax.sharding.Mesh) -> dict[str, Link]:
    """What each axis of a mesh runs over."""
    device = mesh.devices.flat[0]
    kind = str(device.device_kind)
    if device.platform == "tpu" or kind.startswith("TPU"):
        slow, fast = "DCN", "ICI"
    elif device.platform in ("gpu", "cuda", "rocm"):
        slow, fast = "network", "NVLink" if any(name in kind for name in _NVLINK) else "PCIe"
    else:
        slow, fast = "sockets", "memory"
    groups = np.vectorize(slice_of, otypes=[int])(mesh.devices)
    found = {}
    for i, (name, size) in enumerate(mesh.shape.items()):
        along = np.moveaxis(groups, i, -1).reshape(-1, size)
        between = max(len(set(line.tolist())) for line in along)
        found[name] = Link(between, size // between, slow, fast)
    return found


def describe_mesh(mesh: jax.sharding.Mesh) -> str:
    """Each axis with its size and link, the devices, and their order where they are few."""
    over = links(mesh)
    device = mesh.devices.flat[0]
    axes = " x ".join(
        name + f" {size}" + (f" ({over[name]})" if size > 1 else "") for name, size in mesh.shape.items()
    )
    counted = "" if mesh.size == 1 else f"{mesh.size} x "
    text = f"mesh: {axes}, {counted}{device.platform} ({device.device_kind})"
    ids = [d.id for d in mesh.devices.flat]
    if ids == sorted(ids):
        return text
    return f"{text}, devices {' '.join(str(i) for i in ids[:16])}{' ...' if len(ids) > 16 else ''}"
