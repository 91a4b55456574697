"""Attention where sequences are split over devices (context parallelism): each device has its part of the queries.

Three ways, all exact. With a window that does not reach far back, each device gets the few keys before its own from
its neighbours. Otherwise `all_gather` brings every key to every device, or `ring` (see `lmx.layers.ring`) passes
them around.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from lmx.layers import ring
from lmx.layers.cache import AHEAD
from lmx.sharding import split_axes, ways

Attention = Callable[..., jax.Array]


def over_context(
    attention: Attention,
    mesh: Mesh,
    rules: Mapping[str, Any],
    method: str | None,
    *,
    block: int,
    stage_axis: str | None = None,
) -> Attention:
    """`attention` (as of `KernelSet`) over parts of sequences; itself where `rules` do not split `length`.

    What is not split evenly (a prompt, a token at a time) is left to `attention` and the compiler. `block`: queries
    that the ring looks at together. `stage_axis`: the mesh axis that the stages of a pipeline are mapped over, around
    the attention.
    """
    axes, n = split_axes(rules, "length"), ways(mesh.shape, rules, "length")
    if method is None or n == 1:
        return attention

    def of(
        q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, *, window: int | None, **given: Any
    ) -> jax.Array:
        length = q_BTNH.shape[1]
        if given.get("q_positions_BT") is not None or length % (2 * n):
            return attention(q_BTNH, k_BSKH, v_BSKH, window=window, **given)
        own = length // n
        # Keys that a query meets on average: of the ring's parts of own / 2, 2 n + 1 pairs are multiplied.
        elsewhere = own * (2 * n + 1) / 4 if method == "ring" else length
        if window is not None and own + window - 1 <= elsewhere:
            way: Any = partial(_from_neighbours, attention)
        else:
            way = partial(ring.attention, block=block) if method == "ring" else partial(_gathered, attention)
        given = {"k_segments_BS": None, "q_segments_BT": None, "sinks_N": None} | given
        ids_BT, sinks_N, _ = (given.pop(name) for name in ("q_segments_BT", "sinks_N", "k_segments_BS"))

        def local(index: jax.Array, q: Any, k: Any, v: Any, ids: Any, sinks: Any) -> jax.Array:
            return way(q, k, v, ids, place=(index[0], n, axes), window=window, sinks_N=sinks, **given)

        split = PartitionSpec(None, axes)
        mapped = jax.shard_map(
            local,
            mesh=None if _inside_shard_map() else mesh,
            in_specs=(PartitionSpec(axes), split, split, split, split, PartitionSpec()),
            out_specs=split,
            # Mapped over stages, an array has their axis in front, and that has to be taken here as well.
            axis_names={*axes, *(() if stage_axis is None else (stage_axis,))},
            check_vma=False,
        )
        return mapped(jnp.arange(n), q_BTNH, k_BSKH, v_BSKH, ids_BT, sinks_N)

    return of


def _inside_shard_map() -> bool:
    """Whether some axes are taken already; the mesh is then the one around."""
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def _gathered(
    attention: Attention,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    ids_BT: jax.Array | None,
    *,
    place: ring.Place,
    **knobs: Any,
) -> jax.Array:
    """All keys and values on each device; those that causality hides are multiplied too."""
    index, _, axes = place

    def whole(x: Any) -> Any:
        return None if x is None else jax.lax.all_gather(x, axes, axis=1, tiled=True)

    k_BSKH, v_BSKH, ids_BS = whole(k_BTKH), whole(v_BTKH), whole(ids_BT)
    own = q_BTNH.shape[1]
    return attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        q_positions_BT=(index * own + jnp.arange(own))[None],
        k_positions_BS=jnp.arange(k_BSKH.shape[1])[None],
        q_segments_BT=ids_BT,
        k_segments_BS=ids_BS,
        **knobs,
    )


def _from_neighbours(
    attention: Attention,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    ids_BT: jax.Array | None,
    *,
    place: ring.Place,
    window: int,
    **knobs: Any,
) -> jax.Array:
    """The window - 1 keys before a device's first query come from the devices before it."""
    index, n, axes = place
    own, reach = q_BTNH.shape[1], window - 1

    def extended(x: Any) -> Any:
        if x is None:
            return None
        parts, missing, back = [x], reach, 1
        while missing > 0:
            taken = x[:, own - min(own, missing) :]
            parts.insert(0, jax.lax.ppermute(taken, axes, [(i, (i + back) % n) for i in range(n)]))
            missing, back = missing - own, back + 1
        return jnp.concatenate(parts, axis=1)

    places = index * own - reach + jnp.arange(reach + own)
    return attention(
        q_BTNH,
        extended(k_BTKH),
        extended(v_BTKH),
        q_positions_BT=(index * own + jnp.arange(own))[None],
        # What the first devices are given from the end of the sequence lies before its start: hidden.
        k_positions_BS=jnp.where(places < 0, AHEAD, places)[None],
        q_segments_BT=ids_BT,
        k_segments_BS=extended(ids_BT),
        window=window,
        **knobs,
    )
