"""Logical axes -> mesh axes. Only `conf/mesh` names mesh axes; everything else speaks of logical ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmx.config.mesh import Mesh as MeshConfig

Shard = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
"""Lays an activation over the mesh by the logical names of its axes."""


def axis_sizes(config: MeshConfig, n_devices: int) -> dict[str, int]:
    """Devices along each mesh axis, `auto` filled in; ValueError when they do not multiply to `n_devices`."""
    fixed = {name: size for name, size in config.axes.items() if size != "auto"}
    free = [name for name, size in config.axes.items() if size == "auto"]
    product = math.prod(fixed.values())
    if len(free) > 1:
        raise ValueError(f"mesh.axes: only one axis may be auto, but {' and '.join(free)} are")
    if free:
        if n_devices % product:
            raise ValueError(
                f"mesh.axes: {product} devices in fixed axes ({fixed}) do not divide the {n_devices} devices here"
            )
        fixed[free[0]] = n_devices // product
    elif product != n_devices:
        raise ValueError(
            f"mesh.axes: {fixed} takes {product} devices, but {n_devices} are here; "
            f"set one axis to auto, or to sizes that multiply to {n_devices}"
        )
    return {name: fixed[name] for name in config.axes}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The device mesh of a configuration. A mesh of fixed sizes takes the first devices that it needs."""
    devices = list(devices if devices is not None else jax.devices())
    needed = math.prod(size for size in config.axes.values() if size != "auto")
    if "auto" not in config.axes.values() and needed < len(devices) and jax.process_count() == 1:
        devices = devices[:needed]
    sizes = axis_sizes(config, len(devices))
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), devices=devices, axis_types=(AxisType.Auto,) * len(sizes)
    )


def spec(axes: Sequence[str | None], rules: dict[str, list[str] | str | None]) -> PartitionSpec:
    """PartitionSpec of logical axes; ValueError for an unknown axis, or two on one mesh axis, naming both."""
    taken: dict[str, str] = {}
    parts = []
    for axis in axes:
        if axis is None:
            parts.append(None)
            continue
        if axis not in rules:
            raise ValueError(
                f"mesh.rules has no rule for the logical axis {axis!r}; it has {', '.join(rules)}"
            )
        rule = rules[axis]
        mesh_axes = (rule,) if isinstance(rule, str) else tuple(rule or ())
        for mesh_axis in mesh_axes:
            if mesh_axis in taken:
                raise ValueError(
                    f"mesh.rules: logical axes {taken[mesh_axis]!r} and {axis!r} of one array "
                    f"are both split over mesh axis {mesh_axis!r}; give one of them another rule or null"
                )
            taken[mesh_axis] = axis
        parts.append(mesh_axes[0] if len(mesh_axes) == 1 else (mesh_axes or None))
    return PartitionSpec(*parts)


def check_divisible(
    name: str, shape: Sequence[int], axes: Sequence[str | None], mesh: jax.sharding.Mesh, rules: dict
) -> None:
    """ValueError naming the axis, its size and the mesh axis when a dimension cannot be split evenly."""
    for size, axis, part in zip(shape, axes, spec(axes, rules), strict=True):
        parts = (part,) if isinstance(part, str) else (part or ())
        ways = math.prod(mesh.shape[p] for p in parts)
        if size % ways:
            raise ValueError(
                f"{name}: its {axis!r} axis of {size} cannot be split {ways} ways over mesh axis {'+'.join(parts)}"
            )


def make_shard(mesh: jax.sharding.Mesh, rules: dict) -> Shard:
    """A function that constrains activations to the mesh; the identity on one device."""
    if mesh.size == 1:
        return lambda x, axes: x
    return lambda x, axes: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(axes, rules)))
