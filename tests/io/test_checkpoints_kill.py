"""A process killed at any moment of a save leaves whole checkpoints behind, and nothing that passes for one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmx.io.checkpoints import Checkpoints
from tests.io.states import abstract, assert_same, config, make_state
from tests.support import ROOT

WIDTH = 256

_SAVES = f"""
import sys
from pathlib import Path
from lmx.io.checkpoints import Checkpoints
from tests.io.states import config, make_state

directory, step = Path(sys.argv[1]), int(sys.argv[2])
checkpoints = Checkpoints(directory, config(keep_last=2, keep_best=0))
while True:
    step += 1
    checkpoints.save(step, make_state(step, width={WIDTH}), meta={{"step": step}})
    print(step, flush=True)  # the one before it is whole now
"""


def kill_while_saving(directory: Path, start: int, chance: random.Random) -> int:
    """Lets a process save from `start` + 1 on, and kills it; returns the newest step known to be whole."""
    command = [sys.executable, "-c", _SAVES, str(directory), str(start)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert child.stdout is not None
    begun = 0
    for _ in range(chance.randint(2, 6)):
        begun = int(child.stdout.readline())
    time.sleep(chance.uniform(0, 0.15))
    child.kill()
    more = child.stdout.read().split()
    child.wait()
    return (int(more[-1]) if more else begun) - 1


def check(directory: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    whole = 0
    for _ in range(rounds):
        whole = kill_while_saving(directory, whole, chance)
        said: list[str] = []
        checkpoints = Checkpoints(directory, config(), warn=said.append)
        restored = checkpoints.restore(abstract(make_state(0, width=WIDTH)))
        assert said == []
        assert restored.step >= whole
        assert restored.meta == {"step": restored.step}
        assert_same(restored.state, make_state(restored.step, width=WIDTH))
        whole = restored.step
    checkpoints.save(whole + 1, make_state(whole + 1), meta={})
    checkpoints.wait()
    assert all(p.name.isdecimal() for p in directory.iterdir())  # leftovers of the killed are gone


def test_killed_at_random_moments(tmp_path: Path) -> None:
    check(tmp_path, rounds=2, seed=random.randrange(1 << 30))


@pytest.mark.slow
def test_killed_often(tmp_path: Path) -> None:
    check(tmp_path, rounds=25, seed=random.randrange(1 << 30))
