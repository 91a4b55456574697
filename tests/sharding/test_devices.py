"""Meshes from devices: sizes, order, links; devices are stand-ins with the attributes that JAX's have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from lmx.config.mesh import Mesh
from lmx.sharding import axis_sizes, describe_mesh, links, make_mesh
from tests.support import ROOT, read_option


@dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    slice_index: int | None = None
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"


def mesh_config(option="fsdp_tp", **axes):
    tree = OmegaConf.to_container(OmegaConf.create(read_option("mesh", option)), resolve=True)
    return Mesh.model_validate(tree | {"axes": axes or tree["axes"]})


def test_auto_takes_what_is_left():
    assert axis_sizes(mesh_config(fsdp="auto", tensor=2), 8) == {"fsdp": 4, "tensor": 2}
    assert axis_sizes(mesh_config("multislice"), 8, slices=2) == {"slice": 2, "fsdp": 4}


def test_devices_that_would_all_do_the_same_are_refused():
    with pytest.raises(ValueError, match=r"8 devices; batch and parameters .* by mesh=fsdp$"):
        axis_sizes(mesh_config("single"), 8)
    with pytest.raises(ValueError, match=r"over data 8: .* by mesh=fsdp$"):
        axis_sizes(mesh_config("single", data="auto"), 8)
    with pytest.raises(ValueError, match=r"over slice 2: .*'mesh\.rules\.batch=\[fsdp,slice\]'$"):
        axis_sizes(mesh_config(slice="slices", fsdp="auto"), 8, slices=2)


def test_processes_are_the_slices_of_cpu_devices_though_jax_says_otherwise():
    devices = [Device(i, i // 2, slice_index=0, platform="cpu", device_kind="cpu") for i in range(4)]
    mesh = make_mesh(mesh_config("multislice"), devices)
    assert dict(mesh.shape) == {"slice": 2, "fsdp": 2}
    assert str(links(mesh)["slice"]) == "sockets"


def test_slices_stay_the_outermost_axis_of_what_is_proposed():
    with pytest.raises(
        ValueError, match=r"slice 2 x fsdp 16 fits: mesh\.axes\.slice=auto mesh\.axes\.fsdp=16"
    ):
        axis_sizes(mesh_config(slice=4, fsdp=256), 32, slices=2)
    with pytest.raises(ValueError, match="slice 2 x fsdp 4 x tensor 4 fits"):
        axis_sizes(mesh_config(slice=4, fsdp=8, tensor=4), 32, slices=2)


@pytest.mark.parametrize(
    ("axes", "proposal"),
    [
        ({"fsdp": "auto", "tensor": 3}, "fsdp 4 x tensor 2 fits: mesh.axes.tensor=2"),
        ({"fsdp": 4, "tensor": 4}, "fsdp 2 x tensor 4 fits: mesh.axes.fsdp=auto"),
        ({"data": 3}, "data 8 fits: mesh.axes.data=auto"),
        (
            {"data": 2, "fsdp": 3, "tensor": 5},
            "data 1 x fsdp 2 x tensor 4 fits: mesh.axes.data=auto mesh.axes.fsdp=2",
        ),
    ],
)
def test_sizes_that_do_not_fit_propose_some_that_do(axes, proposal):
    with pytest.raises(ValueError, match="8 devices") as error:
        axis_sizes(mesh_config(**axes), 8)
    assert proposal in str(error.value)


def gpus(hosts=2, each=4):
    return [Device(h * each + i, h, h) for h in range(hosts) for i in range(each)]


def test_outer_axes_cross_hosts():
    mesh = make_mesh(mesh_config(fsdp="auto", tensor=2), gpus())
    assert mesh.shape == {"fsdp": 4, "tensor": 2}
    for row in mesh.devices:
        assert len({d.slice_index for d in row}) == 1
    assert str(links(mesh)["fsdp"]) == "network 2 x NVLink 2"
    assert str(links(mesh)["tensor"]) == "NVLink"
    assert "fsdp 4 (network 2 x NVLink 2) x tensor 2 (NVLink), 8 x gpu" in describe_mesh(mesh)


def test_devices_in_any_order_are_put_by_host():
    mixed = gpus()[::3] + [d for i, d in enumerate(gpus()) if i % 3]
    mesh = make_mesh(mesh_config("multislice"), mixed)
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0] * 4, [1] * 4]
    assert str(links(mesh)["slice"]) == "network"


def test_inner_axes_cross_where_outer_ones_do_not_suffice():
    devices = [Device(i, i // 2, i // 2) for i in range(6)]
    mesh = make_mesh(mesh_config("expert_tp", fsdp=2, expert=1, tensor=3), devices)
    assert [str(link) for link in links(mesh).values()] == ["NVLink", "NVLink", "network"]


def test_slices_of_unequal_size_are_an_error():
    with pytest.raises(ValueError, match="unequal"):
        make_mesh(mesh_config(fsdp="auto"), gpus()[:6])


def test_one_device_is_the_first_and_any_other_mesh_takes_all():
    devices = [Device(i, 0) for i in range(8)]
    mesh = make_mesh(mesh_config("single"), devices)
    assert [d.id for d in mesh.devices.flat] == [0]
    with pytest.raises(ValueError, match=r"fsdp 3 = 3, .* 8 devices; fsdp 8 fits: mesh\.axes\.fsdp=auto"):
        make_mesh(mesh_config("fsdp", fsdp=3), devices)


PROGRAM = """
import json
from jax.experimental import topologies
from tests.sharding.test_devices import mesh_config
from lmx.sharding import describe_mesh, links, make_mesh
found = {}
for name, option, axes, knobs in [
    ("v5p", "fsdp_tp", {"fsdp": "auto", "tensor": 4}, {"topology_name": "v5p:4x4x4"}),
    ("v6e", "multislice", {}, {"topology_name": "v6e:4x4", "num_slices": 2}),
]:
    devices = topologies.get_topology_desc(platform="tpu", **knobs).devices
    mesh = make_mesh(mesh_config(option, **axes), devices)
    first = list(mesh.devices[0].flat) if name == "v6e" else mesh.devices[0]
    found[name] = {
        "shape": dict(mesh.shape), "text": describe_mesh(mesh),
        "first": [list(d.coords) for d in first], "slices": [getattr(d, "slice_index", 0) for d in first],
    }
print(json.dumps(found))
"""


def test_described_topologies():
    """Neighbours on the inner axis are neighbours in the torus; the outer axis goes from slice to slice."""
    pytest.importorskip("libtpu")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["v5p"]["shape"] == {"fsdp": 16, "tensor": 4}
    steps = [
        sum(min((a - b) % 4, (b - a) % 4) for a, b in zip(x, y, strict=True))
        for x, y in zip(found["v5p"]["first"], found["v5p"]["first"][1:], strict=False)
    ]
    assert steps == [1, 1, 1]
    assert "tensor 4 (ICI)" in found["v5p"]["text"]
    assert found["v6e"]["shape"] == {"slice": 2, "fsdp": 16}
    assert set(found["v6e"]["slices"]) == {0}
    assert "slice 2 (DCN) x fsdp 16 (ICI)" in found["v6e"]["text"]
