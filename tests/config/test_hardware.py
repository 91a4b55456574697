"""Which preset the devices get, by the rules of conf/mesh/auto.yaml; presets hold, and give way to what is said."""

from __future__ import annotations

import pytest

from lmx.config.compose import load
from lmx.config.hardware import described, devices_at_hand, devices_here, devices_of_topology, preset_for
from lmx.run.compile_config import Compile
from lmx.run.config import TrainConfig
from tests.support import CONF


def host(root, kind, count):
    for i in range(count):
        folder = root / f"proc/driver/nvidia/gpus/0000:0{i}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {kind}\nIRQ:   \t\t 16\n")
    return root


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "1 x cpu"),
        ({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}, "8 x cpu"),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-16"}, "TPU v5e-16"),
        ({"TPU_ACCELERATOR_TYPE": "v6e-256", "MEGASCALE_NUM_SLICES": "4"}, "4 x TPU v6e-256"),
        ({"TPU_ACCELERATOR_TYPE": "v6e-256", "JAX_PLATFORMS": "cpu"}, "1 x cpu"),
    ],
)
def test_devices_are_named(environment, name, tmp_path):
    assert devices_here(environment, tmp_path) == name


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "8 x NVIDIA H100 80GB HBM3"),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "1 x NVIDIA H100 80GB HBM3"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "1 x cpu"),
        ({"SLURM_JOB_NUM_NODES": "8"}, "64 x NVIDIA H100 80GB HBM3"),
        ({"JAX_PLATFORMS": "cpu"}, "1 x cpu"),
    ],
)
def test_gpus_are_counted(environment, name, tmp_path):
    assert devices_here(environment, host(tmp_path, "NVIDIA H100 80GB HBM3", 8)) == name


def test_rules_go_in_order():
    assert preset_for("8 x NVIDIA H100", "^1 x", "one", "H100", "many", "", "any") == "many"
    with pytest.raises(ValueError, match="no pattern fits"):
        preset_for("8 x cpu", "TPU", "tpu")


@pytest.mark.parametrize(
    ("environment", "preset", "dtype"),
    [
        ({"TPU_ACCELERATOR_TYPE": "v5p-256"}, "v5p_256", "bfloat16"),
        ({"TPU_ACCELERATOR_TYPE": "v5p-4096"}, "accelerators", "bfloat16"),
        ({"TPU_ACCELERATOR_TYPE": "v6e-64", "MEGASCALE_NUM_SLICES": "2"}, "slices", "bfloat16"),
        ({"JAX_PLATFORMS": "cpu"}, None, "float32"),
    ],
)
def test_auto_is_the_preset_of_the_devices(environment, preset, dtype, monkeypatch):
    for name in ("TPU_ACCELERATOR_TYPE", "JAX_PLATFORMS", "MEGASCALE_NUM_SLICES", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = load("train", ["mesh=auto"], schema=TrainConfig).config
    assert config.mesh.preset == preset
    assert config.trainer.compute_dtype == dtype


@pytest.mark.parametrize(
    ("devices", "preset"),
    [
        ("8 x NVIDIA H100 80GB HBM3", "h100_8"),
        ("1 x NVIDIA H200", "h200_1"),
        ("3 x NVIDIA A100-SXM4-80GB", "accelerators"),
        ("TPU v6e-256", "v6e_256"),
        ("4 x TPU v6e-256", "v6e_256_4"),
    ],
)
def test_auto_goes_by_the_kind_of_device(devices, preset):
    with described(devices):
        assert load("train", ["mesh=auto"], schema=TrainConfig).config.mesh.preset == preset


def test_a_topology_is_called_as_its_accelerator_type():
    assert devices_of_topology("v5p:2x2x2", 1) == "TPU v5p-16"
    assert devices_of_topology("v6e:16x16", 4) == "4 x TPU v6e-256"
    assert devices_of_topology("cpu:8", 1) == "8 x cpu"
    assert devices_of_topology("???", 1) is None
    with described("TPU v5p-16"):
        assert devices_at_hand() == "TPU v5p-16"
    assert devices_at_hand() == devices_here()


@pytest.mark.parametrize(
    ("topology", "preset", "axes"),
    [
        (["topology=v5p:4x4x4"], "v5p_128", {"fsdp": 64}),
        (["topology=v6e:16x16", "slices=4"], "v6e_256_4", {"slice": 4, "fsdp": 256}),
        (["topology=v6e:4x4", "slices=2"], "slices", {"slice": "slices", "fsdp": "auto"}),
        (["topology=cpu:1"], None, {"data": 1}),
    ],
)
def test_auto_is_the_preset_of_the_topology(topology, preset, axes, monkeypatch):
    """Whatever is here; also on the way that a command takes, where Hydra has composed for the devices here."""
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5p-256")
    composed = load("compile", ["mesh=auto", *topology], schema=Compile)
    assert (composed.config.mesh.preset, composed.config.mesh.axes) == (preset, axes)
    assert composed.composer is not None
    again = composed.composer.of_job(None, ["mesh=auto", *topology])
    assert again.config.mesh == composed.config.mesh


PRESETS = sorted(p.stem for p in (CONF / "mesh").glob("[a-z]*.yaml") if "preset: " in p.read_text())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold(name):
    """A preset sets mesh, kernels, precision and rematerialisation together."""
    config = load("train", [f"mesh={name}"], schema=TrainConfig).config
    kernels = {"v": ("megablox", "ragged"), "h": ("ragged", "ragged")}.get(name[0], ("auto", "auto"))
    assert (config.kernels.experts, config.kernels.exchange) == kernels
    assert config.kernels.attention == "auto"
    assert config.mesh.preset == name
    assert config.mesh.problems() == []
    assert config.trainer.compute_dtype == "bfloat16"
    assert config.model.remat in ("attention", "full")
    count = name.rpartition("_")[2]
    if name[:4] in ("v5e_", "v6e_") and count.isdigit() and int(count) > 4:
        assert list(config.mesh.axes.values()) == [int(count)]


def test_what_is_said_wins_over_a_preset():
    said = ["mesh=h200_1", "model.remat=none", "mesh.rules.embed=null", "trainer.compute_dtype=float32"]
    config = load("train", said, schema=TrainConfig).config
    assert (config.model.remat, config.trainer.compute_dtype) == ("none", "float32")
