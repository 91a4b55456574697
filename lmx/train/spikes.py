"""Spikes of loss and gradient norm, found inside the training step: no value has to come to the host for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.train.spikes_config import Spikes


class Statistics(NamedTuple):
    """What loss and gradient norm usually are; a part of the training state.

    steps       int32 [], steps that are in the means
    loss, norm  float32 [2], running mean and variance of the loss, and of the logarithm of the gradient norm
    count       int32 [], spikes so far
    run         int32 [], how many of those came directly one after another, up to now
    """

    steps: Any
    loss: Any
    norm: Any
    count: Any
    run: Any


class Seen(NamedTuple):
    """Of one step: whether it is a spike (bool []), and how far loss and log norm are above their means, in standard
    deviations (float32 []; 0 before there is a mean).
    """

    spike: Any
    loss: Any
    norm: Any


def no_statistics() -> Statistics:
    """Those before the first step."""
    zero = lambda dtype, shape=(): jnp.zeros(shape, dtype)
    return Statistics(
        zero(jnp.int32), zero(jnp.float32, (2,)), zero(jnp.float32, (2,)), zero(jnp.int32), zero(jnp.int32)
    )


def look(
    before: Statistics, loss: jax.Array, grad_norm: jax.Array, finite: jax.Array, config: Spikes
) -> tuple[Statistics, Seen]:
    """Judges a step by the steps before it; all values are those of the whole batch, so every device finds the same.

    The means are those of all steps at first and exponential later. A spike does not enter them, and a loss or norm
    that is not `finite` is one.
    """
    log_norm = jnp.log(jnp.maximum(grad_norm, jnp.finfo(jnp.float32).tiny))
    ready = before.steps >= config.warmup_steps
    above, high = [], ~finite
    for value, known, limit in (
        (loss, before.loss, config.loss_deviations),
        (log_norm, before.norm, config.grad_norm_deviations),
    ):
        deviation = jnp.maximum(jnp.sqrt(known[1]), config.smallest_deviation)
        above.append(jnp.where(before.steps > 0, (value - known[0]) / deviation, 0.0))
        if limit is not None:
            high |= above[-1] > limit
    spike = ready & high
    part = jnp.maximum(1 - config.decay, 1 / (before.steps + 1).astype(jnp.float32))
    enters = finite & ~spike
    after = Statistics(
        steps=before.steps + enters.astype(jnp.int32),
        loss=jnp.where(enters, _moved(before.loss, loss, part), before.loss),
        norm=jnp.where(enters, _moved(before.norm, log_norm, part), before.norm),
        count=before.count + spike.astype(jnp.int32),
        run=(before.run + 1) * spike.astype(jnp.int32),
    )
    return after, Seen(spike, *above)


def _moved(known: jax.Array, value: jax.Array, part: jax.Array) -> jax.Array:
    """Mean and variance with one more value in them, whose weight is `part`."""
    distance = value - known[0]
    return jnp.stack([known[0] + part * distance, (1 - part) * (known[1] + part * distance**2)])
