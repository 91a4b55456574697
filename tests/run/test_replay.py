"""Silent corruption, staged on 8 devices: found, and named as far as sums over devices leave it nameable."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from lmx.run.compare_devices import suspects
from lmx.run.swap import swapped
from tests.support import ROOT


def replays(folder, mesh, accumulation, *flips):
    command = [
        sys.executable,
        "-m",
        "tests.run.replay_on_eight",
        str(folder),
        mesh,
        str(accumulation),
        *flips,
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["flip"]: line for line in lines if "flip" in line}, lines[-1]["noted"]


def test_on_replicas_every_kind_of_corruption_is_found_and_one_device_or_two_are_named(tmp_path):
    flips = ["parameters:3", "computing:3", "gradients:3"]
    found, noted = replays(tmp_path, "dp", 1, *flips)
    assert found[""]["found"] is None
    assert found[""]["said"].endswith("the same bit for bit")
    # Device 3 holds position 3 at first, and what was device 2's in the copy: one of the two.
    assert found["parameters:3"]["found"][:2] == ["parameters", [2, 3]]
    assert found["computing:3"]["found"][:2] == ["losses", [2, 3]]
    assert found["gradients:3"]["found"][:2] == ["gradients", [3, 4]]
    assert "process 0 on " in found["computing:3"]["said"]
    assert noted == ["parameters", "losses", "gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "fsdp_tp"])
def test_where_parameters_are_split_it_is_found_all_the_same(mesh, tmp_path):
    found, noted = replays(tmp_path, mesh, 2, "parameters:5", "computing:5", "gradients:5")
    assert found[""]["found"] is None, found[""]["said"]
    kind, devices, _ = found["parameters:5"]["found"]
    assert kind == "parameters"
    assert 5 in devices
    kind, devices, _ = found["computing:5"]["found"]
    assert kind == "losses"
    assert found["gradients:5"]["found"][0] == "gradients"
    assert noted == ["parameters", "losses", "gradients"]


def test_a_device_that_is_always_wrong_is_told_from_one_that_was_once():
    class Device:
        def __init__(self, number):
            self.id = number

    devices = [Device(i) for i in range(4)]
    second = [*devices[1:], devices[0]]
    assert [d.id for d in suspects([2], devices, second)] == [2, 3]
    assert [d.id for d in suspects([1, 2], devices, second)] == [2]
    assert [d.id for d in suspects([0, 2], devices, second)] == [0, 1, 2, 3]


def test_the_only_device_stays_where_it_is():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    other, to = swapped(mesh)
    assert (other.devices == mesh.devices).all()
    assert list(to.items()) == [(jax.devices()[0], jax.devices()[0])]
