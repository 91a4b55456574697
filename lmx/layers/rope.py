"""Rotary position embedding (arXiv:2104.09864) and the ways to stretch it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Frequencies = np.ndarray | jax.Array
"""Radians a position: float64 [pairs], or float32 [B, T, pairs] where tokens differ."""

Length = int | jax.Array
"""Tokens of a sequence, or int32 [B, T] of the one that each token belongs to."""


def frequencies(head_dim: int, *, theta: float, fraction: float) -> np.ndarray:
    """Radians a position of each rotated pair, float64 [pairs]."""
    rotated = round(head_dim * fraction)
    return theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)


def dynamic(
    inv: np.ndarray, *, theta: float, factor: float, original_length: int, length: Length
) -> Frequencies:
    """NTK-aware base, grown with the sequence beyond `original_length`; shorter ones are as they were."""
    n = len(inv)
    if n == 1:
        return inv
    if isinstance(length, int):
        growth = factor * max(length, original_length) / original_length - (factor - 1)
        return (theta * growth ** (n / (n - 1))) ** -(np.arange(n) / n)
    lengths_BT1 = jnp.maximum(length, original_length)[..., None].astype(jnp.float32)
    growth = factor * lengths_BT1 / original_length - (factor - 1)
    return jnp.asarray(inv, jnp.float32) * growth ** -jnp.asarray(np.arange(n) / (n - 1), jnp.float32)


def longrope(
    inv: np.ndarray, *, short: Sequence[float], long: Sequence[float], original_length: int, length: Length
) -> Frequencies:
    """LongRoPE (arXiv:2402.13753): `long` divides for sequences over `original_length`, `short` for others."""
    short_inv, long_inv = inv / np.asarray(short), inv / np.asarray(long)
    if isinstance(length, int):
        return long_inv if length > original_length else short_inv
    pick = (length > original_length)[..., None]
    return jnp.where(pick, jnp.asarray(long_inv, jnp.float32), jnp.asarray(short_inv, jnp.float32))


def own_lengths(positions_BT: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """int32 [B, T]: for each token, how long the document is that it belongs to."""
    if segments_BT is None:
        return jnp.broadcast_to(positions_BT.max(-1, keepdims=True) + 1, positions_BT.shape)
    most = positions_BT.shape[1] + 1
    last = lambda p, s: jax.ops.segment_max(p, s, num_segments=most)[s]
    return jax.vmap(last)(jnp.broadcast_to(positions_BT, segments_BT.shape), segments_BT) + 1


def llama3(inv: np.ndarray, *, factor: float, low: float, high: float, original_length: int) -> np.ndarray:
    """Llama 3.1: thirds by wavelength, with a smooth passage between the scaled and the kept."""
    wavelength = 2 * math.pi / inv
    if low == high:
        return np.where(wavelength > original_length / low, inv / factor, inv)
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


def tables(
    positions_BT: jax.Array | np.ndarray, inv: Frequencies, factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every position and pair, float32 [B, T, 1, pairs]; constants where `positions` are numpy's.

    XLA on CPU computes what is not constant anew in each layer that reads it, when layers are unrolled.
    """
    if isinstance(positions_BT, np.ndarray) and isinstance(inv, np.ndarray):
        known = positions_BT[:, :, None, None].astype(np.float32) * inv.astype(np.float32)
        return jnp.asarray(np.cos(known) * factor), jnp.asarray(np.sin(known) * factor)
    inv, positions_BT = jnp.asarray(inv, jnp.float32), jnp.asarray(positions_BT)
    angles = positions_BT[:, :, None, None].astype(jnp.float32) * (inv if inv.ndim == 1 else inv[:, :, None])
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
