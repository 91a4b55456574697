"""Loads of experts, and what evens them out: losses, or biases that move after each step (arXiv:2408.15664)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]
"""What each layer counted (see `lmx.layers.moe`), stacked over layers."""


def losses(sums: Sums, moe: Any) -> dict[str, jax.Array]:
    """`loss/balance` and `loss/router_z` where they are on: means over layers, their factors applied."""
    found = {}
    tokens_L = jnp.maximum(sums["tokens"], 1)
    if moe.balance_loss:
        used_LE = sums["choices"] / (tokens_L * moe.top_k)[:, None]
        mean_LE = sums["scores"] / tokens_L[:, None]
        found["loss/balance"] = moe.balance_loss * moe.n_experts * (used_LE * mean_LE).sum(-1).mean()
    if moe.z_loss:
        found["loss/router_z"] = moe.z_loss * (sums["z"] / tokens_L).mean()
    return found


def loads(choices_LE: jax.Array) -> jax.Array:
    """float32 [L, E]: the choices of each expert, in even shares."""
    return choices_LE / jnp.maximum(choices_LE.mean(-1, keepdims=True), 1e-6)


def statistics(counts: Sums) -> dict[str, jax.Array]:
    """What is shown of a step's counts, "choices" [L, E] and perhaps "dropped" and "overflow" [L].

    experts/load        [L, E], in even shares
    experts/max_load    the largest of all; experts/min_load the smallest
    experts/dropped     share of the choices that found no room with their expert
    experts/overflow    share that found none on the way to their expert's device
    """
    load_LE = loads(counts["choices"])
    shown = {"experts/load": load_LE, "experts/max_load": load_LE.max(), "experts/min_load": load_LE.min()}
    total = jnp.maximum(counts["choices"].sum(dtype=jnp.float32), 1)
    for name in ("dropped", "overflow"):
        if name in counts:
            shown[f"experts/{name}"] = counts[name].sum(dtype=jnp.float32) / total
    return shown


def moved(bias_LE: jax.Array, choices_LE: jax.Array, speed: float | None) -> jax.Array:
    """`choice_bias` after a step: up by `speed` for experts below the mean load of their layer, down above it."""
    if speed is None:
        return bias_LE
    # Of whole numbers, and so the same however they were added up.
    mean_L1 = choices_LE.sum(-1, keepdims=True).astype(jnp.float32) / choices_LE.shape[-1]
    return bias_LE + (speed * jnp.sign(mean_L1 - choices_LE)).astype(bias_LE.dtype)
