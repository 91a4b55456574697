"""The splash kernel, interpreted on CPU, computes what `dot_product` does; and it compiles for TPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.layers import scores, splash
from tests.support import ROOT

BLOCKS = splash.Blocks(128, 128, 128, 128, 128, 128, fused_backward=True)


def example(t, n=4, k=2, width=32, value_width=32):
    keys = jax.random.split(jax.random.key(t), 6)
    shapes = [(2, t, n, width), (2, t, k, width), (2, t, k, value_width), (2, t, n, value_width)]
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]
    ids = jnp.sort(jax.random.randint(keys[4], (2, t), 0, 4), axis=1)
    ids = jnp.where(ids == 0, 4, ids) - 4 * (jnp.arange(t) >= t - 3)  # some padding at the end
    return *arrays, jnp.maximum(ids, 0), jax.random.normal(keys[5], (n,))


def values_and_gradients(attention, given, *, segments, sinks, **knobs):
    q, k, v, g, ids, scores_N = given
    masks = {"q_segments_BT": ids, "k_segments_BS": ids} if segments else {}

    def of(q, k, v, s):
        more = {"sinks_N": s} if sinks else {}
        return attention(q, k, v, scale=0.3, **knobs, **masks, **more)

    o, pull = jax.vjp(of, q, k, v, scores_N)
    return o, pull(g)


@pytest.mark.parametrize(
    ("t", "window", "softcap", "segments", "sinks", "fused"),
    [
        (256, None, None, False, False, True),
        (256, None, None, True, False, False),
        (200, 70, None, False, True, True),
        (256, 130, 2.0, True, True, True),
    ],
)
def test_equals_dot_product(t, window, softcap, segments, sinks, fused):
    given = example(t)
    knobs = {"window": window, "softcap": softcap, "segments": segments, "sinks": sinks}
    blocks = BLOCKS._replace(fused_backward=fused)

    def interpreted(*arrays, **masks):
        return splash.attention(*arrays, blocks=blocks, interpret=True, **masks)

    got = jax.jit(lambda: values_and_gradients(interpreted, given, **knobs))()
    want = jax.jit(lambda: values_and_gradients(scores.dot_product, given, **knobs))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_values_narrower_than_keys():
    given = example(128, n=2, k=2, width=48, value_width=32)
    knobs = {"window": None, "softcap": None, "segments": False, "sinks": False}

    def interpreted(*arrays, **masks):
        return splash.attention(*arrays, blocks=BLOCKS, interpret=True, **masks)

    got = jax.jit(lambda: values_and_gradients(interpreted, given, **knobs))()
    want = jax.jit(lambda: values_and_gradients(scores.dot_product, given, **knobs))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_blocks_fit_the_length():
    assert splash.fitting(1024, 4096) == 1024
    assert splash.fitting(1024, 128) == 128
    assert splash.fitting(512, 128 * 9) == 384
    assert splash.fitting(1, 256) == 128


MESH_PROGRAM = r"""
import json, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from lmx.layers import scores, splash
from lmx.layers.partition import over_mesh
from tests.layers.test_splash import BLOCKS, example

mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
rules = {"batch": "fsdp", "act_heads": "tensor", "act_kv_heads": json.loads(sys.argv[1])}
kernel = over_mesh(partial(splash.attention, blocks=BLOCKS, interpret=True), mesh, rules)
q, k, v, g, ids, sinks = example(128)
knobs = dict(window=None, softcap=None, scale=0.3, q_segments_BT=ids, k_segments_BS=ids)

def both(attention):
    def of(q, k, v, sinks):
        o, pull = jax.vjp(lambda *a: attention(*a[:3], sinks_N=a[3], **knobs), q, k, v, sinks)
        return o, pull(g)
    return jax.jit(of)(q, k, v, sinks)

for a, b in zip(jax.tree.leaves(both(kernel)), jax.tree.leaves(both(scores.dot_product)), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
spec = jax.jit(lambda: kernel(q, k, v, sinks_N=sinks, **knobs))().sharding.spec
one = jax.jit(lambda: kernel(q[:1], k[:1], v[:1], sinks_N=None, **{**knobs, "q_segments_BT": None}))()
print(json.dumps([str(spec), one.shape]))
"""


@pytest.mark.parametrize("kv_rule", ["tensor", None])
def test_over_a_mesh(kv_rule):
    """Batch and heads are split; heads of keys that are not split are repeated to those of queries."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-c", MESH_PROGRAM, json.dumps(kv_rule)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    spec, shape = json.loads(done.stdout.splitlines()[-1])
    assert "fsdp" in spec
    assert "tensor" in spec
    assert shape == [1, 128, 4, 32]


TPU_PROGRAM = r"""
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from tests.support import kernels_config

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = jax.sharding.Mesh(np.array(devices).reshape(2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
rules = {"batch": "fsdp", "act_heads": "tensor", "act_kv_heads": "tensor"}
kernels = kernels_config("auto").build("tpu", 4, mesh=mesh, rules=rules)
lay = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, jax.P(*spec)))
q, k = lay((4, 1024, 8, 64), "fsdp", None, "tensor"), lay((4, 1024, 2, 64), "fsdp", None, "tensor")
ids = jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=NamedSharding(mesh, jax.P("fsdp")))

def loss(q, k, v, ids):
    o = kernels.attention(q, k, v, q_segments_BT=ids, k_segments_BS=ids, window=300, softcap=50.0, scale=0.125)
    return o.astype(jnp.float32).sum()

text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k, ids).compile().as_text()
print(text.count("tpu_custom_call"))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_auto_is_splash_for_tpu_devices_and_compiles():
    """The platform is that of the mesh's devices, here of a topology that is compiled for on a CPU."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    command = [sys.executable, "-c", TPU_PROGRAM]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.splitlines()[-1]) >= 2
