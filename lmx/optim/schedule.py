"""The learning rate over the run: pure functions of the step, for `lmx.optim.schedule_config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

# The part that is left of the way from the plateau to the final factor, p of the decay being gone.
_LEFT: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: 0.5 * (1 + jnp.cos(jnp.pi * p)),
    "sqrt": lambda p: 1 - jnp.sqrt(p),
    "square": lambda p: 1 - p * p,
}


def _warm(step: Any, warmup: int) -> jax.Array:
    return jnp.minimum(1.0, (step + 1) / (warmup + 1)).astype(jnp.float32)


def constant(warmup: int) -> Callable[[Any], jax.Array]:
    """1 after a warm-up of `warmup` steps."""
    return lambda step: _warm(step, warmup)


def decaying(
    warmup: int,
    decay: int,
    total_steps: int,
    *,
    shape: str,
    final: float,
    plateau: Literal["constant", "inverse_sqrt"] = "constant",
) -> Callable[[Any], jax.Array]:
    """Warm-up, plateau, and over the last `decay` steps a way down to `final`.

    The decay starts at step `total_steps - decay`, which still has the plateau's factor, and would reach
    `final` at step `total_steps`, one after the last: no update is spent on a factor of 0. ValueError for an
    exponential decay to 0.
    """
    if shape == "exponential" and final == 0:
        raise ValueError(
            "schedule.decay_shape=exponential never reaches schedule.final_factor=0; set 0.01, say"
        )
    start = total_steps - decay

    def level(step: Any) -> jax.Array:
        if plateau == "constant":
            return jnp.float32(1)
        return jnp.minimum(1.0, jnp.sqrt((warmup + 1) / (step + 1))).astype(jnp.float32)

    def factor(step: Any) -> jax.Array:
        step = jnp.asarray(step)
        before = jnp.where(step < warmup, _warm(step, warmup), level(step))
        if decay == 0:
            return before
        gone = jnp.clip((step - start) / decay, 0.0, 1.0).astype(jnp.float32)
        top = level(jnp.asarray(start))
        if shape == "exponential":
            after = top * (final / top) ** gone
        else:
            after = final + (top - final) * _LEFT[shape](gone)
        return jnp.where(step <= start, before, after)

    return factor
