"""Experts over a mesh compute what one device does, in values and gradients: 8 virtual devices."""

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lmx import params as param_tree
from lmx.layers.moe import moe, moe_specs
from lmx.params import Init
from lmx.sharding import Shard, spec
from tests.support import kernels_config, model_config

def ragged_all_to_all(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name):
    '''What `jax.lax.ragged_all_to_all` is documented to do; the real one does not run on CPU.'''
    me = jax.lax.axis_index(axis_name)
    everyone = lambda x: jax.lax.all_gather(x, axis_name)
    sources, sizes = everyone(operand), everyone(send_sizes)[:, me]
    output = output + jnp.where((sizes == recv_sizes).all(), 0.0, jnp.nan)
    for source, start, size, at in zip(
        sources, everyone(input_offsets)[:, me], sizes, everyone(output_offsets)[:, me]
    ):
        row = jnp.arange(output.shape[0]) - at
        taken = source[jnp.clip(row + start, 0, source.shape[0] - 1)]
        output = jnp.where(((row >= 0) & (row < size))[:, None], taken, output)
    return output

jax.lax.ragged_all_to_all = ragged_all_to_all

BASE = {"n_layers": 1, "d_model": 16, "n_heads": 2, "moe.n_experts": 8, "moe.top_k": 3, "moe.d_ff": 8}
BASE |= {"mlp.bias": True, "mlp.kind": "gated", "mlp.activation": "silu", "moe.shared_d_ff": None}
MODELS = {
    "plain": {},
    "capacity": {"moe.capacity_factor": 0.8},
    "input": {"moe.router.weighs": "input", "moe.router.scores": "sigmoid"},
}
RULES = {"embed": None, "ffn": None, "norm": None, "layers": None, "router": None, "act_embed": None}
RULES |= {"act_ffn": None, "length": None, "expert_ffn": None, "expert_embed": None, "experts": None}
MESHES = {
    "fsdp": ({"fsdp": 8}, {"batch": "fsdp", "expert_embed": "fsdp"}),
    "expert": ({"fsdp": 2, "expert": 4}, {"batch": ["fsdp", "expert"], "experts": "expert", "expert_embed": "fsdp"}),
    "two axes": ({"a": 2, "b": 2, "c": 2}, {"batch": ["a", "b"], "length": "c", "experts": ["c", "a"]}),
    "tensor": (
        {"fsdp": 2, "expert": 2, "tensor": 2},
        {"batch": ["fsdp", "expert"], "experts": "expert", "expert_embed": "fsdp", "expert_ffn": "tensor"},
    ),
    "summed": ({"fsdp": 2, "tensor": 4}, {"batch": "fsdp", "experts": "tensor", "expert_ffn": "fsdp"}),
    "one prompt": ({"expert": 8}, {"batch": None, "experts": "expert"}),
}

def case(model):
    config = model_config("moe_tiny", BASE | MODELS[model])
    start = lambda inputs: Init("normal", inputs**-0.5)
    specs = moe_specs(config, 1, start, start)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.tree.map(lambda w: w[0], param_tree.init(specs, keys[0], jnp.float32))
    for i, name in enumerate(("gate_bias", "up_bias", "down_bias")):
        shape = params["experts"][name].shape
        params["experts"][name] = jax.random.normal(jax.random.fold_in(keys[0], i), shape)
    x, g = (jax.random.normal(key, (8, 10, 16)) for key in keys[1:])
    return config, specs, params, x + 9 * (jnp.arange(16) == 3), g  # uneven loads

def both(config, kernels, shard, params, x, g):
    def f(params, x):
        return moe(x, params, config=config, segments_BT=None, kernels=kernels, shard=shard)
    y, pull, counts = jax.vjp(f, params, x, has_aux=True)
    return y, pull(g), counts

found, rooms = {}, []
for model in MODELS:
    config, specs, params, x, g = case(model)
    plain = kernels_config("plain").build("cpu", 1)
    want = jax.jit(lambda *a: both(config, plain, Shard(None, {}), *a))(params, x, g)
    for name, (axes, rules) in MESHES.items():
        if model != "plain" and name not in ("expert", "two axes"):
            continue
        rules = RULES | rules
        mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
        over = lambda p: NamedSharding(mesh, spec(p.axes[1:], rules))
        laid = jax.device_put(params, param_tree.map_params(over, specs))
        args = laid, *(jax.device_put(a, NamedSharding(mesh, spec(("batch", "length", None), rules))) for a in (x, g))
        ways = {("plain", "expert"): ("dense", "ragged"), ("plain", "two axes"): ("dense", "ragged"),
                ("capacity", "expert"): ("ragged",), ("input", "two axes"): ("ragged",)}
        for exchange in ways.get((model, name), ("dense",)):
            kernels = kernels_config("plain").build("cpu", 8)._replace(exchange=exchange)
            lowered = jax.jit(lambda *a: both(config, kernels, Shard(mesh, rules), *a)).lower(*args)
            got = jax.device_get(lowered.compile()(*args))
            errors = [float(abs(a - b).max() / (abs(b).max() + 1e-30))
                      for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(jax.device_get(want))) if a.size]
            text = lowered.as_text() if model == "plain" else ""
            if model == "plain" and name == "expert":
                for factor in (4.0, 1.0):  # four devices: all that can come, and an even share
                    few = kernels._replace(exchange_room=factor)
                    some = jax.device_get(jax.jit(lambda *a: both(config, few, Shard(mesh, rules), *a))(*args))
                    same = (abs(some[0] - got[0]).max(-1) < 1e-5).reshape(-1)
                    rooms.append([factor, exchange, int(some[2]["overflow"]), int((~same).sum()),
                                  [bool(same[:10].all()), bool(np.isfinite(some[1][1]).all())]])
            found[f"{model}, {name}, {exchange}"] = {
                "error": max(errors), "exchanged": "all_to_all" in text, "dropped": int(got[2].get("dropped", 0)),
                "max": int(got[2]["choices"].max()),
            }
print(json.dumps([found, rooms]))
"""


@pytest.fixture(scope="module")
def both():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # what is compiled runs for a moment only
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(both):
    return both[0]


def test_what_finds_no_room_between_devices_is_counted(both):
    """Dropless as long as there is room; else as many tokens change as the count allows."""
    assert [(factor, exchange) for factor, exchange, *_ in both[1]] == [
        (4.0, "dense"),
        (1.0, "dense"),
        (4.0, "ragged"),
        (1.0, "ragged"),
    ]
    for factor, _, overflow, changed, (_, finite) in both[1]:
        assert finite
        assert (overflow == 0) == (changed == 0) == (factor == 4.0)
        assert changed <= overflow <= 3 * changed
    assert both[1][1][2:] == both[1][3][2:]


def test_every_mesh_equals_one_device(found):
    wrong = {name: case["error"] for name, case in found.items() if case["error"] > 3e-6}
    assert not wrong
    assert len(found) == 6 + 2 + 2 * 2


def test_tokens_are_exchanged_where_they_are_split_as_experts_are(found):
    exchanged = {name.split(", ")[1] for name, case in found.items() if case["exchanged"]}
    assert exchanged == {"expert", "two axes", "tensor"}


def test_the_case_is_uneven_and_drops(found):
    """80 tokens with 3 choices each of 8 experts are 30 an expert."""
    assert all(case["max"] > 50 for case in found.values())
    assert all((case["dropped"] > 0) == name.startswith("capacity") for name, case in found.items())
