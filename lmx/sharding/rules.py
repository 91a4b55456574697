"""Logical axes -> mesh axes: how an array is laid over a mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lmx.config.mesh import Rules, mesh_axes

Shard = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
"""Lays an activation over the mesh by the logical names of its axes."""


def split_axes(rules: Rules, axis: str) -> tuple[str, ...]:
    """The mesh axes that a logical axis is split over, outermost first; ValueError for an unknown one."""
    if axis not in rules:
        raise ValueError(f"mesh.rules has no rule for the logical axis {axis!r}; it has {', '.join(rules)}")
    return mesh_axes(rules[axis])


def ways(sizes: Mapping[str, int], rules: Rules, axis: str | None) -> int:
    """Into how many parts a logical axis is split; `sizes` are those of the mesh axes (`mesh.shape`)."""
    return 1 if axis is None else math.prod(sizes[name] for name in split_axes(rules, axis))


def spec(axes: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """PartitionSpec of logical axes; ValueError for an unknown axis, or two on one mesh axis, naming both."""
    taken: dict[str, str] = {}
    parts: list[Any] = []
    for axis in axes:
        names = () if axis is None else split_axes(rules, axis)
        for name in names:
            if name in taken:
                raise ValueError(
                    f"mesh.rules: logical axes {taken[name]!r} and {axis!r} of one array "
                    f"are both split over mesh axis {name!r}; give one of them another rule or null"
                )
            taken[name] = axis or ""
        parts.append(names[0] if len(names) == 1 else (names or None))
    return PartitionSpec(*parts)


def check_divisible(
    name: str, shape: Sequence[int], axes: Sequence[str | None], mesh: jax.sharding.Mesh, rules: Rules
) -> None:
    """ValueError naming the axis, its size and the mesh axis when a dimension cannot be split evenly."""
    spec(axes, rules)
    for size, axis in zip(shape, axes, strict=True):
        parts = ways(mesh.shape, rules, axis)
        if size % parts:
            over = "+".join(split_axes(rules, axis or ""))
            raise ValueError(
                f"{name}: its {axis!r} axis of {size} cannot be split {parts} ways over mesh axis {over}"
            )


def make_shard(mesh: jax.sharding.Mesh, rules: Rules) -> Shard:
    """A function that constrains activations to the mesh; the identity on one device.

    A dimension that does not divide stays whole: a batch of one prompt, a single token. Those of training are
    checked before anything is built.
    """
    if mesh.size == 1:
        return lambda x, axes: x

    def shard(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        fits = [
            a if n % ways(mesh.shape, rules, a) == 0 else None for n, a in zip(x.shape, axes, strict=True)
        ]
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(fits, rules)))

    return shard
