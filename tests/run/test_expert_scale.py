"""Published mixtures on many devices with their experts split: the training step is traced, nothing is allocated."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT

PROGRAM = r"""
import json
import jax, numpy as np
from lmx.config.compose import load
from lmx.run.build import build, train_program
from lmx.run.config import TrainConfig
from lmx.types import Batch

found = {}
for model, experts in (("mixtral_8x7b", 8), ("qwen3_30b_a3b", 16), ("deepseek_v3", 64)):
    sizes = ["trainer.sequence_length=128", "trainer.global_batch_size=64", "trainer.eval_batch_size=64"]
    request = [f"model={model}", "mesh=expert", f"mesh.axes.expert={experts}", "trainer.compile_cache=null", *sizes]
    config = load("train", [*request, "optimizer=adamw"], schema=TrainConfig).config
    parts = build(config, total_steps=10)
    row = jax.ShapeDtypeStruct((64, 128), np.int32, sharding=parts.batch_sharding)
    batch = Batch(row, row, jax.ShapeDtypeStruct(row.shape, np.float32, sharding=row.sharding))
    state, metrics = jax.eval_shape(train_program(config, parts, norms=False), parts.abstract_state, batch)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, parts.abstract_state)
    part = lambda x: x.sharding.shard_shape(x.shape)
    layers = parts.abstract_state.params["layers"]
    experts_of = next(stack["moe"]["experts"]["up"] for stack in reversed(layers) if "moe" in stack)
    sizes = [np.prod(part(x)) * x.dtype.itemsize for x in jax.tree.leaves(parts.abstract_state)]
    found[model] = {
        "same": all(jax.tree.leaves(same)), "metrics": sorted(metrics), "experts": part(experts_of)[1],
        "state_gib": sum(map(int, sizes)) / 2**30,
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_published_mixtures_on_64_devices():
    """State as before the step, experts apart, and every device holding about its share of the state."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "64"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [case["experts"] for case in found.values()] == [1, 8, 4]
    assert all(case["same"] and "experts/max_load" in case["metrics"] for case in found.values())
    # 12 bytes a parameter: weights and two moments in float32.
    billions = {"mixtral_8x7b": 46.7, "qwen3_30b_a3b": 30.5, "deepseek_v3": 671.0}
    for model, case in found.items():
        even = billions[model] * 12e9 / 2**30 / 64
        assert even <= case["state_gib"] < 1.1 * even
