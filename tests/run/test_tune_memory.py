"""Recomputation is counted beyond the least that any policy computes, so that none has less than none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from lmx.run.tune_memory import Point, pareto
from tests.support import ROOT

PROGRAM = """
import json
from lmx.config.compose import load
from lmx.run.compile import topology_devices
from lmx.run.compile_config import TuneMemory
from lmx.run.tune_memory import _flops
words = ["topology=cpu:2", "mesh=fsdp", "model.n_layers=2", "model.layer_loop=scan", "trainer.global_batch_size=8"]
config = load("tune memory", words, schema=TuneMemory, primary="tune_memory").config
print(json.dumps(_flops(config, ["none", "dots", "full"], topology_devices(config))))
"""


def point(peak, recomputed, accumulation=1, fits=True):
    return Point((), 8 // accumulation, accumulation, recomputed, peak, 0.5, fits, 1.0)


def test_a_policy_that_keeps_the_scores_of_attention_computes_less_than_none():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    flops = json.loads(done.stdout)
    assert flops['"dots"'] < flops['"none"'] < flops['"full"']


def test_what_another_beats_is_left_out():
    points = [point(10, 0.0), point(5, 0.2), point(6, 0.3), point(1, 0.0, fits=False), point(5, 0.2, 2)]
    assert pareto(points) == [0, 1]
