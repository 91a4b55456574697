"""Choosing the next token from logits, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def filter_logits(logits_BV: jax.Array, *, top_k: int | None, top_p: float | None) -> jax.Array:
    """Logits with -inf for all but the `top_k` largest and the smallest set of probability `top_p`."""
    if top_k is not None:
        kth = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth, -jnp.inf, logits_BV)
    if top_p is not None and top_p < 1.0:
        ordered = jnp.sort(logits_BV, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        inside = jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
        least = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least, -jnp.inf, logits_BV)
    return logits_BV


def sample(
    logits_BV: jax.Array,
    key: jax.Array,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """Token ids, int32 [B]; `temperature` 0 takes the most probable."""
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = filter_logits(logits_BV / temperature, top_k=top_k, top_p=top_p)
    return jax.random.categorical(key, logits_BV, axis=-1).astype(jnp.int32)
