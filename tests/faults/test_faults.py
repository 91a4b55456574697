"""Staged faults: each option composes, happens once in a run, and does what it says."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from lmx.config.compose import Composer
from lmx.faults import Fault
from lmx.faults.acts import data_file, repair, staged, tear
from lmx.faults.config import Site
from lmx.run.config import TrainConfig
from lmx.types import Batch
from tests.support import CONF, ROOT

OPTIONS = sorted(path.stem for path in (CONF / "fault").glob("*.yaml"))


def fault(option: str, *overrides: str) -> Fault:
    lines = [f"fault={option}", *(f"fault.{line}" for line in overrides)]
    found, problems = Composer("train", TrainConfig, overrides=lines).check(lines)
    assert not problems
    return found.config.fault


def act(option, folder, *overrides, process=0, data=None):
    return fault(option, *overrides).build(Site(folder, process, data))


def batch() -> Batch:
    tokens = np.arange(8, dtype=np.int32).reshape(2, 4)
    return Batch(tokens, tokens + 1, np.ones((2, 4), np.float32))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option, tmp_path):
    assert act(option, tmp_path).config.step == 10


def test_no_run_is_disturbed_unasked():
    found, problems = Composer("train", TrainConfig).check(())
    assert not problems
    assert found.config.fault is None


def test_a_fault_happens_once_in_a_run_and_is_written_down(tmp_path):
    spike = act("loss_spike", tmp_path, "step=3", "steps=2")
    kinds = [np.array_equal(spike.batch(step, batch()).targets, batch().targets) for step in range(1, 7)]
    assert kinds == [True, True, False, False, True, True]
    assert staged(tmp_path) == [{"fault": "LossSpike", "step": 3, "process": 0}]
    resumed = act("loss_spike", tmp_path, "step=3", "steps=2")
    assert all(np.array_equal(resumed.batch(step, batch()).targets, batch().targets) for step in range(1, 7))


def test_a_fault_keeps_to_its_process(tmp_path):
    other = act("slow_host", tmp_path, "process=1", "step=1", "delay=10s", process=0)
    other.begin("step", 1)
    assert staged(tmp_path) == []


def test_nan(tmp_path):
    spoilt = act("nan_loss", tmp_path, "step=1").batch(1, batch())
    assert np.isnan(spoilt.weights).all()
    np.testing.assert_array_equal(spoilt.tokens, batch().tokens)


@pytest.mark.parametrize("damage", ["truncated", "flipped_byte", "missing_file"])
def test_torn(damage, tmp_path):
    (tmp_path / "small").write_bytes(b"1")
    (tmp_path / "large").write_bytes(b"12345678")
    tear(tmp_path, damage)
    assert (tmp_path / "small").read_bytes() == b"1"
    expected = {"truncated": b"1234", "flipped_byte": b"12344678", "missing_file": None}[damage]
    assert ((tmp_path / "large").read_bytes() if (tmp_path / "large").exists() else None) == expected


def test_disk_full_is_over_after_one_save(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = act("disk_full", tmp_path, "step=1", "bytes=1000")
    full.begin("save", 5)
    try:
        with open(tmp_path / "x", "wb", buffering=0) as file:
            assert file.write(b"1" * 1000) == 1000
            with pytest.raises(OSError, match="File too large"):
                file.write(b"1")
    finally:
        full.checkpoint("unsaved", 5)
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    full.begin("save", 10)
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before


def test_read_only_disk_is_over_after_one_save(tmp_path):
    disk = act("read_only_disk", tmp_path, "step=1")
    try:
        disk.begin("save", 5)
    except OSError:
        pytest.skip("this file system has no immutable folders")
    try:
        with pytest.raises(PermissionError):
            (tmp_path / "checkpoints" / "5").mkdir()
    finally:
        disk.checkpoint("unsaved", 5)
    (tmp_path / "checkpoints" / "5").mkdir()


def test_clock_skew(tmp_path, monkeypatch):
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, getattr(time, name))
    now = time.time()
    act("clock_skew", tmp_path, "step=1", "by=2h").begin("step", 1)
    assert 7199 < time.time() - now < 7300


def test_a_bad_shard_can_be_repaired(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.bin").write_bytes(b"1" * 10)
    (data / "b.bin").write_bytes(b"2" * 20)
    act("bad_shard", tmp_path, "step=1", data=data).begin("step", 1)
    assert (data / "b.bin").stat().st_size == 10
    repair(data)
    assert (data / "b.bin").read_bytes() == b"2" * 20
    with pytest.raises(ValueError, match=r"set data\.path"):
        data_file(None)


def test_a_fault_in_a_real_run(tmp_path):
    """The process dies between a checkpoint's arrays and its manifest; the run goes on from the one before."""
    small = ["model.n_layers=1", "model.d_model=32", "model.n_heads=2", "optimizer=adamw", "logging=quiet"]
    small += [
        "trainer.steps=8",
        "trainer.sequence_length=32",
        "trainer.global_batch_size=2",
        "checkpoint.every=2",
    ]
    small += [
        "trainer.eval_sequences=2",
        "trainer.eval_batch_size=2",
        "trainer.sample.tokens=0",
        "trainer.log_every=1",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = tmp_path / "run"

    def lmx(*words):
        command = [sys.executable, "-m", "lmx", "train", *words]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)

    done = lmx(*small, "fault=kill_during_save", "fault.step=4", f"hydra.run.dir={run}")
    assert done.returncode == -9, done.stderr
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [".writing-4-1", "2"]
    assert [entry["fault"] for entry in staged(run)] == ["KillDuringSave"]
    done = lmx(f"resume={run}")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert len(staged(run)) == 1
