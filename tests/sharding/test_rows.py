"""Which rows a process reads: of real device layouts of TPU hosts."""

from __future__ import annotations

import importlib.util
import os

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from lmx.sharding.rows import Part, rows_of_process, rows_to_devices


def test_one_process_reads_all():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, jax.P("data", None))
    assert rows_of_process(sharding) == Part(0, 1)
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


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((16, 1), jax.P("a", None), [Part(i, 4) for i in range(4)]),
        ((8, 2), jax.P("a", None), [Part(i, 4) for i in range(4)]),
        (
            (2, 8),
            jax.P("a", None),
            [Part(0, 2), Part(0, 2), Part(1, 2), Part(1, 2)],
        ),  # two processes share rows
        ((2, 8), jax.P("a", "b"), [Part(0, 2), Part(0, 2), Part(1, 2), Part(1, 2)]),  # and split their length
        ((1, 16), jax.P(None, "b"), [Part(0, 1)] * 4),
        ((2, 8), jax.P(("a", "b"), None), [Part(i, 4) for i in range(4)]),
        ((2, 8), jax.P(), [Part(0, 1)] * 4),
    ],
)
def test_parts_of_the_rows(devices, shape, spec, expected):
    assert parts(devices, shape, ("a", "b"), spec) == expected


def test_rows_that_are_not_neighbours_are_refused(devices):
    with pytest.raises(ValueError, match="put the axes that split the batch first"):
        parts(devices, (4, 4), ("a", "b"), jax.P(("b", "a"), None))
