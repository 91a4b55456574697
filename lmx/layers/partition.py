"""Attention over a mesh for kernels that the compiler cannot partition: each device computes its batch and heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from lmx.sharding import spec


def over_mesh(
    attention: Callable[..., jax.Array], mesh: Mesh, rules: Mapping[str, Any]
) -> Callable[..., jax.Array]:
    """`attention` under `jax.shard_map`; sequences are whole on each device. The identity on one device.

    What does not divide (a batch of one sequence) is computed by every device.
    """
    if mesh.size == 1:
        return attention

    def part(axis: str, size: int) -> Any:
        split = spec((axis,), dict(rules))[0]
        names = (split,) if isinstance(split, str) else tuple(split or ())
        return split if size % math.prod(mesh.shape[name] for name in names) == 0 else None

    def of(
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        *,
        q_segments_BT: jax.Array | None = None,
        k_segments_BS: jax.Array | None = None,
        sinks_N: jax.Array | None = None,
        **knobs: Any,
    ) -> jax.Array:
        n, k = q_BTNH.shape[2], k_BSKH.shape[2]
        batch, heads, kv_heads = part("batch", q_BTNH.shape[0]), part("act_heads", n), part("act_kv_heads", k)
        if heads != kv_heads:  # a device's query heads must meet the key heads that they belong to
            k_BSKH, v_BSKH = (jnp.repeat(x, n // k, axis=2) for x in (k_BSKH, v_BSKH))
            kv_heads = heads
        rows = PartitionSpec(batch, None)
        keys = PartitionSpec(batch, None, kv_heads, None)
        out = PartitionSpec(batch, None, heads, None)

        def local(q: jax.Array, k: jax.Array, v: jax.Array, q_ids: Any, k_ids: Any, sinks: Any) -> jax.Array:
            given = {"q_segments_BT": q_ids, "k_segments_BS": k_ids, "sinks_N": sinks, **knobs}
            return attention(q, k, v, **given)

        manual = _manual_axes()
        mapped = jax.shard_map(
            local,
            mesh=None if manual else mesh,
            in_specs=(out, keys, keys, rows, rows, PartitionSpec(heads)),
            out_specs=out,
            axis_names=set(mesh.axis_names) - manual,
            check_vma=False,
        )
        return mapped(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS, sinks_N)

    return of


def _manual_axes() -> set[str]:
    """Axes that are taken by a shard_map around; inside one, the mesh is the one around."""
    around = jax.sharding.get_abstract_mesh()
    return {
        name
        for name, kind in zip(around.axis_names, around.axis_types, strict=True)
        if kind == AxisType.Manual
    }
