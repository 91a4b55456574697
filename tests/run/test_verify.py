"""`lmx verify mesh` finds what is wrong and names it, and says the same of all meshes that are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lmx.config.compose import load
from lmx.config.errors import ConfigError
from lmx.run.verify import Disagreement, RowFailed, check, plan, verify_mesh
from lmx.run.verify_config import VerifyMesh
from lmx.run.verify_text import as_text
from tests.support import ROOT

TINY = ("model.d_model=32", "model.n_heads=4", "model.n_kv_heads=2", "trainer.sequence_length=32")
FEW = ("verify.steps=2", "verify.devices=4", "trainer.global_batch_size=8", "trainer.eval_batch_size=8")


def composed(*overrides):
    return load("verify mesh", [*TINY, *FEW, *overrides], schema=VerifyMesh)


def variant(name, *overrides, mesh="fsdp"):
    quoted = ",".join(f"'{line}'" for line in overrides)
    return f"+verify.variants.{name}={{mesh:{mesh},processes:1,overrides:[{quoted}]}}"


def planted(fault, *overrides, mesh="fsdp"):
    kind = "model._target_=tests.run.planted.Planted"
    return variant(fault, kind, f"+model.fault={fault}", *overrides, mesh=mesh)


@pytest.fixture(scope="module")
def faulty():
    """Faults in the stages of a pipeline, in what attention gives back, and where sequences are split."""
    stages = ("mesh.pipeline.micro_batches=4", "mesh.pipeline.repeats=2")
    faults = [
        planted("forward", *stages, mesh="pipeline"),
        planted("attention"),
        planted("backward", mesh="context"),
        planted("initial"),
        variant("unfit", "mesh.axes.tensor=4", mesh="fsdp_tp"),
    ]
    rows = "verify.rows=[forward,attention,backward,initial,unfit]"
    result = verify_mesh(composed("meshes=[single,fsdp]", *faults, rows))
    return result, {row["name"]: row for row in result["rows"]}


def test_what_is_right_agrees(faulty):
    result, rows = faulty
    assert rows["fsdp"]["agrees"]
    assert rows["fsdp"]["initial_differ"] == []
    assert rows["fsdp"]["axes"] == {"fsdp": 4}
    assert len(result["losses"]) == 2
    assert not result["agrees"]


def test_a_wrong_layer_is_named_forward_and_backward(faulty):
    row = faulty[1]["forward"]
    assert not row["agrees"]
    assert row["initial_differ"] == []
    assert row["first"]["step"] == 0
    assert (row["trace"]["forward"]["tensor"], row["trace"]["forward"]["layer"]) == ("mlp_out", 2)
    assert row["trace"]["backward"] is not None


def test_a_wrong_gradient_is_named(faulty):
    row = faulty[1]["backward"]
    tensors = [(d["tensor"], d["layer"]) for d in row["first"]["tensors"]]
    assert not row["agrees"]
    assert ("layers.0.mlp.down", 1) in tensors
    assert {layer for name, layer in tensors if name == "layers.0.mlp.down"} == {1}
    # Of weights alone: activations and their gradients are right, all but those inside of split attention.
    assert (row["trace"]["error"], row["trace"]["forward"], row["trace"]["backward"]) == (None, None, None)
    assert row["trace"]["seen"] >= 4 * 7


def test_where_a_gradient_goes_wrong_is_named(faulty):
    trace = faulty[1]["attention"]["trace"]
    assert trace["forward"] is None
    assert (trace["backward"]["tensor"], trace["backward"]["layer"]) == ("attention_context", 3)


def test_other_initial_parameters_are_named(faulty):
    row = faulty[1]["initial"]
    assert not row["agrees"]
    assert row["initial_differ"] == ["layers.0.attention.out"]


def test_what_cannot_be_split_is_a_wrong_request(faulty):
    row = faulty[1]["unfit"]
    assert row["exit_code"] == 2
    assert "kv_heads = 2" in row["error"]
    assert "mesh.axes.tensor=2" in row["error"]


def test_the_text_says_it_all(faulty):
    text = as_text(faulty[0])
    assert "forward at step 0: first mlp_out of layer 2" in text
    assert "initial parameters: layers.0.attention.out" in text
    assert "could not be run" in text
    with pytest.raises(
        Disagreement, match="forward, attention, backward, initial differ from single"
    ) as error:
        check(faulty[0])
    assert error.value.exit_code == 1


def test_only_wrong_requests_exit_with_2(faulty):
    rows = [row for row in faulty[0]["rows"] if row["name"] in ("single", "fsdp", "unfit")]
    with pytest.raises(RowFailed) as error:
        check({**faulty[0], "rows": rows})
    assert error.value.exit_code == 2


def test_a_wrong_mesh_is_mended_in_its_list():
    composed = load("verify_mesh", ["mesh=single", "meshes=[single,fdsp,fsdp_tp]"], schema=VerifyMesh)
    with pytest.raises(ConfigError) as error:
        plan(composed)
    (problem,) = error.value.problems
    assert problem.origin == "command line: mesh=single,fdsp,fsdp_tp"
    assert problem.fix == "mesh=single,fsdp,fsdp_tp"


def test_each_row_has_a_configuration_before_any_runs():
    rows = plan(composed("meshes=[single,fsdp_tp]", "verify.rows=[accumulation,processes_2]"))
    assert [(row.name, row.mesh, row.processes) for row in rows] == [
        ("single", "single", 1),
        ("fsdp_tp", "fsdp_tp", 1),
        ("accumulation", "single", 1),
        ("processes_2", "fsdp", 2),
    ]
    assert rows[1].tree["mesh"]["axes"] == {"fsdp": "auto", "tensor": 2}
    assert rows[2].tree["trainer"]["accumulation"] == 2
    assert all(row.tree["trainer"]["compute_dtype"] == "float32" for row in rows)
    with pytest.raises(ConfigError, match="no such option"):
        plan(composed("meshes=[single,fdsp]"))


@pytest.mark.slow
def test_every_mesh_agrees():
    """As in the command's defaults, at 10 steps; the exit code tells."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "lmx", "verify", "output=json"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["agrees"]
    assert {row["processes"] for row in result["rows"]} == {1, 2, 4}
