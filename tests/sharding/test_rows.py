"""Which rows a process reads: of real device layouts of TPU hosts. With real processes: tests/run/test_hosts.py."""

from __future__ import annotations

import importlib.util
import os

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from lmx.config.compose import load
from lmx.run.config import TrainConfig
from lmx.run.topology import devices_of, parse_topology
from lmx.sharding import make_mesh, spec
from lmx.sharding.rows import RowParts, rows_of_process, rows_to_devices


def test_one_process_reads_all():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, jax.P("data", None))
    assert rows_of_process(sharding) == RowParts((0,), 1)
    x = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(rows_to_devices(x, sharding), x)


@pytest.fixture(scope="module")
def devices():
    """16 devices of 4 processes."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    from jax.experimental import topologies

    os.environ["TPU_SKIP_MDS_QUERY"] = os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    found = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
    return sorted(found, key=lambda d: (d.process_index, d.id))


def parts(devices, shape, names, spec):
    mesh = jax.sharding.Mesh(
        np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names)
    )
    return [rows_of_process(NamedSharding(mesh, spec), process) for process in range(4)]


PAIRS = [RowParts((0, 1), 8), RowParts((2, 3), 8), RowParts((4, 5), 8), RowParts((6, 7), 8)]
HALVES = [RowParts((i,), 2) for i in (0, 0, 1, 1)]


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((16, 1), jax.P("a", None), [RowParts(tuple(range(4 * i, 4 * i + 4)), 16) for i in range(4)]),
        ((8, 2), jax.P("a", None), PAIRS),
        ((2, 8), jax.P("a", None), HALVES),  # two processes share rows
        ((2, 8), jax.P("a", "b"), HALVES),  # and split their length
        ((1, 16), jax.P(None, "b"), [RowParts((0,), 1)] * 4),
        ((2, 8), jax.P(), [RowParts((0,), 1)] * 4),
        ((4, 4), jax.P(("b", "a"), None), [RowParts(tuple(range(i, 16, 4)), 16) for i in range(4)]),
    ],
)
def test_parts_of_the_rows(devices, shape, spec, expected):
    assert parts(devices, shape, ("a", "b"), spec) == expected


@pytest.mark.parametrize("topology", ["v5p:4x4x4", "v5e:4x4", "v6e:4x4 x 2"])
@pytest.mark.parametrize(
    "option", ["fsdp", "hsdp", "context", "context_ring", "fsdp_context_tp", "expert_tp"]
)
def test_the_hosts_of_a_pod_read_the_rows_that_their_chips_hold(devices, topology, option):
    """In the order that follows the torus: each host has a part for each of its chips, and together they have all."""
    name, _, slices = topology.partition(" x ")
    chips = devices_of(parse_topology(name), int(slices or 1))
    config = load("train", [f"mesh={option}"], schema=TrainConfig).config.mesh
    sharding = NamedSharding(make_mesh(config, chips), spec(("batch", "length"), config.rules))
    held = {process: rows_of_process(sharding, process) for process in {d.process_index for d in chips}}
    count = next(iter(held.values())).count
    assert set().union(*(part.indices for part in held.values())) == set(range(count))
    rows = {process: part.rows(3 * count) for process, part in held.items()}
    for device, index in sharding.devices_indices_map((3 * count, 64)).items():
        assert set(range(*index[0].indices(3 * count))) <= set(rows[device.process_index])
        assert rows[device.process_index] == sorted(set(rows[device.process_index]))


def test_rows_of_a_host_need_not_be_neighbours(devices):
    chips = devices_of(parse_topology("v5p:4x4x4"), 1)
    mesh = make_mesh(load("train", ["mesh=fsdp"], schema=TrainConfig).config.mesh, chips)
    assert rows_of_process(NamedSharding(mesh, jax.P("fsdp")), 0) == RowParts((0, 4, 16, 20), 64)


def test_rows_that_cannot_be_split_are_a_request():
    assert RowParts((0, 2), 4).rows(8) == [0, 1, 4, 5]
    with pytest.raises(ValueError, match="of 6 rows cannot be split 4 ways"):
        RowParts((0, 2), 4).rows(6)
