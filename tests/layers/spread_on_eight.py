"""Run as a program with eight CPU devices: the loss over several meshes against the loss of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from lmx.layers.loss import Head, cross_entropy
from lmx.layers.spread import spread_of

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
B, T, D, V = 8, 24, 16, 52
RULES = [
    {"batch": ["data", "fsdp"], "length": None, "vocab": None, "embed": "fsdp"},
    {"batch": "data", "length": "fsdp", "vocab": "tensor", "embed": "fsdp"},
    {"batch": ["data", "fsdp"], "length": "tensor", "vocab": "tensor", "embed": ["data", "fsdp"]},
    {"batch": ["data", "fsdp"], "length": None, "vocab": "tensor", "embed": None},
]


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, weight = jax.random.normal(keys[0], (B, T, D)), jax.random.normal(keys[1], (V, D))
    bias, targets = jax.random.normal(keys[2], (V,)), jax.random.randint(keys[3], (B, T), 0, V)
    weights = (jnp.arange(B * T).reshape(B, T) % 3 > 0).astype(jnp.float32)

    def loss(hidden, weight, bias, spread, chunks):
        head = Head(weight, None, bias)
        found = cross_entropy(hidden, head, targets, weights, z_loss=1e-2, chunks=chunks, spread=spread)
        return found.total, (found.nll, found.z)

    both = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    wanted = jax.tree.leaves(both(hidden, weight, bias, None, 1))
    for rules in RULES:
        spread = spread_of(mesh, rules, hidden.shape)
        assert spread is not None
        laid = lambda x, *axes, rules=rules: jax.device_put(
            x, jax.NamedSharding(mesh, jax.P(*(tuple(a) if isinstance(a, list) else a for a in axes)))
        )
        parts = laid(hidden, rules["batch"], rules["length"]), laid(weight, rules["vocab"], rules["embed"])
        for chunks in (1, 3, 7):
            compiled = jax.jit(both, static_argnums=(3, 4)).lower(*parts, bias, spread, chunks).compile()
            for got, want in zip(jax.tree.leaves(compiled(*parts, bias)), wanted, strict=True):
                assert float(jnp.abs(got - want).max()) < 1e-5 * float(jnp.abs(want).max()), (rules, chunks)
    assert spread_of(mesh, RULES[0], (3, T, D)) is None  # rows that do not divide
    assert spread_of(mesh, {**RULES[0], "batch": None}, (B, T, D)) is None
    assert spread_of(None, None, (B, T, D)) is None
    no_sum_in_the_loop()
    print("equal")


def no_sum_in_the_loop() -> None:
    """However many chunks: one scatter of the head's gradient, in the whole program."""
    laid = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))
    hidden = jax.ShapeDtypeStruct((B, 256, D), jnp.float32, sharding=laid(("data", "fsdp")))
    weight = jax.ShapeDtypeStruct((V, D), jnp.float32, sharding=laid(None, "fsdp"))
    ids = jax.ShapeDtypeStruct((B, 256), jnp.int32, sharding=laid(("data", "fsdp")))
    spread = spread_of(mesh, RULES[0], hidden.shape)

    def loss(weight, hidden, ids):
        ones = jnp.ones(ids.shape)
        return cross_entropy(hidden, Head(weight), ids, ones, z_loss=0.0, chunks=8, spread=spread).total

    text = jax.jit(jax.grad(loss)).lower(weight, hidden, ids).compile().as_text()
    assert text is not None
    loop = text.split("ENTRY")[0]
    assert " while(" in text
    assert " all-reduce(" not in loop
    assert " reduce-scatter(" not in loop


if __name__ == "__main__":
    main()
