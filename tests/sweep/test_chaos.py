"""24 jobs over 4 pods, with jobs and drivers killed: all done, each as if nothing had happened, none done twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from lmx.config.overrides import write_value
from lmx.sweep.events import read_events, states
from lmx.sweep.plan import attempt_dir, read_plan, write_plan
from lmx.sweep.pods import members
from tests.sweep.support import drive, environment, losses, make_sweep

JOBS, PODS, KILLS = 24, 4, 6
SMALL = """
data=synthetic data.examples=64 data.eval_examples=8 model=tiny model.n_layers=1 model.d_model=64 model.n_heads=1
optimizer=adamw trainer.sequence_length=16 trainer.global_batch_size=2 trainer.eval_every=null trainer.sample.tokens=0
logging=quiet trainer.steps=60 checkpoint.every=10
"""


def torment(folder, start, *, seed, timeout):
    """Runs a sweep to its end while killing running jobs and drivers, in turn; the last driver's exit code.

    Each kill waits until a number of jobs is done, however long that takes.
    """
    rng = random.Random(seed)
    due = sorted(rng.sample(range(1, JOBS - PODS), KILLS))
    process, kills, after = start(), 0, time.monotonic() + timeout
    while (code := process.poll()) is None:
        assert time.monotonic() < after, "the sweep does not end"
        time.sleep(0.05)
        found = states(range(JOBS), read_events(folder))
        if kills == KILLS or sum(state.status == "DONE" for state in found.values()) < due[kills]:
            continue
        if kills % 3 == 2:
            process.kill()
            process.wait()
            process = start()
            kills += 1
            continue
        running = [(n, s) for n, s in found.items() if s.status == "RUNNING"]
        if running:
            number, state = rng.choice(running)
            alive = members(attempt_dir(folder, number, state.attempt))
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            kills += bool(alive)
    return code, kills


def check(folder, twin):
    events = read_events(folder)
    found = states(range(JOBS), events)
    assert [state.status for state in found.values()] == ["DONE"] * JOBS
    for number in range(JOBS):
        own = [event for event in events if event.job == number]
        done = [event for event in own if event.status == "DONE"]
        assert len(done) == 1
        assert own[-1] is done[0], "a job that was done ran again"
        assert losses(folder / str(number)) == losses(twin / str(number))
        assert not members(attempt_dir(folder, number, found[number].attempt))
    assert sum(state.attempt for state in found.values()) > JOBS, "nothing was disturbed"


def test_cheap_jobs(tmp_path, monkeypatch):
    sweep = [f"trainer.seed={','.join(map(str, range(JOBS)))}", "trainer.steps=10"]
    chaos, twin = tmp_path / "chaos", tmp_path / "twin"
    make_sweep(chaos, sweep)
    write_plan(twin, read_plan(chaos))
    monkeypatch.setenv("CHEAP_PAUSE", "0.001")
    assert drive(twin, size=PODS)[0] == 0
    monkeypatch.setenv("CHEAP_PAUSE", "0.1")
    command = [sys.executable, "-m", "tests.sweep.drive", str(chaos), str(PODS)]
    start = lambda: subprocess.Popen(command)
    code, kills = torment(chaos, start, seed=1, timeout=180)
    assert (code, kills) == (0, KILLS)
    check(chaos, twin)


@pytest.mark.slow
def test_real_training(tmp_path):
    sweep = [
        *SMALL.split(),
        f"trainer.seed={','.join(map(str, range(JOBS // 2)))}",
        "optimizer.learning_rate=1e-3,2e-3",
    ]
    where = {name: tmp_path / name for name in ("chaos", "twin")}
    lmx = [sys.executable, "-m", "lmx", "sweep"]

    def run(name):
        words = [*lmx, "run", *sweep, f"dir={write_value(str(where[name]))}", f"pool.size={PODS}"]
        return subprocess.Popen(words, cwd=tmp_path, env=environment())

    assert run("twin").wait() == 0

    def start():
        if not (where["chaos"] / "sweep.json").exists():
            return run("chaos")
        return subprocess.Popen([*lmx, "resume", str(where["chaos"])], cwd=tmp_path, env=environment())

    code, kills = torment(where["chaos"], start, seed=2, timeout=3600)
    assert (code, kills) == (0, KILLS)
    check(where["chaos"], where["twin"])
