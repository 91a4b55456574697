"""The loss over a mesh: each device takes its own tokens, and the head's gradient is added up once for all chunks.

A loop over chunks whose every turn adds to the gradient of the head has, left to a compiler that partitions programs,
a sum over all devices in every turn: tens of gigabytes a step for a large vocabulary, and two arrays of the head's
full size in float32. Here the loop runs on each device by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from lmx.sharding import spec


class Spread(NamedTuple):
    """How tokens and head lie over a mesh: mesh axes of batch, of length, and of the head's [V, D]."""

    mesh: Mesh
    batch: tuple[str, ...]
    length: tuple[str, ...]
    head: tuple[tuple[str, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Mesh axes that split tokens."""
        return (*self.batch, *self.length)

    @property
    def length_ways(self) -> int:
        """Parts that each sequence is in."""
        return math.prod(self.mesh.shape[name] for name in self.length)


def spread_of(mesh: Mesh | None, rules: Mapping[str, Any] | None, shape: tuple[int, ...]) -> Spread | None:
    """How hidden states of this shape [B, T, D] lie; None where each device has all of them, or they do not divide."""
    if mesh is None or rules is None or mesh.size == 1:
        return None
    batch, length = (_names(spec((axis,), dict(rules))[0]) for axis in ("batch", "length"))
    ways = [math.prod(mesh.shape[name] for name in names) for names in (batch, length)]
    around = jax.sharding.get_abstract_mesh()
    inside = any(
        kind == AxisType.Manual for kind in around.axis_types
    )  # of another shard_map, tokens are local
    if math.prod(ways) == 1 or inside or any(n % w for n, w in zip(shape, ways, strict=False)):
        return None
    axes = {*batch, *length}
    head = tuple(
        tuple(n for n in _names(part) if n in axes) for part in spec(("vocab", "embed"), dict(rules))
    )
    return Spread(mesh, batch, length, head)


def _names(part: Any) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else tuple(part or ())


def _scattered(x: jax.Array, names: tuple[str, ...], dimension: int, ways: int) -> jax.Array:
    """The sum of `x` over the devices of some mesh axes, each with its part of a dimension.

    Rows are scattered first, and then exchanged for columns where those are wanted: a TPU's compiler adds up all of
    what it is to scatter by columns, and keeps it.
    """
    if dimension == 0 or x.shape[0] % ways:
        return jax.lax.psum_scatter(x, names, scatter_dimension=dimension, tiled=True)
    rows = jax.lax.psum_scatter(x, names, scatter_dimension=0, tiled=True)
    return jax.lax.all_to_all(rows, names, split_axis=dimension, concat_axis=0, tiled=True)


def over_devices(spread: Spread, evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """`evaluate(hidden, weight, bias, targets, weights) -> ((nll, z, d_weight, d_bias), d_hidden)` on each device.

    Sums come back over all tokens; the gradient of the head lies as the head does.
    """

    def local(hidden: jax.Array, weight: jax.Array, bias: Any, targets: jax.Array, weights: jax.Array) -> Any:
        for dimension, names in enumerate(spread.head):
            if names:
                weight = jax.lax.all_gather(weight, names, axis=dimension, tiled=True)
        sums, d_hidden = evaluate(hidden, weight, bias, targets, weights)
        total = lambda x: jax.lax.psum(x, spread.axes)
        d_weight, left = sums.d_weight, set(spread.axes)
        for dimension, names in enumerate(spread.head):
            if names:
                d_weight = _scattered(
                    d_weight, names, dimension, math.prod(spread.mesh.shape[n] for n in names)
                )
                left -= set(names)
        rest = tuple(name for name in spread.axes if name in left)
        d_weight = jax.lax.psum(d_weight, rest) if rest else d_weight
        d_bias = None if sums.d_bias is None else total(sums.d_bias)
        # The backward pass waits for the sum: else the whole head's gradient, in float32, lies in memory all along.
        d_hidden = d_hidden * jnp.where(d_weight[0, 0] < jnp.inf, 1.0, jnp.nan).astype(d_hidden.dtype)
        return sums._replace(nll=total(sums.nll), z=total(sums.z), d_weight=d_weight, d_bias=d_bias), d_hidden

    rows = PartitionSpec(spread.batch or None, spread.length or None)
    head, everywhere = PartitionSpec(*(names or None for names in spread.head)), PartitionSpec()

    def mapped(
        hidden: jax.Array, weight: jax.Array, bias: Any, targets: jax.Array, weights: jax.Array
    ) -> Any:
        shapes = jax.eval_shape(evaluate, hidden, weight, bias, targets, weights)
        laid = shapes[0]._replace(nll=everywhere, z=everywhere, d_weight=head, d_bias=everywhere)
        laid = laid._replace(d_bias=None if bias is None else everywhere)
        return jax.shard_map(
            local,
            mesh=spread.mesh,
            in_specs=(rows, head, everywhere, rows, rows),
            out_specs=(laid, rows),
            axis_names=set(spread.axes),
            check_vma=False,
        )(hidden, weight, bias, targets, weights)

    return mapped
