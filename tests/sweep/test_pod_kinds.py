"""Sweeps of cheap jobs over pods of every kind: SLURM's daemons, the real gcloud, real sshds, the real kubectl."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.sweep.command import cancel
from lmx.sweep.config import Pool
from tests.launch.kube import Cluster
from tests.launch.programs import until
from tests.launch.test_gke import cluster as kube  # noqa: F401
from tests.launch.test_gke import needs_kubectl, schema  # noqa: F401
from tests.launch.test_slurm import ask, cluster, needs_slurm  # noqa: F401
from tests.launch.test_tpu_vm import (  # noqa: F401
    SPEC,
    gcloud,
    needs_gcloud,
    needs_sshd,
    service,
    sockets,
    storage,
)
from tests.support import read_option
from tests.sweep.gangs import make_driver, pool_of, python
from tests.sweep.support import SMALL, losses, make_sweep, starts, twin_of


def slurm(tmp_path: Path, **changes) -> dict:
    """Two nodes of the cluster."""
    own = {"nodes": 2, "python": python(tmp_path), "code": "installed", "ask_every": "0.3s"}
    return read_option("target", "slurm") | own | changes


def tpu_vm(tmp_path: Path, service, sockets: str, runs: str, **changes) -> dict:  # noqa: F811
    """A spot pod that is made for the sweep, and again where it was taken away."""
    own = {
        "ssh_options": [
            "-p",
            str(service.ssh_port) if service else "22",
            "-o",
            f"ControlPath={sockets}/%C",
            "-o",
            "LogLevel=ERROR",
        ],
        "boot_python": python(tmp_path),
        "python": python(tmp_path),
        "workdir": str(service.disk) if service else "~/lmx",
        "code": "installed",
        "devices": 1,
        "ask_every": "0.2s",
        "connect_timeout": "2s",
        "lost_after": "10s",
        "spot": True,
        "recreate": True,
        "runs": runs,
    }
    return read_option("target", "tpu_vm") | SPEC | own | changes


def taken_away(driver, service, folder: str) -> list[int]:  # noqa: F811
    """Runs the sweep; the TPU pod is taken away once, under a job with a checkpoint. That job."""
    taken: list[int] = []

    def take(_):
        running = [n for n, s in driver.states.items() if s.pod == "t" and s.status == "RUNNING"]
        ready = [n for n in running if list(Path(folder).glob(f"*-{n}/checkpoints/4"))]
        if ready and not taken:
            taken.append(ready[0])
            service.preempt(next(iter(service.queued)))
        return []

    driver.hooks = driver.hooks._replace(losing=take)
    try:
        assert driver.run() == 0
    finally:
        driver.close()
    return taken


@needs_slurm
@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_a_slurm_pod_and_a_tpu_pod_share_the_jobs_and_a_preemption(
    cluster,  # noqa: F811
    service,  # noqa: F811
    sockets,  # noqa: F811
    storage,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """No job waits for the TPU pod while it is made; what it runs when it is taken away goes on from its checkpoint."""
    monkeypatch.setenv("CHEAP_PAUSE", "0.01")
    folder, sweep, said = tmp_path / "s", [*SMALL, "trainer.seed=0,1,2,3,4,5"], []
    make_sweep(folder, sweep)
    twin = twin_of(folder, sweep)
    service.states = ("ACTIVE",)
    pods = {
        "s": slurm(tmp_path, env={"CHEAP_PAUSE": "3.0"}),
        "t": tpu_vm(tmp_path, service, sockets, storage, env={"CHEAP_PAUSE": "0.5"}),
    }
    pool = Pool.model_validate(pool_of(pods, runs=storage, patience=60.0))
    driver = make_driver(folder, pool, say=said.append)
    (job,) = taken_away(driver, service, storage)
    for number in range(6):
        assert losses(folder / str(number)) == losses(twin / str(number))
    state = driver.states[job]
    assert (state.attempt, state.preemptions, state.failures) == (2, 1, 0)
    assert said.index("pod t gets no job until it is ready") < said.index("pod t is ready")
    assert service.queued == {}
    assert any("is deleted" in words for words in said)
    assert not ask("squeue", "--noheader")


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_a_tpu_pod_that_was_taken_away_is_made_again(
    service,  # noqa: F811
    sockets,  # noqa: F811
    storage,  # noqa: F811
    tmp_path,
):
    """Its job waits for it where there is no other, and goes on from its checkpoint; the pod goes with the sweep."""
    folder, said = tmp_path / "s", []
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    service.states = ("ACTIVE",)
    pods = {"t": tpu_vm(tmp_path, service, sockets, storage, env={"CHEAP_PAUSE": "0.5"})}
    driver = make_driver(folder, Pool.model_validate(pool_of(pods, patience=60.0)), say=said.append)
    assert taken_away(driver, service, storage) == [0]
    assert said.count("pod t is ready") == 2
    assert (driver.states[0].attempt, driver.states[0].preemptions) == (2, 1)
    (run,) = Path(storage).glob("s-*-0")
    assert starts(run) == 2
    assert len(losses(folder / "0")[0]) == 10
    assert len(service.made) == 2
    assert service.queued == {}


def prune(driver, folder: Path) -> list[int]:
    """Ends job 0 as soon as it has a checkpoint, as a rule of early stopping would."""
    pruned: list[int] = []

    def losing(_):
        if not pruned and any(folder.glob("checkpoints/*/lmx.json")):
            pruned.append(0)
        return pruned

    driver.hooks = driver.hooks._replace(losing=losing)
    try:
        assert driver.run() == 0
    finally:
        driver.close()
    return pruned


@needs_slurm
def test_a_pruned_job_is_not_started_again_by_slurm(cluster, tmp_path):  # noqa: F811
    """It stops with exit code 75 and a new checkpoint, which SLURM would start again."""
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0,1"])
    pods = {"s": slurm(tmp_path, nodes=1, env={"CHEAP_PAUSE": "0.25"})}
    driver = make_driver(folder, Pool.model_validate(pool_of(pods)))
    assert prune(driver, folder / "0") == [0]
    assert [s.status for s in driver.states.values()] == ["PRUNED", "DONE"]
    assert (driver.states[0].attempt, starts(folder / "0"), starts(folder / "1")) == (1, 1, 1)
    assert not (folder / "0/summary.json").exists()


# ---- gke: a cluster whose pods are processes here


class Kubelet(threading.Thread):
    """Runs the pods of a cluster's JobSets, one process each, and starts them again as their policy says."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:  # noqa: F811
        super().__init__(daemon=True)
        self.cluster, self.folder, self.over = cluster, folder, threading.Event()
        self.processes: dict[str, tuple[str, subprocess.Popen]] = {}
        self.starts: dict[str, int] = {}

    def run(self) -> None:
        while not self.over.wait(0.1):
            with self.cluster.lock:
                for kind, name in list(self.cluster.objects):
                    if kind == "jobsets" and name not in self.starts:
                        self.begin(name)
                for name, (pod, process) in list(self.processes.items()):
                    self.look(name, pod, process)

    def begin(self, name: str) -> None:
        number = self.starts[name] = self.starts.get(name, -1) + 1
        (pod,) = self.cluster.pods(name, restart=number)
        place = self.folder / pod
        place.mkdir(parents=True)
        data = self.cluster.objects["configmaps", name]["data"]
        (place / "config.yaml").write_text(data["config.yaml"])
        text = data["run.sh"].replace("/etc/lmx", str(place)).replace("/dev/termination-log", f"{place}/told")
        spec = self.cluster.objects["pods", pod]["spec"]["containers"][0]
        own = {e["name"]: e["value"] for e in spec.get("env", ()) if "value" in e}
        own |= {"LMX_SLICE": "0", "LMX_RESTART": str(number), "JOB_COMPLETION_INDEX": "0"}
        process = subprocess.Popen(["sh", "-c", text], env=os.environ | own)
        self.processes[name] = (pod, process)
        self.cluster.runs(pod, "began")

    def look(self, name: str, pod: str, process: subprocess.Popen) -> None:
        code, there = process.poll(), ("jobsets", name) in self.cluster.objects
        if code is None:
            if not there:
                process.terminate()
            return
        del self.processes[name]
        self.cluster.ends(pod, code, (self.folder / pod / "told").read_text())
        if there and code == 75:
            self.begin(name)
        elif there:
            self.cluster.finish(name, "Failed" if code else "Completed")
        else:
            threading.Timer(2.0, self.cluster.remove, [pod]).start()


def gke(tmp_path: Path, **changes) -> dict:
    """A slice of one host whose volume is a folder here."""
    own = {"image": "i", "claim": "c", "code": "installed", "topology": "2x2", "ask_every": "0.2s"}
    own |= {"mount": str(tmp_path / "lmx"), "python": python(tmp_path)}
    return read_option("target", "gke") | own | changes


@needs_kubectl
def test_a_gke_pod_runs_jobs_and_ends_a_pruned_one(kube, tmp_path):  # noqa: F811
    """Its JobSet would start again what stops by itself; what the jobs write is read in the volume."""
    (tmp_path / "lmx" / "runs").mkdir(parents=True)
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0,1"])
    kubelet = Kubelet(kube, tmp_path / "pods")
    kubelet.start()
    pods = {"g": gke(tmp_path, env={"CHEAP_PAUSE": "0.6"})}
    pool = pool_of(pods, runs=str(tmp_path / "lmx/runs"))
    driver = make_driver(folder, Pool.model_validate(pool))
    first = next((tmp_path / "s").glob(".pods/identity")).read_text()
    try:
        assert prune(driver, tmp_path / "lmx/runs" / f"{first}-0") == [0]
    finally:
        kubelet.over.set()
        kubelet.join()
    assert [s.status for s in driver.states.values()] == ["PRUNED", "DONE"]
    assert set(kubelet.starts.values()) == {0}
    assert len(losses(folder / "1")[0]) == 10
    assert not kubelet.processes
    assert not any(kind in ("jobsets", "configmaps") for kind, _ in kube.objects)


@needs_kubectl
@pytest.mark.parametrize(
    ("changes", "runs", "words"),
    [
        ({}, None, "name a folder in it, pool.runs=PATH"),
        ({}, "nowhere", "nowhere: there is no such folder here"),
        ({}, "elsewhere", "is not in the volume of the pods"),
        ({"kubectl": "no-kubectl"}, "lmx/runs", "no program 'no-kubectl' here"),
    ],
)
def test_what_a_gke_pod_cannot_is_told_before_anything_starts(kube, tmp_path, changes, runs, words):  # noqa: F811
    for name in ("lmx/runs", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    pods = {"g": gke(tmp_path, **changes)}
    pool = pool_of(pods, runs=None if runs is None else str(tmp_path / runs))
    with pytest.raises(RequestError) as error:
        make_driver(folder, Pool.model_validate(pool))
    assert "no job was started:\n    pod g: " in str(error.value)
    assert words in str(error.value)
    assert not kube.objects


def test_a_machine_is_in_one_pod(tmp_path):
    ssh = read_option("target", "ssh")
    one = tpu_vm(tmp_path, None, "", "/mnt/runs", name="ours")
    pods = {"a": ssh | {"hosts": ["h1", "h2"]}, "b": ssh | {"hosts": ["h2"]}, "c": one, "d": one}
    found = Pool.model_validate(pool_of(pods)).problems()
    assert [(key, words) for key, words, _ in found] == [
        ("pool.pods.b", "host h2 is in pods a and b; it is in one"),
        ("pool.pods.d", f"TPU pod ours in {SPEC['zone']} is in pods c and d; it is in one"),
    ]


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_a_pod_that_is_given_back_while_someone_waits_for_it_is_not_made_again(
    service,  # noqa: F811
    sockets,  # noqa: F811
    storage,  # noqa: F811
    tmp_path,
):
    """The driver was killed, a process of it still waits for the pod: `lmx sweep cancel` ends that too."""
    service.states = ("WAITING_FOR_RESOURCES",)
    folder = tmp_path / "s"
    make_sweep(folder, [*SMALL, "trainer.seed=0"])
    pool = Pool.model_validate(pool_of({"t": tpu_vm(tmp_path, service, sockets, storage)}, runs=storage))
    pool.enlist(folder, {}, 5.0)
    (pod,) = folder.glob(".pods/t-*")
    waiting = subprocess.Popen([sys.executable, "-m", "lmx.sweep.launched", "check", str(pod)])
    until(lambda: service.queued, 60)
    assert cancel(folder, 5.0).startswith("nothing runs\nqueued resource lmx-")
    assert waiting.wait(60) == 1
    assert service.queued == {}
    assert len(service.made) == 1
