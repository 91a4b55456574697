"""Names of the tensors that rematerialisation can be told about (`model.remat`); each layer has each once.

Naming a tensor changes nothing by itself: it is how a policy of `jax.checkpoint` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.ad_checkpoint import checkpoint_name

BLOCK_INPUT = "block_input"
LATENT = "latent"
QUERY, KEY, VALUE = "query", "key", "value"
ATTENTION_CONTEXT, ATTENTION_OUT = "attention_context", "attention_out"
MLP_GATE, MLP_UP, MLP_HIDDEN, MLP_OUT = "mlp_gate", "mlp_up", "mlp_hidden", "mlp_out"


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, known to rematerialisation as `name`."""
    return checkpoint_name(x, name)


def all_named(arrays: Sequence[jax.Array], names: Sequence[str]) -> list[jax.Array]:
    """Several at once."""
    return [named(x, name) for x, name in zip(arrays, names, strict=True)]
