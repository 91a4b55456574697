"""Sweeps of cheap jobs over launch targets: gangs of two processes on this machine, and hosts behind real sshds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from lmx.config.errors import RequestError
from lmx.sweep.config import Pool
from lmx.sweep.events import read_events, states
from lmx.sweep.plan import attempt_dir
from lmx.sweep.pods import members
from tests.launch.programs import kill, until
from tests.launch.test_ssh import hosts, needs_sshd  # noqa: F401
from tests.support import read_option
from tests.sweep.gangs import local, make_driver, pool_of, ssh_pods
from tests.sweep.support import SMALL, losses, make_sweep, starts, twin_of


def run(folder, pool, **options):
    driver = make_driver(folder, Pool.model_validate(pool), **options)
    try:
        return driver.run(), driver
    finally:
        driver.close()


def processes_of(folder):
    """The processes of all attempts on hosts, by the marks that the agents left."""
    found = {}
    for path in folder.rglob("task-*.pid"):
        identity = json.loads(path.read_text())
        with contextlib.suppress(OSError):
            os.kill(identity["pid"], 0)
            found[path] = identity["pid"]
    return found


def test_gangs_share_the_jobs_and_leave_results_where_a_sweep_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    folder, sweep = tmp_path / "s", [*SMALL, "trainer.seed=0,1,2"]
    make_sweep(folder, sweep)
    twin = twin_of(folder, sweep)
    code, done = run(folder, pool_of({"a": local(tmp_path), "b": local(tmp_path)}))
    assert code == 0
    assert {s.pod for s in done.states.values()} == {"a", "b"}
    for number in range(3):
        assert losses(folder / str(number)) == losses(twin / str(number))
        assert starts(folder / str(number)) == 1
        assert (attempt_dir(folder, number, 1) / "launch/attempts/1/task-1.exit").exists()
    assert not processes_of(folder)


@pytest.mark.slow
def test_failures_are_told_in_the_jobs_own_words(tmp_path):
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=666,2222"])
    code, done = run(folder, pool_of({"a": local(tmp_path)}), max_failures=1)
    assert code == 1
    assert [s.status for s in done.states.values()] == ["FAILED", "FAILED"]
    assert [s.attempt for s in done.states.values()] == [2, 1]
    assert "planted failure" in done.states[0].reason
    assert "planted bad request" in done.states[1].reason


def start(tmp_path, folder, pool):
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(pool))
    words = [sys.executable, "-m", "tests.sweep.gangs", str(folder), str(tmp_path / "pool.yaml")]
    return subprocess.Popen(words)


def test_whoever_is_killed_nothing_runs_twice(tmp_path, monkeypatch):
    """The sweep's driver and the processes beside it die; the job on the hosts is found again, still running."""
    monkeypatch.setenv("CHEAP_PAUSE", "0.25")
    folder, sweep = tmp_path / "s", [*SMALL, "trainer.seed=0"]
    make_sweep(folder, sweep)
    pool = pool_of({"a": local(tmp_path)})
    one = start(tmp_path, folder, pool)
    until(lambda: (folder / "0/checkpoints/2").exists(), 60)
    one.kill()
    one.wait()
    for pid in members(attempt_dir(folder, 0, 1) / "driver-1"):
        os.kill(pid, signal.SIGKILL)
    assert len(processes_of(folder)) == 2
    code, done = run(folder, pool)
    assert (code, done.states[0].attempt) == (0, 1)
    assert (attempt_dir(folder, 0, 1) / "driver-2").exists()
    assert starts(folder / "0") == 1
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    assert losses(folder / "0") == losses(twin_of(folder, sweep) / "0")


@pytest.mark.slow
def test_a_cancelled_sweep_saves_on_the_hosts_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEAP_PAUSE", "0.25")
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    pool = pool_of({"a": local(tmp_path)})
    one = start(tmp_path, folder, pool)
    until(lambda: (folder / "0/checkpoints/2").exists(), 60)
    (folder / "cancel").touch()
    assert one.wait(30) == 75
    assert not processes_of(folder)
    assert not (folder / "0/summary.json").exists()
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    code, done = run(folder, pool)
    assert (code, done.states[0].preemptions) == (0, 0)
    steps = [json.loads(line)["step"] for line in (folder / "0/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))


def test_nothing_starts_where_one_pod_cannot(tmp_path):
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    ssh = read_option("target", "ssh") | {"hosts": ["nobody.invalid"], "code": "installed"}
    with pytest.raises(RequestError, match=r"no job was started:\n\s+pod b: (.|\n)*nobody\.invalid"):
        run(folder, pool_of({"a": local(tmp_path), "b": ssh}))
    assert not list((folder / ".pods").glob("a-*"))


def test_a_pod_that_starts_nothing_gets_no_more_and_costs_the_jobs_nothing(tmp_path):
    folder, said = tmp_path / "s", []
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    code, done = run(folder, pool_of({"a": local(tmp_path, python="/nowhere/python")}), say=said.append)
    assert code == 1
    assert (done.states[0].status, done.states[0].failures) == ("PENDING", 0)
    assert any("set target.python" in line or "/nowhere/python" in line for line in said)
    assert said[-1].startswith("no pod is left")


# ---- hosts behind sshds, each with a disk of its own or one for all


@needs_sshd
def test_disks_that_are_not_shared_are_refused_or_begun_anew(hosts, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    pods = ssh_pods(hosts, tmp_path, ["disk-a", "disk-b"])
    with pytest.raises(
        RequestError, match=r"do not reach the same run directories \(a: the disk of a/.*pool\.runs="
    ):
        run(folder, pool_of(pods))
    shared = pool_of(pods, runs=str(tmp_path / "nfs"))
    assert Pool.model_validate(shared).enlist(folder, {}, 5.0) == []


@needs_sshd
@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock (util-linux)")
def test_a_pod_lost_for_good_and_its_job_ends_elsewhere(hosts, tmp_path, monkeypatch):  # noqa: F811
    """Pod a dies with all its processes; what it ran goes on on b from the checkpoint, and is the undisturbed run."""
    monkeypatch.setenv("CHEAP_PAUSE", "0.2")
    folder, sweep = tmp_path / "s", [*SMALL, "trainer.seed=0,1"]
    make_sweep(folder, sweep)
    pods = ssh_pods(hosts, tmp_path, ["work", "work"])
    driver = make_driver(folder, Pool.model_validate(pool_of(pods)))
    killed = []

    def losing(_):
        on_a = [n for n, s in driver.states.items() if s.pod == "a" and s.status == "RUNNING"]
        ready = [n for n in on_a if list((tmp_path / "work/runs").glob(f"*-{n}/checkpoints/4"))]
        if ready and not killed:
            killed.append(ready[0])
            hosts[2][0].kill()
            options = next(word for word in hosts[1] if word.startswith("ControlPath"))
            address, _, port = hosts[0][0].rpartition(":")
            subprocess.run(["ssh", "-o", options, "-O", "exit", "-p", port, address], capture_output=True)
            for path in (tmp_path / "work/launches").glob(f"*-{ready[0]}/1/host-0/*.pid"):
                kill(path)
        return []

    driver.hooks = driver.hooks._replace(losing=losing)
    try:
        assert driver.run() == 0
    finally:
        driver.close()
    assert killed
    state = driver.states[killed[0]]
    assert (state.pod, state.attempt, state.preemptions) == ("b", 2, 1)
    lost = [e for e in read_events(folder) if e.status == "PREEMPTED"]
    assert "has not answered" in lost[0].reason
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    twin = twin_of(folder, sweep)
    for number in range(2):
        assert losses(folder / str(number)) == losses(twin / str(number))
    found = states(range(2), read_events(folder))
    assert [s.status for s in found.values()] == ["DONE", "DONE"]


JOBS, KILLS = 24, 6


def victims(folder, kind):
    """A running job, and processes to kill: those of its gang on its hosts, or the one that looks after it here."""
    running = [(n, s) for n, s in states(range(JOBS), read_events(folder)).items() if s.status == "RUNNING"]
    for number, state in sorted(running, key=lambda pair: pair[1].began):
        if (folder / str(number) / "checkpoints/8").exists():
            continue  # it may be done by the time it is killed
        attempt = attempt_dir(folder, number, state.attempt)
        if kind == "hosts":
            found = list(processes_of(attempt).values())
        else:
            found = [pid for driver in attempt.glob("driver-*") for pid in members(driver)]
        if found:
            return number, found
    return None, []


@pytest.mark.slow
def test_24_jobs_over_4_gangs_with_6_kills(tmp_path, monkeypatch):
    """Kills of whole gangs, of the processes beside the driver, and of the driver: nothing that was done runs again."""
    sweep = [f"trainer.seed={','.join(map(str, range(JOBS)))}", "trainer.steps=10"]
    folder = tmp_path / "s"
    make_sweep(folder, sweep)
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    twin = twin_of(folder, sweep)
    monkeypatch.setenv("CHEAP_PAUSE", "0.3")
    pool = pool_of({name: local(tmp_path) for name in "abcd"})
    process, kills, begun_again = start(tmp_path, folder, pool), 0, []
    kinds = ["hosts", "launcher", "driver"] * (KILLS // 3)
    while True:
        try:
            assert process.wait(1.5) == 0
            break
        except subprocess.TimeoutExpired:
            pass
        if kills < KILLS and kinds[kills] == "driver":
            process.kill()
            process.wait()
            process = start(tmp_path, folder, pool)
            kills += 1
        elif kills < KILLS:
            number, found = victims(folder, kinds[kills])
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if found and kinds[kills] == "hosts":
                begun_again.append(number)
            kills += bool(found)
    assert kills == KILLS
    events = read_events(folder)
    for number in range(JOBS):
        own = [event for event in events if event.job == number]
        assert [event.status for event in own].count("DONE") == 1
        assert own[-1].status == "DONE"
        assert losses(folder / str(number)) == losses(twin / str(number))
        # Only killed gangs began again. One may be killed before its job has begun.
        assert starts(folder / str(number)) <= 1 + begun_again.count(number)
    assert {e.job for e in events if e.status == "PREEMPTED"} >= set(begun_again)
    assert not processes_of(folder)
