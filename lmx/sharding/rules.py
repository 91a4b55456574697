"""Logical axes -> mesh axes: how an array is laid over a mesh."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lmx.config.mesh import Pipeline, Rules, mesh_axes


class Shard(NamedTuple):
    """Lays activations over a mesh by the logical names of their axes; `mesh` is None on one device."""

    mesh: jax.sharding.Mesh | None
    rules: Rules
    pipeline: Pipeline | None = None

    @property
    def stage_axis(self) -> str:
        """The mesh axis of a pipeline's stages."""
        return split_axes(self.rules, "layers")[0]

    def inside_stages(self) -> Shard:
        """The same within one stage of a pipeline, where its mesh axis is taken; itself without a pipeline."""
        if self.pipeline is None:
            return self
        stage = self.stage_axis
        rules = {axis: [n for n in mesh_axes(rule) if n != stage] for axis, rule in self.rules.items()}
        return Shard(self.mesh, rules)

    def __call__(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        """`x`, constrained to the mesh; a dimension that does not divide stays whole (a batch of one prompt)."""
        layout = self.layout(x.shape, axes)
        return x if layout is None else jax.lax.with_sharding_constraint(x, layout)

    def layout(self, shape: Sequence[int], axes: Sequence[str | None]) -> NamedSharding | None:
        """Where an array of this shape lies; None on one device."""
        mesh, rules = self.mesh, self.rules
        if mesh is None:
            return None
        fits = [a if n % ways(mesh.shape, rules, a) == 0 else None for n, a in zip(shape, axes, strict=True)]
        return NamedSharding(mesh, spec(fits, rules))

    def looked_up(self, x_BTD: jax.Array) -> jax.Array:
        """Rows of an embedding whose width is split, brought from the devices of the width to those of the sequences.

        Over one mesh axis after another: left to do it at once, the compiler gathers the whole batch on each device,
        and in the backward pass once more.
        """
        if self.mesh is None or x_BTD.shape[0] % ways(self.mesh.shape, self.rules, "batch"):
            return x_BTD
        batch, embed = split_axes(self.rules, "batch"), split_axes(self.rules, "embed")
        for rows, width in (
            (tuple(a for a in batch if a not in embed), embed),
            (batch, tuple(a for a in embed if a not in batch)),
        ):
            layout = NamedSharding(self.mesh, PartitionSpec(rows or None, None, width or None))
            x_BTD = jax.lax.with_sharding_constraint(x_BTD, layout)
        return x_BTD


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


def make_shard(mesh: jax.sharding.Mesh, rules: Rules, pipeline: Pipeline | None = None) -> Shard:
    """What lays activations over this mesh; nothing is constrained on one device."""
    return Shard(None if mesh.size == 1 else mesh, rules, pipeline)
