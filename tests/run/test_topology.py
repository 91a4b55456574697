"""Topologies: those that exist, and what is said of others."""

from __future__ import annotations

import pytest

from lmx.chips import chip_named, chip_of
from lmx.config.errors import RequestError
from lmx.run import topology
from lmx.run.topology import Topology, devices_of, parse_topology, shapes_of


@pytest.mark.parametrize(
    ("text", "chips"),
    [
        ("v5e:4x4", 16),
        ("v6e:16x16", 256),
        ("v5p:2x2x2", 8),
        ("v5p:4x4x8", 128),
        ("v5p:16x16x24", 6144),
        ("v4:2x2x1", 4),
    ],
)
def test_slices_that_exist(text, chips):
    found = parse_topology(text)
    assert found.chips == chips
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5e:3x3", "v5e:2x4"),
        ("v5p:3x3x3", "v5p:2x4x4"),
        ("v5p:4x2x2", "v5p:2x2x4"),
        ("v5p-16", "v5p:2x2x2"),
        ("v6e-16", "v6e:4x4"),
        ("v5e:4x4x4", "v5e:8x8"),
        ("v9:2x2", "v5e"),
        ("v6:2x2", "v6e:2x2"),
        ("v5litepod-16", "v5e:4x4"),
        ("v7x:4x4x4", "tpu7x:4x4x4"),
        ("v6e:2*2", "such as v5e:4x4"),
        ("pod", "v5p:4x4x4"),
        ("v9", "the chips are v5e, v6e, v4, v5p, tpu7x, cpu"),
        ("h100:8", "the chips are v5e, v6e, v4, v5p, tpu7x, cpu"),
        ("cpu:0", "cpu:8"),
        ("v5p:32x32x32", "v5p:16x20x28"),
    ],
)
def test_of_others_the_nearest_are_named(text, said):
    with pytest.raises(RequestError, match="topology=") as error:
        parse_topology(text)
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_every_shape_is_of_its_chip():
    for chip in ("v4", "v5e", "v5p", "v6e", "tpu7x"):
        figures = chip_named(chip)
        assert figures is not None
        dimensions = {len(shape) for shape in shapes_of(chip)}
        assert dimensions == {figures.dimensions}
        assert len(set(shapes_of(chip))) == len(shapes_of(chip))


def test_kinds_of_devices_are_told_apart():
    kinds = {
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v5p": "v5p",
        "TPU v6 lite": "v6e",
        "TPU7x": "tpu7x",
        "NVIDIA A100-SXM4-40GB": "a100_40",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
    }
    for kind, name in kinds.items():
        found = chip_of(kind)
        assert found is not None
        assert found.name == name
    for other in ("cpu", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA A100-PCIE-40GB"):
        assert chip_of(other) is None, other


def test_without_libtpu_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install -e '\.\[tpu\]'"):
        devices_of(Topology("v5e", (2, 2)), 1)


def test_virtual_devices_are_one_slice():
    with pytest.raises(RequestError, match="topology=cpu:8 has as many"):
        devices_of(Topology("cpu", (4,)), 2)
