"""Rows to the devices that hold their experts, and back: all-to-all in two forms.

Both are exact however uneven the loads are, for a device has room for all that others can send it, unless its room is
bounded (`first_come`). `dense` sends that
room, filled or not (`jax.lax.all_to_all`, on every platform); `ragged` sends the filled part alone
(`jax.lax.ragged_all_to_all`, on TPU and GPU).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.grouped import counts


class Route(NamedTuple):
    """Where the P (token, choice) pairs of this device go, and what comes here; N devices, S rows of room from each.

    order_P     int32, the pairs by device and expert; those that belong nowhere last
    places_P    int32, where each pair stands in that order
    starts_N    int32, where the pairs for each device begin in that order
    sent_N      int32, how many those are
    homes_P     int32, the device that each pair goes to, N where it goes nowhere
    experts_NS  int32, the expert, of this device's, of each row that comes here; their number where there is no row
    came_N      int32, how many rows come from each device
    """

    order: jax.Array
    places: jax.Array
    starts: jax.Array
    sent: jax.Array
    homes: jax.Array
    experts: jax.Array
    came: jax.Array


def first_come(experts_P: jax.Array, held: int, *, devices: int, room: int) -> jax.Array:
    """Which pairs find room, bool [P]: the first `room` for each device of `held` experts; those for nowhere do."""
    homes_P = experts_P // held
    order_P = jnp.argsort(homes_P, stable=True)
    places_P = jnp.zeros_like(order_P).at[order_P].set(jnp.arange(order_P.shape[0], dtype=order_P.dtype))
    sizes_N = counts(homes_P, devices)
    starts_N = jnp.cumsum(sizes_N) - sizes_N
    return (homes_P >= devices) | (places_P - starts_N.at[homes_P].get(mode="clip") < room)


def plan(experts_P: jax.Array, n_experts: int, *, axis: tuple[str, ...], devices: int, room: int) -> Route:
    """The route of pairs with these experts, the devices along `axis` holding n_experts / devices each, in order."""
    held = n_experts // devices
    sizes_NE = counts(experts_P, n_experts).reshape(devices, held)
    sent_N = sizes_NE.sum(1)
    order_P = jnp.argsort(experts_P, stable=True).astype(jnp.int32)
    places_P = jnp.zeros_like(order_P).at[order_P].set(jnp.arange(order_P.shape[0], dtype=jnp.int32))
    came_NE = jax.lax.all_to_all(sizes_NE, axis, 0, 0, tiled=True)
    ends_NE = jnp.cumsum(came_NE, axis=1)
    experts_NS = (jnp.arange(room)[None, :, None] >= ends_NE[:, None, :]).sum(-1, dtype=jnp.int32)
    return Route(
        order_P, places_P, jnp.cumsum(sent_N) - sent_N, sent_N, experts_P // held, experts_NS, came_NE.sum(1)
    )


def send(route: Route, x_MD: jax.Array, choices: int, *, axis: tuple[str, ...], ragged: bool) -> jax.Array:
    """[N, S, D]: the rows that come here, of `x` [M, D] or, where pairs differ, [M * choices, D]; zeros after them."""
    tokens_P = route.order if choices == 1 else route.order // choices
    devices, room = route.experts.shape
    if not ragged:
        slots_NS = route.starts[:, None] + jnp.arange(room)[None]
        filled_NS = jnp.arange(room)[None] < route.sent[:, None]
        x_NSD = x_MD[tokens_P.at[slots_NS].get(mode="clip")]
        return jax.lax.all_to_all(jnp.where(filled_NS[..., None], x_NSD, 0), axis, 0, 0, tiled=True)
    here = jax.lax.axis_index(axis) * room  # each device writes into its own part of the others' room
    into = jnp.zeros((devices * room, x_MD.shape[1]), x_MD.dtype)
    offsets_N = jnp.full(devices, here, jnp.int32)
    y = jax.lax.ragged_all_to_all(
        x_MD[tokens_P], into, route.starts, route.sent, offsets_N, route.came, axis_name=axis
    )
    return y.reshape(devices, room, -1)


def fetch(route: Route, y_NSD: jax.Array, *, axis: tuple[str, ...], ragged: bool) -> jax.Array:
    """[P, D]: each pair's row, back from where `send` brought it; zeros for those that went nowhere."""
    devices, room = route.experts.shape
    known_P = (route.homes < devices)[:, None]
    if not ragged:
        back_NSD = jax.lax.all_to_all(y_NSD, axis, 0, 0, tiled=True)
        homes_P = jnp.minimum(route.homes, devices - 1)
        slots_P = jnp.minimum(route.places - route.starts[homes_P], room - 1)
        return jnp.where(known_P, back_NSD[homes_P, slots_P], 0)
    into = jnp.zeros((route.order.shape[0], y_NSD.shape[-1]), y_NSD.dtype)
    theirs_N = jax.lax.all_to_all(route.starts, axis, 0, 0, tiled=True)
    y_PD = jax.lax.ragged_all_to_all(
        y_NSD.reshape(devices * room, -1),
        into,
        jnp.arange(devices, dtype=jnp.int32) * room,
        route.came,
        theirs_N,
        route.sent,
        axis_name=axis,
    )
    return jnp.where(known_P, y_PD[route.places], 0)
