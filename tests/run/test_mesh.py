"""Every mesh computes what one device does: 8 virtual devices in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT

PROGRAM = r"""
import json, sys
import jax, jax.numpy as jnp, numpy as np
from tests.support import train_config
from lmx.run.build import build, make_state, to_devices, train_program
from lmx.types import Batch

config = train_config(json.loads(sys.argv[1]))
parts = build(config, total_steps=10)
state = make_state(config, parts)
start = [float(np.asarray(x, np.float64).sum()) for x in jax.tree.leaves(state.params)]
program = train_program(config, parts, norms=False)
losses = []
for i in range(10):
    rng = np.random.default_rng(i)
    tokens = rng.integers(0, 200, (8, 33)).astype(np.int32)
    weights = (rng.random((8, 32)) < 0.7).astype(np.float32)
    segments = np.where(np.arange(32) < 20, 1, 2) * np.ones((8, 1), np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, None, segments.astype(np.int32))
    state, metrics = program(state, to_devices(batch, parts.batch_sharding))
    losses.append(float(metrics["loss"]))
shapes = {str(x.sharding.spec) for x in jax.tree.leaves(state)}
print(json.dumps({"losses": losses, "start": start, "devices": parts.mesh.size, "specs": sorted(shapes)}))
"""


def run(**overrides):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(overrides)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_device():
    return {optimizer: run(mesh="single", optimizer=optimizer) for optimizer in ("adamw", "muon")}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("mesh", ["dp", "fsdp", "fsdp_tp"])
def test_meshes_agree_with_one_device(mesh, optimizer, one_device):
    """Initial parameters are equal, and losses agree to float32 noise for 10 steps."""
    got, expected = run(mesh=mesh, optimizer=optimizer), one_device[optimizer]
    assert got["devices"] == 8
    assert expected["devices"] == 1
    np.testing.assert_allclose(got["start"], expected["start"], rtol=1e-12)
    np.testing.assert_allclose(got["losses"], expected["losses"], rtol=2e-5)
    if mesh != "dp":
        assert any("fsdp" in spec for spec in got["specs"])
