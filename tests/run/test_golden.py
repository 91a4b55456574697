"""The first 20 losses of the default run, on synthetic data that is the same on every machine.

`python -m tests.run.test_golden` renews the figures and shows what changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import ROOT

GOLDEN = Path(__file__).with_name("golden_losses.json")
OVERRIDES = [
    "data=synthetic",
    "trainer.global_batch_size=4",
    "trainer.steps=20",
    "trainer.log_every=1",
    "trainer.eval_every=null",
    "trainer.eval_sequences=4",
    "trainer.eval_batch_size=4",
    "trainer.sample.tokens=0",
    "checkpoint=none",
    "logging=quiet",
]


def losses() -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, "-m", "lmx", "train", *OVERRIDES, f"hydra.run.dir={run}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_first_losses_of_the_default_run():
    """To 1 part in 10,000: another processor rounds differently, another computation differs far more."""
    assert losses() == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


if __name__ == "__main__":
    before = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else []
    after = losses()
    for i, loss in enumerate(after):
        old = f"{before[i]:.6f}" if i < len(before) else "-"
        print(f"step {i + 1}: {old} -> {loss:.6f}")
    GOLDEN.write_text(json.dumps([round(loss, 6) for loss in after]) + "\n")
