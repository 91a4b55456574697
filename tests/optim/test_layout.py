"""Optimizers under a mesh: the same updates as on one device, the state split as the parameters are."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT

PROGRAM = r"""
import json
import jax, numpy as np, optax
from jax.sharding import AxisType
from lmx.optim.layout import state_shardings
from lmx.params import shardings
from tests.optim.toy import *

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
rules = {"embed": "fsdp", "vocab": None, "layers": None, "heads": None, "head": None, "ffn": None}
specs, params = toy_specs(), toy_params()
gradients = [gradients_like(params, i) for i in range(3)]
laid = shardings(specs, mesh, rules)
results = {}
for name in ("adamw", "muon", "adafactor", "schedule_free_adamw"):
    changes = {"min_size": 8} if name == "adafactor" else {}
    if name == "muon":
        changes["newton_schulz"] = read_option("optimizer", name)["newton_schulz"] | {"dtype": "float32"}
    optimizer = optimizer_config(name, **changes)
    single, _ = run(optimizer, specs, params, gradients)
    tx = optimizer.build(specs, full_rate)
    where = state_shardings(tx, params, laid, mesh)
    split = jax.device_put(params, laid)
    state = jax.jit(tx.init, out_shardings=where)(split)
    def step(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, out_shardings=(laid, where))
    for gradient in gradients:
        split, state = step(jax.device_put(gradient, laid), state, split)
    query = [x for x in jax.tree.leaves(state) if x.shape == (2, 16, 4, 8)]
    results[name] = {
        "difference": max_difference(single, split),
        "moved": max_difference(single, params),
        "local": [list(x.addressable_shards[0].data.shape) for x in query],
    }
print(json.dumps(results))
"""

MOMENTS = {"adamw": 2, "muon": 1, "adafactor": 0, "schedule_free_adamw": 2}


@pytest.fixture(scope="module")
def results():
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MOMENTS)
def test_a_mesh_changes_nothing_and_the_state_is_split(results, name):
    assert set(results) == set(MOMENTS)
    assert results[name]["moved"] > 0
    assert results[name]["difference"] < 1e-5 * max(1.0, results[name]["moved"])
    assert results[name]["local"] == [[2, 2, 4, 8]] * MOMENTS[name]
