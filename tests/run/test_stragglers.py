"""The host that the others wait for: its own time, compared with theirs."""

from __future__ import annotations

import json
import time

import pytest

from lmx.io.progress import one_line
from lmx.review import life
from lmx.run.roll_call import RollCall
from lmx.run.stragglers import Account, Stragglers, slowest
from tests.run.test_hosts import SMALL, ended, start


def account(own, wait=0.0):
    return Account(own / 2, own / 2, 0.0, 0.0, wait)


def test_the_one_that_works_longest_is_compared_with_the_median_of_the_others():
    found = slowest({0: account(1.0, 3.0), 1: account(3.0, 1.0), 2: account(1.5, 2.5), 3: account(0.5, 3.5)})
    assert found is not None
    assert (found.process, found.excess, found.part) == (1, 2.0, 0.5)
    assert slowest({0: account(1.0)}) is None
    equal = slowest({0: account(1.0, 3.0), 1: account(1.0, 3.0)})
    assert equal is not None
    assert (equal.process, equal.excess) == (0, 0.0)


def test_time_goes_where_it_was_spent():
    watch = Stragglers(RollCall(), every=1, log_every=2, named=0.1)
    for step in (1, 2):
        for phase, seconds in (("input", 0.02), ("step", 0.04), ("evaluate", 0.1), ("save", 0.01)):
            watch.begin(phase, step)
            time.sleep(seconds)
            watch.end(phase, step)
        time.sleep(0.03)  # waits for the devices
        watch.report(step, {})
        time.sleep(0.02)  # logs
    found = watch.waiting.get()
    assert found is not None
    assert watch.waiting.empty()  # the first step, which is compiled, does not count
    least = {"input": 0.02, "step": 0.04, "save": 0.01, "between": 0.02, "wait": 0.03}
    assert all(getattr(found, kind) >= seconds for kind, seconds in least.items())
    assert found.own + found.wait >= 0.12


def test_it_is_said_where_it_is_much():
    row = {"loss": 1.0, "slowest": {"process": 3, "excess": 0.25, "named": True}}
    assert one_line(row) == "loss 1.0000  process 3 is 250 ms a step slower"
    row["slowest"]["named"] = False
    assert one_line(row) == "loss 1.0000"


@pytest.mark.slow
def test_a_slow_host_is_named_by_two_real_processes(tmp_path):
    run = tmp_path / "run"
    overrides = [*(line for line in SMALL if not line.startswith("trainer.log_every")), "trainer.log_every=5"]
    fault = ["fault=slow_host", "fault.process=1", "fault.step=6", "fault.steps=15", "fault.delay=0.5s"]
    pair = start([*overrides, *fault, "trainer.steps=20", f"hydra.run.dir={run}"], 2, 1)
    for code, _, err in ended(pair):
        assert code == 0, err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [row["slowest"] for row in rows if "slowest" in row]
    last = found[-1]  # of steps 11 to 15: half a second each
    assert (last["process"], last["named"]) == (1, True)
    assert last["host"].startswith("process 1 on ")
    assert last["step"] >= 0.5
    assert "process 1 is " in (run / "log.txt").read_text()
    assert "slowest: process 1 on " in life.text(life.of(run))
