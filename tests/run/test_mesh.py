"""Every mesh computes what one device does: 4 virtual devices, each mesh of the command and more behind `slow`."""

from __future__ import annotations

import pytest

from lmx.config.compose import load
from lmx.run.verify import verify_mesh
from lmx.run.verify_config import VerifyMesh

DENSE = ("dp", "fsdp", "hsdp", "fsdp_tp", "sequence", "context", "context_ring", "multislice")
MIXTURE = ("expert", "pipeline")

COMMON = (
    *("model.d_model=32", "model.n_heads=4", "model.n_kv_heads=2"),
    *("verify.devices=4", "verify.rows=[]", "verify.steps=2", "trainer.sequence_length=32"),
)
OF_DENSE = ("model.n_layers=1", "trainer.global_batch_size=8", "trainer.eval_batch_size=8")
OF_EXPERTS = (
    *("experiment=verify_moe", "model.n_layers=2", "model.moe.balance_loss=0.01"),
    *("trainer.global_batch_size=16", "trainer.eval_batch_size=16"),
)
MUON = ("optimizer=muon", "optimizer.newton_schulz.dtype=float32")


def compared(meshes, more):
    """Name -> row of the result."""
    given = [*COMMON, *more, f"meshes=[single,{','.join(meshes)}]"]
    result = verify_mesh(load("verify mesh", given, schema=VerifyMesh))
    return {row["name"]: row for row in result["rows"]}


@pytest.fixture(scope="module")
def rows():
    """Of a dense model on some meshes, and of a mixture of experts on others."""
    return compared(DENSE, OF_DENSE) | compared(MIXTURE, OF_EXPERTS)


@pytest.mark.parametrize("mesh", [*DENSE, *MIXTURE])
def test_meshes_agree_with_one_device(mesh, rows):
    row = rows[mesh]
    assert row["error"] is None
    assert row["initial_differ"] == []
    assert row["agrees"], row["first"]
    product = 1
    for size in row["axes"].values():
        product *= size
    assert product == 4


def test_slices_are_an_axis_of_their_own(rows):
    assert rows["multislice"]["axes"] == {"slice": 2, "fsdp": 2}


@pytest.mark.slow
def test_meshes_agree_with_an_optimizer_that_mixes_the_rows_of_a_matrix():
    found = compared(("fsdp_tp", "context", "fsdp_context_tp"), (*OF_DENSE, *MUON))
    assert [row["agrees"] for row in found.values()] == [True] * 4
    found = compared(MIXTURE, (*OF_EXPERTS, *MUON))
    assert [row["agrees"] for row in found.values()] == [True] * 3
