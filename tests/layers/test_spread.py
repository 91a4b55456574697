"""The loss over a mesh: the same values and gradients, and one sum over devices however many chunks."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import ROOT


def test_over_eight_devices():
    done = subprocess.run(
        [sys.executable, "-m", "tests.layers.spread_on_eight"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
