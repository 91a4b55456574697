"""`lmx verify mesh=a,b`: the command is found, and options with commas between them become a list."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmx.cli.commands import command, find
from tests.support import ROOT


def test_the_mesh_alone_tells_the_command():
    assert find(["verify", "mesh=single,fsdp"]) == ("verify mesh", ["mesh=single,fsdp"])
    assert find(["verify", "experiment=quickstart"]) == ("verify mesh", ["experiment=quickstart"])
    assert find(["verify", "mesh", "mesh=a"]) == ("verify mesh", ["mesh=a"])


def test_options_are_listed_and_the_first_is_chosen():
    lines = command("verify mesh").with_implied(["mesh=single,fsdp", "trainer.seed=1"])
    assert lines == ["mesh=single", "meshes=[single,fsdp]", "trainer.seed=1"]
    assert command("train").with_implied(["mesh=a,b"]) == ["mesh=a,b"]


def descendants(pid):
    """Processes below one, of any depth."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in below] + [deep for child in below for deep in descendants(child)]


@pytest.mark.parametrize("proof", ["soak", "resume"])
def test_sigterm_ends_the_runs_that_a_proof_has_started(tmp_path, proof):
    process = subprocess.Popen(
        [sys.executable, "-m", "lmx", "verify", proof],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        after = time.monotonic() + 120
        while not (runs := descendants(process.pid)):
            assert time.monotonic() < after
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert [pid for pid in runs if Path(f"/proc/{pid}").exists()] == []
