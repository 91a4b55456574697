"""Pods with disks of their own behind real sshds: what is pruned there, and a job whose checkpoint is out of reach."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lmx.launch.versions import keep
from lmx.sweep.config import Pool
from lmx.sweep.early import losing_of
from lmx.sweep.enlist import unlike
from lmx.sweep.events import read_events
from tests.launch.programs import kill
from tests.launch.test_ssh import hosts, needs_sshd  # noqa: F401
from tests.sweep.gangs import make_driver, pool_of, ssh_pods
from tests.sweep.support import SMALL, losses, make_sweep, starts, twin_of

needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock (util-linux)")


def lose(hosts, disk: Path, job: int) -> None:  # noqa: F811
    """Host a is gone for good, with the processes of a job on it."""
    hosts[2][0].kill()
    options = next(word for word in hosts[1] if word.startswith("ControlPath"))
    address, _, port = hosts[0][0].rpartition(":")
    subprocess.run(["ssh", "-o", options, "-O", "exit", "-p", port, address], capture_output=True)
    for path in (disk / "launches").glob(f"*-{job}/1/host-0/task-*.pid"):
        kill(path)


@needs_sshd
@needs_flock
@pytest.mark.slow
def test_a_job_whose_checkpoint_is_out_of_reach_waits_for_its_pod_and_begins_anew(
    hosts,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """It is said, and what it computes is what an undisturbed run does."""
    monkeypatch.setenv("CHEAP_PAUSE", "0.5")
    folder, said = tmp_path / "s", []
    sweep = [*SMALL, "trainer.seed=0,1"]
    make_sweep(folder, sweep)
    pods = ssh_pods(hosts, tmp_path, ["disk-a", "disk-b"])
    pool = Pool.model_validate(pool_of(pods, storage="separate", patience=6.0))
    driver = make_driver(folder, pool, say=lambda words: (said.append(words), print(words)))
    killed: list[int] = []

    def losing(_):
        on_a = [n for n, s in driver.states.items() if s.pod == "a" and s.status == "RUNNING"]
        ready = [n for n in on_a if list((tmp_path / "disk-a/runs").glob(f"*-{n}/checkpoints/4"))]
        if ready and not killed:
            killed.append(ready[0])
            lose(hosts, tmp_path / "disk-a", ready[0])
        return []

    driver.hooks = driver.hooks._replace(losing=losing)
    try:
        assert driver.run() == 0
    finally:
        driver.close()
    (job,) = killed
    step = max(e.step or 0 for e in read_events(folder) if e.status == "PREEMPTED")
    assert step >= 2
    assert (driver.states[job].pod, driver.states[job].attempt) == ("b", 2)
    assert any("pod a is not there and gets no more jobs" in words for words in said)
    assert any(
        f"job {job} begins anew on b: its checkpoint (step {step}) is on a/" in words for words in said
    )
    (run,) = (tmp_path / "disk-b/runs").glob(f"*-{job}")
    assert starts(run) == 1
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    twin = twin_of(folder, sweep)
    for number in range(2):
        assert losses(folder / str(number)) == losses(twin / str(number))


@needs_sshd
@needs_flock
def test_asha_ends_the_worse_job_on_its_host(hosts, tmp_path, monkeypatch):  # noqa: F811
    """Its metrics are read from a disk that nothing here sees, and the stop file reaches it: it ends at its next
    checkpoint, the better one goes on."""
    monkeypatch.setenv("CHEAP_PAUSE", "1.5")
    monkeypatch.setattr("lmx.sweep.early._JUDGED_EVERY", 0.5)
    folder = tmp_path / "s"
    plan = make_sweep(folder, [*SMALL, "optimizer.learning_rate=0.05,0.001"])
    rule = {"_target_": "lmx.sweep.Asha", "metric": "eval/loss", "best_is": "lowest", "first": 2, "factor": 2}
    pods = ssh_pods(hosts, tmp_path, ["disk-a", "disk-b"])
    driver = make_driver(folder, Pool.model_validate(pool_of(pods, storage="separate")))
    losing = losing_of(folder, plan._replace(settings={**plan.settings, "stopping": rule}), print)
    driver.hooks = driver.hooks._replace(losing=losing)
    try:
        assert driver.run() == 0
    finally:
        driver.close()
    assert [s.status for s in driver.states.values()] == ["PRUNED", "DONE"]
    assert (driver.states[0].exit_code, driver.states[0].attempt) == (75, 1)
    assert 0 < driver.states[0].step < 10
    assert not (folder / "0/summary.json").exists()


def test_pods_with_other_packages_are_named_with_both_versions(tmp_path):
    for name, jax, files in (
        ("a", "0.10.2", "1"),
        ("b", "0.10.2", None),
        ("c", "0.9.0", "1"),
        ("d", "0.10.2", "2"),
    ):
        (tmp_path / name).mkdir()
        packages = {"jax": jax, "lmx": name}
        keep(tmp_path / name, [(f"{name}1", {"python": "3.12.1", "packages": packages, "lmx_files": files})])
    assert unlike([(name, tmp_path / name) for name in "ab"]) == []  # b is sent a snapshot
    (line,) = unlike([(name, tmp_path / name) for name in "abc"])
    assert line == "pod c: c1 has jax 0.9.0, but 0.10.2 on a1 of pod a; install the same versions"
    (line,) = unlike([(name, tmp_path / name) for name in "ad"])
    assert line == "pod d: d1 has files of lmx 2, but 1 on a1 of pod a; install the same versions"
