"""Names of the tensors that rematerialisation can be told about (`model.remat`); each layer has each once.

Naming a tensor changes nothing by itself: it is how a policy of `jax.checkpoint` finds it. A scope is a part of the
model, named as its parameters are: it goes with each operation into the compiled program, where reports read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

BLOCK_INPUT = "block_input"
LATENT = "latent"
QUERY, KEY, VALUE = "query", "key", "value"
ATTENTION_CONTEXT, ATTENTION_OUT = "attention_context", "attention_out"
MLP_GATE, MLP_UP, MLP_HIDDEN, MLP_OUT = "mlp_gate", "mlp_up", "mlp_hidden", "mlp_out"


SCOPES = frozenset(
    (
        *("embedding", "attention", "mlp", "moe", "router", "experts", "shared", "head", "final_norm"),
        *(
            "attention_norm",
            "attention_post_norm",
            "mlp_norm",
            "mlp_post_norm",
            "gate",
            "up",
            "down",
            "hidden",
            "out",
        ),
    )
)
"""Scopes inside of a layer (whose own is `layers.N`, as in the paths of parameters) and around the layers."""


def scope(name: str) -> AbstractContextManager[Any]:
    """What is computed inside belongs to the part of this name, one of SCOPES or `layers.N`."""
    assert name in SCOPES or name.startswith("layers."), name
    return jax.named_scope(name)


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, known to rematerialisation as `name`."""
    return checkpoint_name(x, name)


def all_named(arrays: Sequence[jax.Array], names: Sequence[str]) -> list[jax.Array]:
    """Several at once."""
    return [named(x, name) for x, name in zip(arrays, names, strict=True)]
