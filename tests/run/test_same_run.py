"""Two runs compared: what is equal passes, and the first of what is not is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.io.checkpoints import Checkpoints
from lmx.run.same_run import compare_arrays, compare_runs, last_checkpoint, load_arrays, relative
from tests.io.states import config

STATE = {"params": {"w": np.linspace(0, 1, 12).reshape(3, 4).astype(np.float32)}, "step": np.int32(2)}


def write_run(folder: Path, *, loss: float = 1.5, hashes: dict | None = None, state: dict = STATE) -> Path:
    """A finished run of two steps with one start."""
    witness = folder / "witness-001"
    witness.mkdir(parents=True)
    rows = {1: {"0": "aa", "1": "bb"}, 2: {"0": "cc", "1": "dd"}, 3: {"0": "ee", "1": "ff"}} | (hashes or {})
    lines = [json.dumps({"read": step, "rows": read}) for step, read in rows.items()]
    (witness / "0.jsonl").write_text("\n".join(lines) + '\n{"cut sho')
    metrics = [{"step": 1, "loss": 2.0, "step_time": 0.1}, {"step": 2, "loss": loss, "step_time": 0.2}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "summary.json").write_text(json.dumps({"status": "done", "steps": 2, "loss": loss}))
    checkpoints = Checkpoints(folder / "checkpoints", config(every=2))
    checkpoints.save(2, {"params": {"w": jnp.asarray(state["params"]["w"])}, "step": jnp.asarray(2)}, meta={})
    checkpoints.close()
    return folder


def test_equal_runs(tmp_path):
    found = compare_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"), tolerance=0.0)
    assert found.first is None
    assert found.counts == {"data": 6, "metrics": 2, "summary": 6, "params": 1, "step": 1}
    assert last_checkpoint(tmp_path / "a") == 2
    np.testing.assert_array_equal(load_arrays(tmp_path / "a/checkpoints/2")["params.w"], STATE["params"]["w"])


def test_the_first_difference_is_named(tmp_path):
    expected = write_run(tmp_path / "a")
    found = compare_runs(
        expected, write_run(tmp_path / "b", hashes={2: {"0": "cc", "1": "xx"}}), tolerance=0.0
    )
    assert str(found.first) == "data row 1 at step 2: dd in the undisturbed run, xx here"
    found = compare_runs(expected, write_run(tmp_path / "c", loss=math.nextafter(1.5, 2)), tolerance=0.0)
    assert (found.first.kind, found.first.name, found.first.step) == ("metrics", "loss", 2)
    assert compare_runs(expected, tmp_path / "c", tolerance=1e-12).first is None
    w = STATE["params"]["w"].copy()
    w[1, 2] = np.nextafter(w[1, 2], np.float32(2))
    found = compare_runs(expected, write_run(tmp_path / "d", state={"params": {"w": w}}), tolerance=0.0)
    assert str(found.first).startswith("params params.w[6] at step 2: ")
    assert compare_runs(expected, tmp_path / "d", tolerance=1e-5).first is None


def test_what_a_later_start_reads_otherwise_is_a_difference(tmp_path):
    expected, found = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    again = found / "witness-002"
    again.mkdir()
    (again / "0.jsonl").write_text('{"read": 2, "rows": {"0": "other"}}\n')
    assert compare_runs(expected, found, tolerance=1.0).first.name == "row 0, read again"


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (1.0, 1.0, 0.0),
        (float("nan"), float("nan"), 0.0),
        (1.0, float("nan"), math.inf),
        (2.0, 1.0, 0.5),
        (3, 3, 0.0),
        (3, 4, math.inf),
        (1.0, None, math.inf),
        ("NaN", "NaN", 0.0),
    ],
)
def test_relative(a, b, error):
    assert relative(a, b) == error


def test_signs_of_zero_and_shapes_count():
    zeros = np.zeros(3, np.float32)
    assert compare_arrays("params", "w", 1, zeros, -zeros).error == math.inf
    assert compare_arrays("params", "w", 1, zeros, zeros[:2]).error == math.inf
    assert compare_arrays("params", "w", 1, zeros, zeros.copy()).error == 0.0
