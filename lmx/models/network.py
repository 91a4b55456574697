"""What all parts of the decoder share: its configuration, and what it is computed with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers.kernels import KernelSet
from lmx.layers.norm import norm
from lmx.models.config import Decoder
from lmx.models.precision import Formats
from lmx.sharding import Shard
from lmx.types import Tree

RESIDUAL = ("batch", "residual_length", "act_embed")
"""Axes of the residual stream."""


class Network(NamedTuple):
    """The configuration, the dtype of computation, and what computes."""

    config: Decoder
    dtype: Any
    kernels: KernelSet
    shard: Shard
    formats: Formats

    def norm(self, x: jax.Array, params: Tree) -> jax.Array:
        """The model's norm, in the dtype of `x`."""
        n = self.config.norm
        return norm(x, params, kind=n.kind, epsilon=n.epsilon, scale=n.scale, scale_in=n.scale_in)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element dropped at `rate`, the others made up for it; as it is without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
