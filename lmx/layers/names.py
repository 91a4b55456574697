"""Names of the tensors that rematerialisation can be told about (`model.remat`), one each a layer.

Naming a tensor changes nothing by itself: it is how a policy of `jax.checkpoint` finds it.
"""

from __future__ import annotations

import jax
from jax.ad_checkpoint import checkpoint_name

QUERY, KEY, VALUE = "query", "key", "value"
ATTENTION_CONTEXT = "attention_context"


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, known to rematerialisation as `name`."""
    return checkpoint_name(x, name)
