"""A run that stops making steps: when that is seen, who is named, and how the process ends."""

from __future__ import annotations

import subprocess
import sys

from lmx.run.watchdog import Watchdog
from lmx.run.watchdog_config import Watchdog as Config
from tests.support import ROOT, read_option


def watchdog(folder, **changes):
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(OmegaConf.create(read_option("watchdog", "default", changes)), resolve=True)
    return Watchdog(Config.model_validate(tree), folder)


def test_the_limit_follows_the_usual_step(tmp_path):
    dog = watchdog(tmp_path, at_least="1s", factor=10)
    assert dog.limit() is None
    dog.times.extend([0.01, 0.02, 0.03])
    assert dog.limit() == 1.0
    dog.times.extend([2.0, 2.0, 2.0, 2.0])
    assert dog.limit() == 20.0
    assert watchdog(tmp_path, factor=None).limit() is None


def test_phases_have_limits_of_their_own(tmp_path):
    dog = watchdog(tmp_path, at_least="1s", factor=10, saving="7s")
    dog.times.extend([0.01, 0.02, 0.03])
    limits = {}
    for phase in ("input", "step", "compile", "evaluate", "sample", "restore", "save", "finish"):
        dog.begin(phase, 4)
        limits[phase] = dog.limit()
        dog.end(phase, 4)
    assert limits == dict.fromkeys(("input", "step"), 1.0) | dict.fromkeys(
        ("save", "finish"), 7.0
    ) | dict.fromkeys(("compile", "evaluate", "sample", "restore"))
    dog = watchdog(tmp_path, at_least="1s", saving=None)
    dog.times.append(0.01)
    dog.begin("finish", 4)
    assert dog.limit() is None


def test_the_slow_one_is_named(tmp_path):
    dog = watchdog(tmp_path)
    dog.calls.count = 3
    dog.calls.names |= {1: "process 1 on b", 2: "process 2 on c"}
    assert dog._blame({0: "7 1", 1: "7 0", 2: "7 1"}) == "process 1 on b is behind the others, at step 7"
    assert dog._blame({0: "7 1", 1: "7 1"}) == "process 2 on c does not answer"
    assert (
        dog._blame({0: "7 1", 1: "7 1", 2: "7 1"}) == "no process is behind the others; step 7 does not end"
    )


def test_a_hang_ends_with_75_and_the_stacks(tmp_path):
    program = """
import sys, time
from pathlib import Path
from tests.run.test_watchdog import watchdog
dog = watchdog(Path(sys.argv[1]), at_least="0.2s", factor=2)
dog.start(0, 10)
for step in (1, 2, 3):
    dog.begin("step", step); dog.end("step", step); dog.report(step, {})
for phase in ("evaluate", "save"):
    dog.begin(phase, 3)
    time.sleep(0.6)                # not watched, and with a limit of its own
    dog.end(phase, 3)
dog.begin("step", 4)
def stuck_here(): time.sleep(60)
stuck_here()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 75, done.stderr
    assert "step 4 does not end" in done.stderr
    assert f"lmx train resume={tmp_path}" in done.stderr
    assert "in stuck_here" in (tmp_path / "log.txt").read_text()
    assert '"stopped"' in (tmp_path / "summary.json").read_text()
