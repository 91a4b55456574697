"""Training states whose every bit follows from depth and step, and what the tests of checkpoints do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.io import Checkpoint
from lmx.io.checkpoints import Checkpoints
from lmx.types import TrainState
from tests.support import read_option


def config(**changes: Any) -> Checkpoint:
    return Checkpoint.model_validate(read_option("checkpoint", "default", changes))


def make_state(step: int = 0, *, depth: int = 2, width: int = 8, ema: bool = False) -> TrainState:
    """float32, bfloat16, integers, a random key, a scalar and an array of no elements."""
    # Not by a program, whose last bits depend on how it was compiled.
    draw = lambda n, shape: jnp.asarray(np.random.default_rng([step, n]).normal(size=shape), jnp.float32)
    layer = lambda i: {
        "query": draw(i, (width, width)),
        "scale": draw(100 + i, (width,)).astype(jnp.bfloat16),
    }
    params = {"layers": tuple(layer(i) for i in range(depth)), "embed": draw(7, (32, width))}
    moments = jax.tree.map(lambda x: x * 2, params)
    opt_state = ({"count": jnp.int32(step), "mu": moments}, (), jnp.zeros((0, 3)), jax.random.key(step))
    averaged = jax.tree.map(lambda x: x + 1, params) if ema else None
    return TrainState(jnp.int32(step), params, opt_state, averaged, jnp.int32(0), jnp.int32(0))


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def bits(tree: Any) -> dict[str, tuple[Any, ...]]:
    """Path -> (dtype, shape, bytes)."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = (str(array.dtype), array.shape, array.tobytes())
    return found


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert bits(found) == bits(expected)


def save_steps(directory: Path, steps: list[int], **changes: Any) -> tuple[Checkpoints, list[str]]:
    """Saved checkpoints of `steps`, and the list that warnings are appended to."""
    said: list[str] = []
    checkpoints = Checkpoints(directory, config(**changes), warn=said.append)
    for step in steps:
        checkpoints.save(step, make_state(step), meta={"position": step * 10})
    checkpoints.wait()
    return checkpoints, said
