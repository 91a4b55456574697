"""A checkpoint of one mesh loads on another, of more devices or fewer, every bit and laid out as asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax

from lmx.io.checkpoints import Checkpoints
from tests.io.states import abstract, assert_same, config, make_state
from tests.support import ROOT

_ON_EIGHT = """
import sys
from pathlib import Path
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lmx.io.checkpoints import Checkpoints
from lmx.io.stored import Stored
from tests.io.states import assert_same, config, make_state

assert jax.device_count() == 8
from_one, from_eight = Path(sys.argv[1]), Path(sys.argv[2])
state = make_state(4, width=16)

def shardings(*sizes):
    mesh = jax.make_mesh(sizes, ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    specs = {2: P("fsdp", "tensor"), 1: P("tensor"), 0: P()}
    return jax.tree.map(lambda x: NamedSharding(mesh, specs[x.ndim] if x.size else P()), state)

def check(directory, *sizes):
    structs = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    wanted = jax.tree.map(structs, state, shardings(*sizes))
    found = Checkpoints(directory, config()).restore(wanted).state
    assert_same(found, state)
    for leaf, asked in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(asked.sharding, leaf.ndim), (leaf.sharding, asked.sharding)
    assert_same(Stored(directory).restore_params(wanted.params).state, state.params)

check(from_one, 4, 2)
checkpoints = Checkpoints(from_eight, config())
checkpoints.save(4, jax.device_put(state, shardings(4, 2)), meta={})
checkpoints.close()
for sizes in ((4, 2), (2, 4), (8, 1)):
    check(from_eight, *sizes)
print("done")
"""


def test_one_device_to_eight_and_back(tmp_path: Path) -> None:
    one, eight = tmp_path / "one", tmp_path / "eight"
    state = jax.device_put(make_state(4, width=16), jax.devices()[0])
    checkpoints = Checkpoints(one, config())
    checkpoints.save(4, state, meta={})
    checkpoints.close()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", _ON_EIGHT, str(one), str(eight)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr[-3000:]
    assert_same(Checkpoints(eight, config()).restore(abstract(state)).state, state)
