"""Layers in stages compute what layers one after another do: the schedule, and 8 virtual devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from lmx.config.mesh import Pipeline
from lmx.models import pipeline
from lmx.models.pipeline import Schedule
from lmx.sharding import Shard
from tests.support import ROOT


@pytest.mark.parametrize(("stages", "repeats", "micro_batches"), [(1, 1, 3), (3, 1, 6), (2, 3, 4), (4, 2, 8)])
def test_every_block_is_computed_once_and_in_order(stages, repeats, micro_batches):
    plan = Schedule(stages, repeats, micro_batches)
    done: dict[tuple[int, int], int] = {}
    idle = 0
    for tick in range(plan.ticks):
        columns = (x.tolist() for x in plan.at(jnp.int32(tick)))
        for stage, (repeat, micro, busy) in enumerate(zip(*columns, strict=True)):
            idle += not busy
            if busy:
                block = repeat * stages + stage
                assert (micro, block) not in done
                assert block == 0 or done[micro, block - 1] == tick - 1  # what was made a tick ago goes on
                done[micro, block] = tick
    assert len(done) == micro_batches * plan.blocks
    assert done == {(micro, block): plan.tick(block, micro) for micro, block in done}
    assert idle / (stages * plan.ticks) == pytest.approx(plan.bubble)


def test_layers_that_cannot_be_cut_are_named():
    pipeline.check(Schedule(2, 2, 4), 8, 8)
    with pytest.raises(ValueError, match=r"model\.n_layers=9.*2 stages x 2 repeats"):
        pipeline.check(Schedule(2, 2, 4), 6, 9)


def test_one_device_has_no_stages():
    assert pipeline.schedule(Shard(None, {"layers": ["stage"]}, Pipeline(micro_batches=2, repeats=1))) is None


PROGRAM = r"""
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lmx.config.mesh import Pipeline
from lmx.models import pipeline
from lmx.sharding import Shard

L, B, T, D = 8, 16, 3, 4
keys = jax.random.split(jax.random.key(0), 4)
stack = {"w": jax.random.normal(keys[0], (L, D, D)) / 2, "b": jax.random.normal(keys[1], (L, D))}
x, g = (jax.random.normal(key, (B, T, D)) for key in keys[2:])
rest = {"rows": jnp.arange(B * T).reshape(B, T, 1) / 40, "shared": jnp.linspace(0, 1, T)[None, :, None], "none": None}

def stage(stack, x, rest, key):
    def layer(x, w):
        y = jnp.tanh(x @ w["w"] + w["b"] * rest["shared"]) + x * rest["rows"]
        return y, {"positive": (y > 0).sum(dtype=jnp.int32), "square": (y * y).sum()}
    return jax.lax.scan(layer, x, stack)

def both(f, stack, x):
    (y, counts), pull = jax.vjp(f, stack, x)
    zero = {"positive": np.zeros(L, jax.dtypes.float0), "square": jnp.ones(L)}
    return y, counts, pull((g, zero))

want = jax.device_get(jax.jit(lambda *a: both(lambda s, x: stage(s, x, rest, None), *a))(stack, x))
found = {}
for axes, batch, n, repeats in [
    ({"stage": 2, "fsdp": 4}, ["stage", "fsdp"], 4, 1),
    ({"stage": 2, "fsdp": 4}, ["fsdp"], 2, 2),
    ({"fsdp": 2, "stage": 4}, ["fsdp", "stage"], 8, 2),
    ({"fsdp": 2, "stage": 2, "data": 2}, ["fsdp", "stage", "data"], 4, 4),
    ({"stage": 8}, [], 8, 1),
]:
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    rules = {"layers": "stage", "batch": batch, "residual_length": None, "act_embed": None}
    shard = Shard(mesh, rules, Pipeline(micro_batches=n, repeats=repeats))
    laid = jax.device_put(stack, NamedSharding(mesh, P("stage")))
    given = jax.device_put(x, NamedSharding(mesh, P(tuple(batch))))
    program = jax.jit(lambda *a: both(lambda s, x: pipeline.run(stage, s, x, rest, None, shard=shard), *a))
    got = program(laid, given)
    errors = jax.tree.map(lambda a, b: float(abs(a - b).max() / abs(b).max()), jax.device_get(got), want)
    text = program.lower(laid, given).compile().as_text()
    found[f"{axes} {n} x {repeats}"] = {
        "error": max(jax.tree.leaves(errors)), "permutes": "collective-permute" in text,
    }
print(json.dumps(found))
"""


def test_stages_equal_layers_one_after_another():
    """Values, counts, and gradients of weights and inputs."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 5
    assert {name: case["error"] for name, case in found.items() if case["error"] > 3e-6} == {}
    assert all(case["permutes"] for case in found.values())
