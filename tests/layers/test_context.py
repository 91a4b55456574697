"""Attention over split sequences equals attention over whole ones, in values and gradients: 8 virtual devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT

PROGRAM = r"""
import json
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lmx.layers import scores
from lmx.layers.context import over_context

RULES = {"batch": "fsdp", "length": "context"}
B, T, N, K, H = 2, 48, 4, 2, 8
keys = jax.random.split(jax.random.key(0), 6)
q, g = (jax.random.normal(key, (B, T, N, H)) for key in keys[:2])
k, v = (jax.random.normal(key, (B, T, K, H)) for key in keys[2:4])
ids = np.sort(np.asarray(jax.random.randint(keys[4], (B, T), 0, 4)), axis=1).astype(np.int32)
sinks = jax.random.normal(keys[5], (N,))

def both(attention, segments, sinks_N, window, softcap, args=(q, k, v)):
    masks = {"q_segments_BT": ids, "k_segments_BS": ids} if segments else {}
    def f(q, k, v, s):
        s = s if sinks_N else None
        return attention(q, k, v, sinks_N=s, window=window, softcap=softcap, scale=H**-0.5, **masks)
    o, pull = jax.vjp(f, *args, sinks)
    return o, pull(g)

PLAIN, ALL = (False, False, None, None), (True, True, None, 5.0)
CASES = [
    (2, "ring", ALL), (4, "ring", ALL), (4, "ring", PLAIN), (4, "ring", (True, True, 30, None)),
    (4, "ring", (True, False, 4, None)), (4, "all_gather", ALL), (4, "all_gather", (False, False, 15, 3.0)),
]
found = {}
for context, method, case in CASES:
    mesh = jax.make_mesh((8 // context, context), ("fsdp", "context"), axis_types=(AxisType.Auto,) * 2)
    split = over_context(scores.dot_product, mesh, RULES, method, block=5)
    row = NamedSharding(mesh, P("fsdp" if context == 4 else None, "context"))
    args = tuple(jax.device_put(x, row) for x in (q, k, v))
    wanted = jax.jit(partial(both, scores.dot_product, *case))()
    program = jax.jit(lambda args: both(split, *case, args=args)).lower(args).compile()
    pairs = list(zip(jax.tree.leaves(program(args)), jax.tree.leaves(wanted)))
    errors = [float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
              for a, b in pairs if np.abs(np.asarray(b)).max() > 0]
    text = program.as_text()
    found[f"{method} {context} {case}"] = {
        "error": max(errors), "permutes": "collective-permute(" in text, "gathers": "all-gather(" in text,
        "split": str(pairs[0][0].sharding.spec),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_values_and_gradients_are_those_of_one_device(found):
    assert len(found) == 7
    assert {name: case["error"] for name, case in found.items() if not case["error"] < 2e-6} == {}
    assert all("context" in case["split"] for case in found.values())


def test_keys_go_around_or_are_gathered_or_come_from_neighbours(found):
    """A window that reaches 3 back needs a neighbour's keys alone, whichever way is asked for."""
    for name, case in found.items():
        method, window = name.split()[0], name.split(", ")[2]
        if method == "ring" or window == "4":
            assert case["permutes"], name
            assert not case["gathers"], name
        elif window == "None":
            assert case["gathers"], name
