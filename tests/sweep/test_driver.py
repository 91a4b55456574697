import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from lmx.config.errors import ConfigError, RequestError
from lmx.io.journal import driver
from lmx.run.config import TrainConfig
from lmx.sweep.command import refuse_changed
from lmx.sweep.events import Event, Log, read_events, states
from lmx.sweep.freeze import code_state, freeze, points
from lmx.sweep.plan import attempt_dir, read_plan, write_plan
from lmx.sweep.pods import members
from tests.sweep.support import drive, make_driver, make_sweep

SMALL = ["trainer.steps=6", "model=tiny"]


@pytest.fixture(scope="module")
def frozen_eight():
    return points("train", TrainConfig, [*SMALL, "trainer.seed=0,1,2,3", "optimizer.learning_rate=1e-3,2e-3"])


def test_frozen_points_are_distinct_and_name_what_varies(frozen_eight):
    frozen = freeze([*frozen_eight, frozen_eight[3]])
    assert [job.number for job in frozen.jobs] == list(range(8))
    assert frozen.duplicates == 1
    assert frozen.varied == ["trainer.seed", "optimizer.learning_rate"]
    assert len({job.hash for job in frozen.jobs}) == 8


def test_jobs_of_one_program_follow_one_another_on_one_pod(tmp_path, monkeypatch):
    make_sweep(tmp_path, ["trainer.steps=4", "trainer.seed=0,1", "model.n_layers=1,2"])
    plan = read_plan(tmp_path)
    layers = [plan.jobs[number].config["model"]["n_layers"] for number in plan.order]
    assert layers == [1, 1, 2, 2]
    monkeypatch.setenv("CHEAP_PAUSE", "0.1")
    assert drive(tmp_path, size=2)[0] == 0
    pods = {1: set(), 2: set()}
    for event in read_events(tmp_path):
        if event.status == "LEASED":
            pods[plan.jobs[event.job].config["model"]["n_layers"]].add(event.pod)
    assert pods in ({1: {"local-0"}, 2: {"local-1"}}, {1: {"local-1"}, 2: {"local-0"}})


def test_other_code_than_that_of_the_freeze_is_refused(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=0"])
    plan = read_plan(tmp_path)._replace(code=code_state())
    refuse_changed(tmp_path, plan)
    (name, state), *_ = [item for item in plan.code.items() if item[0] != "packages"]
    before = plan._replace(code={**plan.code, name: {**state, "commit": "abc"}})
    with pytest.raises(RequestError, match=r"commit abc then.*\n(.|\n)*changed_code=accept"):
        refuse_changed(tmp_path, before)
    other = plan._replace(code={**plan.code, name: {**state, "diff_sha256": "abc"}})
    with pytest.raises(RequestError, match="what is not committed is not the same"):
        refuse_changed(tmp_path, other)
    packages = plan._replace(code={**plan.code, "packages": {**plan.code["packages"], "jax": "0.0.1"}})
    with pytest.raises(RequestError, match=rf"{platform.node()}: jax 0\.0\.1 then, \S+ now"):
        refuse_changed(tmp_path, packages)


def test_every_bad_point_is_listed():
    with pytest.raises(ConfigError) as caught:
        points("train", TrainConfig, ["model.n_layers=2,x", "trainer.steps=5,-1"])
    assert {p.key for p in caught.value.problems} == {"model.n_layers", "trainer.steps"}


def test_plan_comes_back_from_disk_and_is_not_overwritten(tmp_path):
    plan = make_sweep(tmp_path / "s", [*SMALL, "trainer.seed=0,1"])
    assert read_plan(tmp_path / "s") == plan
    with pytest.raises(RequestError, match="a sweep is there already"):
        write_plan(tmp_path / "s", plan)
    with pytest.raises(RequestError, match=r"no sweep\.json"):
        read_plan(tmp_path)


def test_all_jobs_are_done_each_once(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=0,1,2"])
    code, done = drive(tmp_path)
    assert code == 0
    assert [s.status for s in done.states.values()] == ["DONE"] * 3
    assert states(range(3), read_events(tmp_path)) == done.states
    code, _ = drive(tmp_path)
    assert code == 0
    assert all(len((tmp_path / str(i) / "starts").read_text().split()) == 1 for i in range(3))


def test_failures_are_tried_again_and_bad_requests_are_not(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=666,2222,1"])
    said = []
    code, done = drive(tmp_path, max_failures=1, say=said)
    assert code == 1
    assert [s.status for s in done.states.values()] == ["FAILED", "FAILED", "DONE"]
    assert [s.attempt for s in done.states.values()] == [2, 1, 1]
    assert "planted failure" in (done.states[0].reason or "")
    assert "planted bad request" in (done.states[1].reason or "")
    assert any(line.startswith("1 of 3 jobs done, 2 failed") for line in said)
    code, done = drive(
        tmp_path, max_failures=2
    )  # a larger budget opens the failed job again, not the bad request
    assert [s.attempt for s in done.states.values()] == [3, 1, 1]


def test_a_result_of_another_configuration_is_no_result(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=0"])
    drive(tmp_path)
    config = tmp_path / "0" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))
    again = make_driver(tmp_path)
    again.close()
    assert again.states[0].status == "PENDING"


def test_two_drivers_are_refused(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=0"])
    first = make_driver(tmp_path)
    with pytest.raises(RequestError, match=f"driven by process {os.getpid()}"):
        make_driver(tmp_path)
    first.close()
    assert driver(tmp_path) is None


def test_an_unfinished_line_of_the_log_is_left_out_and_what_follows_is_whole(tmp_path):
    with open(tmp_path / "events.jsonl", "w") as stream:
        stream.write(json.dumps({"job": 0, "status": "LEASED", "attempt": 1}) + '\n{"job": 0, "sta')
    log = Log(tmp_path)
    log.write(Event(0, "RUNNING", attempt=1), Event(1, "PENDING"))
    log.close()
    assert [e.status for e in read_events(tmp_path)] == ["LEASED", "RUNNING", "PENDING"]


def wait_for(condition, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_job_goes_on_from_its_checkpoint_and_a_cancelled_sweep_leaves_no_process(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("CHEAP_PAUSE", "0.5")
    make_sweep(tmp_path, ["trainer.steps=12", "trainer.seed=0,1"])
    one = subprocess.Popen([sys.executable, "-m", "tests.sweep.drive", str(tmp_path), "2"])
    try:
        wait_for(lambda: (tmp_path / "0/checkpoints/2").exists() and (tmp_path / "1/checkpoints/2").exists())
        for pid in members(attempt_dir(tmp_path, 0, 1)):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: attempt_dir(tmp_path, 0, 2).joinpath("pid").exists())
        (tmp_path / "cancel").touch()
        assert one.wait(30) == 75
    finally:
        one.kill()
    assert not members(attempt_dir(tmp_path, 0, 2))
    assert not members(attempt_dir(tmp_path, 1, 1))
    found = states(range(2), read_events(tmp_path))
    assert [s.status for s in found.values()] == ["PENDING", "PENDING"]
    assert found[0].preemptions == 1
    assert found[1].preemptions == 0
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    assert drive(tmp_path)[0] == 0
    for job in ("0", "1"):
        rows = [
            json.loads(line)["step"] for line in (tmp_path / job / "metrics.jsonl").read_text().splitlines()
        ]
        assert rows == list(range(1, 13))


def test_a_new_driver_finds_the_jobs_of_a_killed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEAP_PAUSE", "0.2")
    make_sweep(tmp_path, ["trainer.steps=12", "trainer.seed=0,1"])
    one = subprocess.Popen([sys.executable, "-m", "tests.sweep.drive", str(tmp_path), "2"])
    wait_for(lambda: (tmp_path / "0/checkpoints/2").exists())
    one.kill()
    one.wait()
    code, done = drive(tmp_path)
    assert code == 0
    assert [s.attempt for s in done.states.values()] == [1, 1]
    assert all(len((tmp_path / str(i) / "starts").read_text().split()) == 1 for i in range(2))


def test_a_lease_that_never_started_is_started_by_the_next_driver(tmp_path):
    make_sweep(tmp_path, [*SMALL, "trainer.seed=0"])
    log = Log(tmp_path)
    log.write(Event(0, "LEASED", attempt=1, pod="local-0"))
    log.close()
    code, done = drive(tmp_path)
    assert code == 0
    assert done.states[0].attempt == 2


def test_a_job_that_is_behind_ends_at_its_checkpoint_and_is_pruned(tmp_path):
    make_sweep(tmp_path, ["trainer.steps=40", "trainer.seed=0,1"])
    code, done = drive(tmp_path, losing=lambda driver: [n for n in driver.active() if n == 1])
    assert code == 0
    assert [s.status for s in done.states.values()] == ["DONE", "PRUNED"]
    assert done.states[1].step < 40
    assert drive(tmp_path)[1].states[1].attempt == 1
