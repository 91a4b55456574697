"""Preparing copies the layers, and frees what was copied when it is told to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lmx import params as param_tree
from lmx.infer.prepare import prepare
from tests.support import build_model, model_config

SMALL = {"n_layers": 2, "d_model": 32, "n_heads": 2, "n_kv_heads": 2, "vocab_size": 64, "mlp.d_ff": 48}


def test_stacks_are_freed_as_they_are_copied():
    model = build_model(model_config("qwen3_0p6b", SMALL))
    make = lambda: param_tree.init(model.specs, jax.random.key(0), jnp.float32)
    given = make()
    kept = prepare(given, jnp.float32)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    before = {id(x) for x in jax.live_arrays()}
    freed = prepare(given, jnp.float32, release=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given["layers"]))
    jax.tree.map(np.testing.assert_array_equal, freed, kept)
    new = [x for x in jax.live_arrays() if id(x) not in before]
    size = sum(x.nbytes for x in jax.tree.leaves(freed["layers"]))
    assert sum(x.nbytes for x in new) <= size + sum(x.nbytes for x in jax.tree.leaves(freed["embedding"]))
    layer = freed["layers"][0][1]
    wanted = make()["layers"][0]["attention"]["query"][1].reshape(32, -1)
    np.testing.assert_array_equal(layer["attention"]["query_key_value"][:, : wanted.shape[1]], wanted)
    assert "gate" not in layer["mlp"]
