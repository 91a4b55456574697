"""Where keys and values of earlier positions are kept: one layer's part of a `KVCache`, written in place.

A layer that looks back no further than a window or a chunk of W positions keeps W of them: position p lies in slot
p % W. A layer that sees everything has a slot for every position of the cache, so that the same rule holds for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FEW_ROWS = 16
"""Rows up to which a single position each is written row by row, which is cheaper than one scatter on a CPU."""

AHEAD = 1 << 30
"""The position of a slot that holds nothing yet: after every query, so that causality hides it."""


class Filling(NamedTuple):
    """Which positions a forward pass adds to a cache: those after `starts`, one after another.

    starts_B    int32, positions that each row has so far
    counts_B    int32, how many tokens of this call count; those after them are padding, and are not kept
    capacity    positions that the cache has room for
    fresh       whether it holds nothing yet, and this call fills it
    """

    starts: Any
    counts: Any
    capacity: int
    fresh: bool


class Held(NamedTuple):
    """What the queries of a call may look at.

    keys, values    [B, S, K, H]
    positions_BS    int32, of each; None: this call's own tokens, 0..S-1
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array | None


class CacheSlot(NamedTuple):
    """The cache of a group of layers, and which of them is meant.

    keys, values    [L, B, K, S, H], or a tuple of L arrays [B, K, S, H]: a position's row of every head is moved
                    nowhere when it is read, since a head's keys are one matrix

    Latent attention keeps its compressed vector and the rotated part of the key, one after the other, as the only
    head of `keys`; `values` are then 0 wide.

    inputs          what each convolution of a layer was given, by name; as `keys` with one head, [.., B, 1, S, D]
    """

    keys: Any
    values: Any
    inputs: dict[str, Any]
    layer: Any

    def write(self, filling: Filling, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[CacheSlot, Held]:
        """The cache with these in place, and what the queries of this call see of it."""
        keys, k_BSKH = _written(self.keys, self.layer, filling, k_BTKH)
        values, v_BSKH = _written(self.values, self.layer, filling, v_BTKH)
        positions_BS = _positions(_slots(self.keys), filling, k_BTKH.shape[1])
        return self._replace(keys=keys, values=values), Held(k_BSKH, v_BSKH, positions_BS)

    def write_inputs(self, name: str, filling: Filling, x_BTD: jax.Array) -> tuple[CacheSlot, jax.Array]:
        """The cache with what a convolution is given, and all that it was given [B, S, D]."""
        held, x_BS1D = _written(self.inputs[name], self.layer, filling, x_BTD[:, :, None])
        return self._replace(inputs={**self.inputs, name: held}), x_BS1D[:, :, 0]


def _slots(held: Any) -> int:
    return (held[0] if isinstance(held, tuple) else held).shape[-2]


def _in_slots(newest_B: jax.Array, slots: int) -> jax.Array:
    """int32 [B, slots]: the position in each slot when `newest` is the last one; negative where there is none yet."""
    newest_B1 = newest_B[:, None]
    return newest_B1 - (newest_B1 - jnp.arange(slots)) % slots


def _positions(slots: int, filling: Filling, length: int) -> jax.Array | None:
    """Those of `Held`, for a call of `length` tokens."""
    if filling.fresh:
        return None
    starts_B = filling.starts
    if slots >= filling.capacity:
        return jnp.broadcast_to(jnp.arange(slots), (starts_B.shape[0], slots))
    newest_B = starts_B if length == 1 else starts_B - 1
    held_BS = _in_slots(newest_B, slots)
    held_BS = jnp.where(held_BS < 0, AHEAD, held_BS)
    if length == 1:
        return held_BS
    return jnp.concatenate([held_BS, starts_B[:, None] + jnp.arange(length)], axis=1)


def _written(held: Any, layer: Any, filling: Filling, x_BTKH: jax.Array) -> tuple[Any, jax.Array]:
    """The cache with `x` in place, and what this call sees of the layer, [B, S, K, H]."""
    slots, length = _slots(held), x_BTKH.shape[1]
    if held[0].shape[-1] == 0:
        return held, x_BTKH[..., :0]
    one_BKSH = held[layer]
    x_BKTH = x_BTKH.astype(one_BKSH.dtype).transpose(0, 2, 1, 3)
    if filling.fresh:
        seen_BKSH, kept_BKSH = x_BKTH, _newest(x_BKTH, slots, filling, earlier=0)
        return _put(held, layer, kept_BKSH), seen_BKSH.transpose(0, 2, 1, 3)
    if length > 1 and slots < filling.capacity:
        # Written first, this call's later tokens would take the place of what its first ones look back on.
        seen_BKSH = jnp.concatenate([one_BKSH, x_BKTH], axis=2)
        kept_BKSH = _newest(seen_BKSH, slots, filling, earlier=slots)
        return _put(held, layer, kept_BKSH), seen_BKSH.transpose(0, 2, 1, 3)
    places_BT = filling.starts[:, None] + jnp.arange(length)
    if slots < filling.capacity:
        places_BT = places_BT % slots
    if isinstance(held, tuple):
        held = _put(held, layer, _row_written(one_BKSH, places_BT, x_BKTH))
    else:
        rows_B1 = jnp.arange(places_BT.shape[0])[:, None]
        held = held.at[layer, rows_B1, :, places_BT].set(x_BKTH.transpose(0, 2, 1, 3))
    return held, held[layer].transpose(0, 2, 1, 3)


def _newest(seen_BKSH: jax.Array, slots: int, filling: Filling, *, earlier: int) -> jax.Array:
    """The content of the slots after this call; `seen` is that of before (`earlier` slots), then this call's tokens."""
    if slots == seen_BKSH.shape[2] and not earlier:
        return seen_BKSH
    held_BS = _in_slots(filling.starts + filling.counts - 1, slots)
    new_BS = held_BS - filling.starts[:, None]
    index_BS = jnp.where(new_BS >= 0, earlier + new_BS, jnp.arange(slots) if earlier else 0)
    return jnp.take_along_axis(seen_BKSH, index_BS[:, None, :, None], axis=2)


def _put(held: Any, layer: Any, one_BKSH: jax.Array) -> Any:
    """The cache with another content of one layer."""
    if isinstance(held, tuple):
        return (*held[:layer], one_BKSH, *held[layer + 1 :])
    return held.at[layer].set(one_BKSH)


def _row_written(held_BKSH: jax.Array, places_BT: jax.Array, x_BKTH: jax.Array) -> jax.Array:
    b, t = places_BT.shape
    if t > 1 or b > FEW_ROWS:
        return held_BKSH.at[jnp.arange(b)[:, None], :, places_BT].set(x_BKTH.transpose(0, 2, 1, 3))
    for row in range(b):
        held_BKSH = jax.lax.dynamic_update_slice(
            held_BKSH, x_BKTH[row : row + 1], (row, 0, places_BT[row, 0], 0)
        )
    return held_BKSH
