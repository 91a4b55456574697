"""Run as a program with eight CPU devices: compiles small functions and prints their texts and sizes as JSON."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
laid = lambda *parts: jax.NamedSharding(mesh, jax.P(*parts))
LAYERS, WIDTH, ROWS = 6, 256, 1024


def step(params, batch):
    """Six layers in a scan, weights gathered over fsdp, gradients summed over data."""

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def loss(params):
        return jnp.sum(jax.lax.scan(layer, batch, params["w"])[0])

    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def around(x):
    """A ring of permutations over fsdp, three times."""

    def body(x):
        pass_on = lambda i, x: jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]) + 1.0
        return jax.lax.fori_loop(0, 3, pass_on, x)

    return jax.shard_map(body, mesh=mesh, in_specs=jax.P("fsdp"), out_specs=jax.P("fsdp"), check_vma=False)(x)


def exchange(x):
    """An all-to-all over fsdp and a sum over both axes."""

    def body(x):
        y = jax.lax.all_to_all(x, "fsdp", split_axis=1, concat_axis=0, tiled=True)
        return jax.lax.psum(y, ("data", "fsdp"))

    return jax.shard_map(body, mesh=mesh, in_specs=jax.P("fsdp"), out_specs=jax.P(), check_vma=False)(x)


def main() -> None:
    shape = jax.ShapeDtypeStruct
    weights = {"w": shape((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=laid(None, "fsdp", None))}
    batch = shape((ROWS, WIDTH), jnp.float32, sharding=laid(("data", "fsdp")))
    square = shape((64, 64), jnp.float32, sharding=laid("fsdp"))
    programs = {
        "step": jax.jit(step, donate_argnums=0, out_shardings={"w": weights["w"].sharding}).lower(
            weights, batch
        ),
        "around": jax.jit(around).lower(square),
        "exchange": jax.jit(exchange).lower(square),
    }
    told = {}
    for name, lowered in programs.items():
        compiled = lowered.compile()
        stats = compiled.memory_analysis()
        told[name] = {
            "text": compiled.as_text(),
            "temp": stats.temp_size_in_bytes,
            "arguments": stats.argument_size_in_bytes,
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
