"""Rotary position embedding (arXiv:2104.09864) and the ways to stretch it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(head_dim: int, *, theta: float, fraction: float) -> np.ndarray:
    """Radians a position of each rotated pair, float64 [pairs]."""
    rotated = round(head_dim * fraction)
    return theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)


def dynamic(inv: np.ndarray, *, theta: float, factor: float) -> np.ndarray:
    """NTK-aware base: the lowest frequency is divided by `factor`, the highest is kept."""
    n = len(inv)
    grown = theta * factor ** (n / (n - 1)) if n > 1 else theta
    return grown ** -(np.arange(n) / n)


def llama3(inv: np.ndarray, *, factor: float, low: float, high: float, original_length: int) -> np.ndarray:
    """Llama 3.1: thirds by wavelength, with a smooth passage between the scaled and the kept."""
    wavelength = 2 * math.pi / inv
    smooth = (original_length / wavelength - low) / (high - low)
    blend = (1 - smooth) * inv / factor + smooth * inv
    scaled = np.where(wavelength > original_length / low, inv / factor, blend)
    return np.where(wavelength < original_length / high, inv, scaled)


def yarn(
    inv: np.ndarray,
    *,
    theta: float,
    factor: float,
    beta_fast: float,
    beta_slow: float,
    original_length: int,
    truncate: bool,
) -> np.ndarray:
    """YaRN (arXiv:2309.00071, section 3.2): kept above `beta_fast` rotations, divided below `beta_slow`."""
    n = len(inv)

    def pair_of(rotations: float) -> float:
        return n * math.log(original_length / (rotations * 2 * math.pi)) / math.log(theta)

    low, high = pair_of(beta_fast), pair_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * n - 1)
    ramp = np.clip((np.arange(n) - low) / max(high - low, 0.001), 0, 1)
    return inv / factor * ramp + inv * (1 - ramp)


def tables(positions_BT: jax.Array, inv: np.ndarray, factor: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every position and pair, float32 [B, T, 1, pairs]."""
    angles = positions_BT[:, :, None, None].astype(jnp.float32) * jnp.asarray(inv, jnp.float32)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array, layout: str) -> jax.Array:
    """The first `2 * pairs` dimensions of each head turned by their position's angle; dtype of `x`."""
    pairs = cos.shape[-1]
    head, rest = x_BTNH[..., : 2 * pairs].astype(jnp.float32), x_BTNH[..., 2 * pairs :]
    if layout == "half":
        a, b = head[..., :pairs], head[..., pairs:]
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = head[..., 0::2], head[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(head.shape)
    turned = turned.astype(x_BTNH.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned
