"""How arrays are laid over meshes, and what the compiler makes of it: 8 virtual devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from jax.sharding import PartitionSpec

from lmx.sharding import spec
from tests.support import ROOT

PROGRAM = r"""
import json, math, re
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding
from tests.sharding.test_devices import mesh_config
from lmx.sharding import make_mesh, make_shard, spec

V, D, B, T = 16384, 64, 32, 64
found = {}
for option in ("fsdp", "hsdp", "context", "pipeline"):
    config = mesh_config(option)
    mesh, rules = make_mesh(config), config.rules
    shard = make_shard(mesh, rules)
    layout = lambda *axes: NamedSharding(mesh, spec(axes, rules))
    table = jax.ShapeDtypeStruct((V, D), jnp.float32, sharding=layout("vocab", "embed"))
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=layout("batch", "length"))
    def loss(table, tokens):
        x = shard(shard.looked_up(table[tokens]), ("batch", "residual_length", "act_embed"))
        return jnp.sum(jnp.sin(x) ** 2)
    program = jax.jit(jax.grad(loss), out_shardings=table.sharding).lower(table, tokens).compile()
    kinds = "all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"
    moved = {}
    for shapes, kind in re.findall(rf"= (.{{1,600}}?) ({kinds})(?:-start)?\(", program.as_text()):
        sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", shapes)]
        moved[kind] = max(moved.get(kind, 0), sum(sizes))
    found[option] = moved
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def moved():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("option", ["fsdp", "hsdp", "context", "pipeline"])
def test_looking_up_embeddings_gathers_no_batch(option, moved):
    """Each device's own activations move, 1/8 of the batch; never the activations of all."""
    whole = 32 * 64 * 64
    assert moved[option]["all-to-all"] <= whole // 4
    assert moved[option].get("all-gather", 0) <= whole // 4


def test_two_axes_of_an_array_on_one_mesh_axis_are_named():
    with pytest.raises(
        ValueError, match=r"'embed' and 'ffn' of one array are both split over mesh axis 'fsdp'"
    ):
        spec(("embed", "ffn"), {"embed": "fsdp", "ffn": ["tensor", "fsdp"]})
    with pytest.raises(ValueError, match="no rule for the logical axis 'memory'"):
        spec(("memory",), {"embed": "fsdp"})
    assert spec(("batch", None, "embed"), {"batch": ["a", "b"], "embed": None}) == PartitionSpec(
        ("a", "b"), None, None
    )
