"""Every mesh computes what one device does, with an optimizer that mixes the rows of a matrix: 4 virtual devices."""

from __future__ import annotations

import pytest

from lmx.config.compose import load
from lmx.run.verify import verify_mesh
from lmx.run.verify_config import VerifyMesh

MESHES = ("dp", "fsdp", "sequence", "fsdp_context_tp")
SMALL = (
    *("model.d_model=32", "model.n_heads=4", "model.n_kv_heads=2", "model.n_layers=2"),
    *(
        "optimizer=muon",
        "optimizer.newton_schulz.dtype=float32",
        "verify.steps=3",
        "verify.devices=4",
        "verify.rows=[]",
    ),
    *("trainer.sequence_length=32", "trainer.global_batch_size=8", "trainer.eval_batch_size=8"),
)


@pytest.fixture(scope="module")
def rows():
    meshes = f"meshes=[single,{','.join(MESHES)}]"
    result = verify_mesh(load("verify mesh", [*SMALL, meshes], schema=VerifyMesh))
    return {row["name"]: row for row in result["rows"]}


@pytest.mark.parametrize("mesh", MESHES)
def test_meshes_agree_with_one_device(mesh, rows):
    row = rows[mesh]
    assert row["error"] is None
    assert row["initial_differ"] == []
    assert row["agrees"], row["first"]
    product = 1
    for size in row["axes"].values():
        product *= size
    assert product == 4
