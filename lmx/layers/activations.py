"""Nonlinearities by name, computed in float32 whatever the dtype of their input."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _float32(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _float32(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": _float32(lambda x: jax.nn.gelu(x, approximate=True)),
    "quick_gelu": _float32(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "silu": _float32(jax.nn.silu),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}
"""gelu and its tanh form (arXiv:1606.08415), its sigmoid form, silu, relu, relu squared (arXiv:2109.08668)."""
