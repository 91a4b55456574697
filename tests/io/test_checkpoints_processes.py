"""Two processes that save together: what fails in one fails in both, at once, and the next save is whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lmx.io.checkpoints import Checkpoints
from tests.io.states import config
from tests.support import ROOT

_PROCESS = """
import logging, resource, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

address, mine, failing, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
jax.distributed.initialize(address, 2, mine)
from lmx.cli.main import end
from lmx.io.checkpoints import Checkpoints
from tests.io.states import config

sharding = NamedSharding(jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,)), P("fsdp"))
rng = np.random.default_rng(0)
full = rng.standard_normal((256, 64)).astype("float32")
state = {"w": jax.make_array_from_callback(full.shape, sharding, lambda at: full[at])}
said = []
saves = Checkpoints(folder, config(every=1), warn=said.append)
for step in (1, 2, 3):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if step == 2 and mine == failing:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    saves.save(step, state, meta={})
    saves.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (saves.failure is None) == (step != 2), (step, saves.failure)
    assert saves.due(step, last=True) == (step == 2)
assert len(said) == 1, said
print(said[0], flush=True)
end(0)
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_a_save_that_fails_in_one_process_is_given_up_by_both(tmp_path: Path, failing: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, address, str(mine), str(failing), str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine in range(2)
    ]
    try:
        said = [child.communicate(timeout=100) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    again = Checkpoints(tmp_path, config())
    assert again.steps() == [1, 3]
    again._sweep()  # before the first save of a process: what was given up may have been written to until the end
    assert not list(tmp_path.glob(".writing-*"))
    assert again.steps() == [1, 3]
    for mine, (out, _) in enumerate(said):
        assert "the checkpoint of step 2 was not saved" in out
        if mine != failing:
            assert f"process {failing}: File too large" in out, out
