"""Every mesh computes what one device does, with an optimizer that mixes the rows of a matrix: 4 virtual devices."""

from __future__ import annotations

import pytest

from lmx.config.compose import load
from lmx.run.verify import verify_mesh
from lmx.run.verify_config import VerifyMesh

MESHES = ("fsdp_tp", "context", "fsdp_context_tp")
MIXTURE = ("expert", "pipeline")
SMALL = (
    *("model.d_model=32", "model.n_heads=4", "model.n_kv_heads=2", "model.n_layers=2"),
    *(
        "optimizer=muon",
        "optimizer.newton_schulz.dtype=float32",
        "verify.steps=2",
        "verify.devices=4",
        "verify.rows=[]",
    ),
    *("trainer.sequence_length=32", "trainer.global_batch_size=8", "trainer.eval_batch_size=8"),
)
OF_EXPERTS = (
    "experiment=verify_moe",
    *("trainer.global_batch_size=16", "trainer.eval_batch_size=16"),
)


@pytest.fixture(scope="module")
def rows():
    """Of a dense model on some meshes, and of a mixture of experts on others."""
    found = {}
    for meshes, more in ((MESHES, ()), (MIXTURE, OF_EXPERTS)):
        given = [line for line in SMALL if line.partition("=")[0] not in {m.partition("=")[0] for m in more}]
        names = f"meshes=[single,{','.join(meshes)}]"
        result = verify_mesh(load("verify mesh", [*given, *more, names], schema=VerifyMesh))
        found |= {row["name"]: row for row in result["rows"]}
    return found


@pytest.mark.parametrize("mesh", [*MESHES, *MIXTURE])
def test_meshes_agree_with_one_device(mesh, rows):
    row = rows[mesh]
    assert row["error"] is None
    assert row["initial_differ"] == []
    assert row["agrees"], row["first"]
    product = 1
    for size in row["axes"].values():
        product *= size
    assert product == 4
