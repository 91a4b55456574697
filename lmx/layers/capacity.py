"""Capacity of experts: how many tokens of a sequence each one takes (GShard, arXiv:2006.16668, section 2.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def capacity(factor: float, length: int, *, top_k: int, n_experts: int) -> int:
    """Tokens of a sequence that an expert takes: `factor` times its even share, rounded up; at most all."""
    return min(length, -int(-factor * length * top_k // n_experts))


def keep(experts_BTJ: jax.Array, n_experts: int, room: int) -> jax.Array:
    """Which choices are kept, bool [B, T, J]: the first `room` of each expert in each sequence.

    Earlier tokens come first with all of their choices, so that none depends on a later one; and each sequence stands
    for itself, so that nothing depends on how a batch is split over devices or micro-batches.
    """
    chosen_BTE = (experts_BTJ[..., None] == jnp.arange(n_experts)).any(-2).astype(jnp.int32)
    before_BTE = jnp.cumsum(chosen_BTE, axis=1) - chosen_BTE
    return jnp.take_along_axis(before_BTE, experts_BTJ, axis=2) < room
