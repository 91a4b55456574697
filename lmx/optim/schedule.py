"""The learning rate over the run: pure functions of the step, for `lmx.optim.schedule_config`.

The step is an array of jax, or of NumPy where a review wants the whole curve and nothing compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

# The part that is left of the way from the plateau to the final factor, p of the decay being gone.
_LEFT: dict[str, Callable[[Any, Any], Any]] = {
    "linear": lambda xp, p: 1 - p,
    "cosine": lambda xp, p: 0.5 * (1 + xp.cos(xp.pi * p)),
    "sqrt": lambda xp, p: 1 - xp.sqrt(p),
    "square": lambda xp, p: 1 - p * p,
}


def _space(step: Any) -> Any:
    """The module that computes with `step`."""
    return np if isinstance(step, np.ndarray) else jnp


def _warm(step: Any, warmup: int) -> jax.Array:
    return _space(step).minimum(1.0, (step + 1) / (warmup + 1)).astype(jnp.float32)


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
        xp = _space(step)
        if plateau == "constant":
            return xp.float32(1)
        return xp.minimum(1.0, xp.sqrt((warmup + 1) / (step + 1))).astype(xp.float32)

    def factor(step: Any) -> jax.Array:
        xp = _space(step)
        step = xp.asarray(step)
        before = xp.where(step < warmup, _warm(step, warmup), level(step))
        if decay == 0:
            return before
        gone = xp.clip((step - start) / decay, 0.0, 1.0).astype(xp.float32)
        top = level(xp.asarray(start))
        if shape == "exponential":
            after = top * (final / top) ** gone
        else:
            after = final + (top - final) * _LEFT[shape](xp, gone)
        return xp.where(step <= start, before, after)

    return factor
