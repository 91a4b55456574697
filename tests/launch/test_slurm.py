"""Target `slurm` against real daemons of SLURM on this machine, which the tests start and end; as root alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.launch import look, slurm
from lmx.launch.drive import drive
from lmx.launch.plan import Plan, freeze, load, load_target
from lmx.launch.slurm_job import Job, parse
from lmx.launch.slurm_script import clock, directives, job_script, task_script
from lmx.launch.target import Attempt, log_file, read
from tests.launch.programs import CHECKPOINT, POLICY, stub, until
from tests.support import ROOT, read_option

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
MISSING = [
    name for name in PROGRAMS if shutil.which(name, path=f"{os.environ.get('PATH')}:/usr/sbin") is None
]
needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.getuid() != 0,
    reason=f"needs root and SLURM's daemons (apt install slurm-wlm munge); missing: {', '.join(MISSING) or 'root'}",
)

NODES = ("n1", "n2")


def configuration(folder: Path, ports: list[int]) -> str:
    """Two nodes on this machine."""
    host = socket.gethostname()
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # A job is started again only when its former credentials are void.
        "AuthInfo": f"socket={folder}/munge.socket,cred_expire=5",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool.%n",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/slurmd.%n.pid",
        "SlurmctldLogFile": f"{folder}/slurmctld.log",
        "SlurmdLogFile": f"{folder}/slurmd.%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SlurmdParameters": "config_overrides",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "ReturnToService": 2,
        "KillWait": 5,
        "SlurmdTimeout": 30,
        "SchedulerParameters": "sched_min_interval=100000,batch_sched_delay=0",
    }
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 State=UNKNOWN"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    partition = "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
    return "\n".join([*(f"{k}={v}" for k, v in lines.items()), *nodes, partition, ""])


@pytest.fixture(scope="module")
def cluster():
    """A munged, a slurmctld and two slurmds, found by SLURM_CONF; all end with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="lmx-slurm-"))  # a short path: sockets have no long names
    before, daemons = dict(os.environ), []

    def begin(*words: str) -> None:
        log = (folder / "daemons.log").open("a")
        daemons.append(subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    try:
        prepare(folder)
        os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        names = {
            "key-file": "key",
            "socket": "munge.socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        begin("munged", "--foreground", "--force", *(f"--{k}={folder}/{name}" for k, name in names.items()))
        until((folder / "munge.socket").exists)
        begin("slurmctld", "-D", "-c")
        # Processes find each other by the names of the nodes, which nobody but theirs needs to know.
        for node in NODES:
            words = 'mount --bind hosts /etc/hosts && exec slurmd -D -N "$1"'
            begin("unshare", "--mount", "sh", "-c", words, "sh", node)
        until(lambda: ask("sinfo", "--noheader", "--format=%T %D") == "idle 2", 60)
        yield folder
    finally:
        ask("scancel", "--user=root")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def prepare(folder: Path) -> None:
    """The files of the daemons."""
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    (folder / "slurm.conf").write_text(configuration(folder, ports))
    (folder / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} {' '.join(NODES)}\n")
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def tree_of(tmp_path: Path, program: str | None = None, **changes) -> dict:
    python = sys.executable if program is None else stub(tmp_path, program)
    given = {
        "python": python,
        "code": "installed",
        "nodes": 2,
        "ask_every": "0.2s",
        "env": {"PYTHONPATH": str(ROOT)},
    }
    return read_option("target", "slurm") | given | changes


def launched(tmp_path: Path, tree: dict, policy=POLICY):
    run_dir = tmp_path / "run"
    freeze(
        {"name": "x"}, folder=run_dir / "launch", run_dir=run_dir, target=tree, policy=policy, environment={}
    )
    return load(run_dir / "launch")


def run(given):
    said, shown = [], []
    ended = drive(given, say=said.append, show=shown.append)
    return ended, "\n".join(said), "".join(shown)


# ---- without SLURM


def plain(tmp_path: Path, **changes):
    target = load_target(read_option("target", "slurm") | changes)
    return target, Plan("r", tmp_path / "r" / "launch", str(tmp_path / "r"), {"A": "1 2"}, "abc")


def test_the_options_of_a_job(tmp_path):
    changes = {
        "partition": "gpu",
        "account": "us",
        "nodes": 4,
        "processes": 8,
        "gpus": 8,
        "cpus": 6,
        "memory": "0",
    }
    target, plan = plain(
        tmp_path, time="12h30m", options=["--constraint=a100|h100", "--comment=a b"], **changes
    )
    words = directives(target, plan, 0)
    for word in (
        "--partition=gpu",
        "--account=us",
        "--nodes=4",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=6",
        "--mem=0",
        "--time=12:30:00",
        "--signal=TERM@120",
        "--requeue",
        "--open-mode=append",
        "--comment=a b",
    ):
        assert word in words
    script = job_script(target, plan, 0)
    assert "#SBATCH '--constraint=a100|h100'\n" in script
    assert "export A='1 2'\n" in script
    assert f"export PYTHONPATH={plan.folder}/code" in script


@pytest.mark.parametrize(
    "changes",
    [{}, {"setup": "module load x; true"}, {"requeue": False}, {"code": "installed"}, {"code": "~/a b"}],
)
def test_the_scripts_are_scripts(tmp_path, changes):
    target, plan = plain(tmp_path, **changes)
    for text in (job_script(target, plan, 3), task_script(target, plan, 3)):
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        assert "{" not in text.replace("${", "").replace("() {", "").replace('"{\\"', "")
    assert ("scontrol requeue" in job_script(target, plan, 3)) == target.requeue


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk is mounted by root")
def test_the_exit_code_of_a_process_is_kept_where_its_disk_is_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    try:
        program = f"dd if=/dev/zero of={disk}/fill bs=1M 2>/dev/null; echo lost > {disk}/lost; exit 3"
        target, plan = plain(disk, python=stub(tmp_path, program))
        folder = plan.attempt_folder(0)
        folder.mkdir(parents=True)
        environment = {**os.environ, "SLURM_PROCID": "0", "SLURMD_NODENAME": "n1"}
        script = task_script(target, plan, 0)
        subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=False)
        assert (disk / "lost").read_text() == ""
        attempt = Attempt(
            0, {"name": "x", "job": "17", "processes": 1, "began": 0.0, "run_dir": plan.run_dir}
        )
        (task,) = slurm.tasks_of(attempt, folder, Job("17", "FAILED"))
        assert (task.host, task.exit_code, task.message) == ("n1", 3, f"the disk of {disk}/r is full")
    finally:
        until(lambda: subprocess.run(["umount", str(disk)], capture_output=True, check=False).returncode == 0)


@pytest.mark.parametrize(("seconds", "text"), [(5400, "1:30:00"), (59, "0:00:59"), (360000, "100:00:00")])
def test_times(seconds, text):
    assert clock(seconds) == text


def test_what_scontrol_tells():
    told = (
        "JobId=17 JobName=x UserId=root(0) JobState=PENDING Reason=BeginTime Dependency=(null) Requeue=1 Restarts=1 "
        "BatchFlag=2 Reboot=0 ExitCode=75:0 NodeList= NumNodes=2-2 Command=/a b/c=d"
    )
    assert parse("17", told) == Job("17", "PENDING", "BeginTime", 1, 75, "")
    done = parse("17", "JobState=COMPLETED Reason=None Restarts=0 ExitCode=0:0 NodeList=n[1-2]")
    assert done == Job("17", "COMPLETED", "", 0, 0, "n[1-2]")
    assert done.over


def attempt_with(folder: Path, **files) -> Attempt:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", "-").replace("-exit", ".exit")).write_text(json.dumps(content))
    return Attempt(0, {"name": "x", "job": "17", "processes": 2, "began": time.time()})


LEFT = {"code": 75, "time": 5.0, "restart": 0}


@pytest.mark.parametrize(
    ("job", "files", "states", "codes"),
    [
        (Job("17", "PENDING"), {}, "ww", [None, None]),
        (Job("17", "RUNNING"), {}, "rr", [None, None]),
        (Job("17", "RUNNING"), {"task_0_exit": LEFT}, "er", [75, None]),
        (Job("17", "COMPLETING"), {"task_0_exit": LEFT, "task_1_exit": LEFT}, "ww", [None, None]),
        (Job("17", "RUNNING", restarts=1), {"task_0_exit": LEFT}, "rr", [None, None]),
        (Job("17", "FAILED", exit_code=75), {"task_0_exit": LEFT, "task_1_exit": LEFT}, "ee", [75, 75]),
        (Job("17", "COMPLETED"), {"task_0_exit": {**LEFT, "code": 0}}, "ee", [0, 0]),
        (Job("17", "NODE_FAIL"), {"task_1_exit": {**LEFT, "code": 134}}, "le", [1, -6]),
        (
            Job("17", "FORGOTTEN"),
            {"task_0_exit": {**LEFT, "restart": 3}, "job_exit": LEFT},
            "el",
            [75, 75],
        ),
        (Job(None, "FORGOTTEN"), {}, "ll", [1, 1]),
        (Job(None, "UNTOLD"), {}, "ww", [None, None]),
    ],
)
def test_states(tmp_path, job, files, states, codes):
    tasks = slurm.tasks_of(attempt_with(tmp_path / "f", **files), tmp_path / "f", job)
    assert "".join(task.state[0] for task in tasks) == states
    assert [task.exit_code for task in tasks] == codes


def test_why_a_job_is_gone(tmp_path):
    given, folder = attempt_with(tmp_path / "f"), tmp_path / "f"
    words = [task.message for task in slurm.tasks_of(given, folder, Job("17", "TIMEOUT", "TimeLimit"))]
    assert "on a file system that the nodes share?" in words[0]
    (folder / "job.log").write_text("no module x\n")
    words = [task.message for task in slurm.tasks_of(given, folder, Job("17", "TIMEOUT", "TimeLimit"))]
    assert "ended as TIMEOUT (TimeLimit)" in words[0]
    assert "raise target.time" in words[0]
    assert words[0].endswith("no module x")


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    target, plan = plain(tmp_path)
    with pytest.raises(RequestError, match=r"no program 'sbatch' here; run this on a login node"):
        target.check(plan)


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="needs SLURM's client (apt install slurm-client)")
def test_no_cluster_is_known_here(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("a cluster is configured here")
    target, plan = plain(tmp_path)
    with pytest.raises(
        RequestError, match=r"run this on a login node, or name its slurm\.conf in SLURM_CONF"
    ):
        target.check(plan)


def test_dry_run_shows_both_scripts_and_the_submission(tmp_path):
    target, plan = plain(tmp_path)
    code, job, task, submit = target.steps(plan)
    assert code.file.endswith("/launch/code")
    assert [Path(step.file).name for step in (job, task)] == ["job.sh", "task.sh"]
    assert job.input.startswith("#!/bin/bash\n")
    assert submit.argv == ("sbatch", "--parsable", job.file)


# ---- with SLURM


@needs_slurm
def test_two_nodes_from_the_command_to_the_result(cluster, tmp_path):
    folder = tmp_path / "a b%"  # names that a shell and SLURM would take apart
    folder.mkdir()
    program = 'echo "log of $SLURM_PROCID" >&2; echo "$SLURMD_NODENAME $MARK $MORE"'
    tree = tree_of(folder, program, setup='echo set up; export MORE="x y"')
    given = launched(folder, tree | {"env": {"MARK": "a  b"}})
    given.target.check(given.plan)
    ended, _, shown = run(given)
    assert ended.exit_code == 0, ended
    assert shown == "log of 0\n"
    assert log_file(given.plan, 0, 1).read_text() == "log of 1\n"
    out = [log_file(given.plan, 0, i, "out").read_text() for i in range(2)]
    assert {text.split()[0] for text in out} == set(NODES)
    assert all(text.endswith(" a  b x y\n") for text in out)
    assert (given.plan.attempt_folder(0) / "job.log").read_text() == "set up\n"
    assert run(given)[0].exit_code == 0  # ended is ended
    assert len(read(given.plan)) == 1


@needs_slurm
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "gpu"}, "partitions here: main (2 nodes)"),
        ({"nodes": 3}, "target.nodes=3; partitions here: main (2 nodes)"),
        ({"options": ["--no-such"]}, "no-such"),
    ],
)
def test_what_slurm_refuses_is_told_before_the_start(cluster, tmp_path, changes, words):
    given = launched(tmp_path, tree_of(tmp_path, "true", **changes))
    with pytest.raises(RequestError) as error:
        given.target.check(given.plan)
    assert "nothing was started" in str(error.value)
    assert words in str(error.value)
    assert not ask("squeue", "--noheader")


@needs_slurm
@pytest.mark.slow
def test_slurm_starts_it_again_from_the_checkpoint(cluster, tmp_path):
    """Stopped with a new checkpoint: the same job, a second start, `--resume`; the driver has submitted once."""
    program = f"""
if [ $SLURM_PROCID = 0 ]; then echo "$WORDS" >> "$RUN/words"; fi
if [ ${{SLURM_RESTART_COUNT:-0}} = 0 ]; then n=4; {CHECKPOINT}; sleep 0.3; exit 75; fi"""
    given = launched(tmp_path, tree_of(tmp_path, program))
    ended, said, _ = run(given)
    assert ended.exit_code == 0, ended
    assert [("--resume" in line) for line in (tmp_path / "run" / "words").read_text().splitlines()] == [
        False,
        True,
    ]
    assert len(read(given.plan)) == 1
    assert "to be started again (time 1)" in said


@needs_slurm
def test_without_requeue_the_driver_submits_again(cluster, tmp_path):
    program = f"""
if [ $SLURM_PROCID = 1 ]; then sleep 0.2; exit $(( ATTEMPT < 2 ? 75 : 0 )); fi
echo "$WORDS" >> "$RUN/words"; n=$ATTEMPT; {CHECKPOINT}; exit $(( ATTEMPT < 2 ? 75 : 0 ))"""
    given = launched(tmp_path, tree_of(tmp_path, program, requeue=False), POLICY._replace(max_failures=0))
    ended, _, _ = run(given)
    assert ended.exit_code == 0, ended
    assert len(read(given.plan)) == 3
    words = (tmp_path / "run" / "words").read_text().splitlines()
    assert [("--resume" in line) for line in words] == [False, True, True]


@needs_slurm
def test_the_first_error_is_named_and_a_wrong_request_not_repeated(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("lmx.launch.drive.SETTLE", 0.5)
    program = 'if [ $SLURM_PROCID = 1 ]; then echo "lmx train: no such data" >&2; exit 2; fi; exec sleep 300'
    given = launched(tmp_path, tree_of(tmp_path, program))
    ended, _, _ = run(given)
    assert ended.exit_code == 2
    assert "lmx train: no such data" in ended.message
    assert len(read(given.plan)) == 1
    assert not ask("squeue", "--noheader", "--states=running,pending")


@needs_slurm
def test_stop_after_the_driver_was_killed(cluster, tmp_path):
    """The driver is killed between submission and record; another terminal sees the job, and ends it."""
    given = launched(tmp_path, tree_of(tmp_path, f"n=7; trap '{CHECKPOINT}; exit 75' TERM; sleep 300 & wait"))
    attempt = given.target.start(given.plan, 0)
    assert read(given.plan)[0].handle["job"] is None  # as it was before the submission
    journal.append(
        given.plan.folder, {"event": "prepared"}, {"event": "starting", "attempt": 0, "checkpoint": None}
    )
    seen = until(
        lambda: s if (s := look.status(given.plan.folder))["processes"][0]["state"] == "running" else None
    )
    assert seen["state"] == "running"
    assert ask("squeue", "--noheader", "--format=%i") == attempt.handle["job"]
    time.sleep(0.5)
    assert look.stop(given.plan.folder, grace=10.0) == "its processes have ended"
    ended, _, _ = run(given)
    assert (ended.exit_code, ended.message.startswith("stopped as asked")) == (75, True)
    assert look.status(given.plan.folder)["checkpoint"] == 7
    assert len(read(given.plan)) == 1


@needs_slurm
def test_a_job_that_is_cancelled_by_hand_is_not_submitted_again(cluster, tmp_path):
    given = launched(tmp_path, tree_of(tmp_path, f"n=7; trap '{CHECKPOINT}; exit 75' TERM; sleep 300 & wait"))
    found = []
    thread = threading.Thread(target=lambda: found.append(run(given)))
    thread.start()
    until(lambda: log_file(given.plan, 0, 1).exists() and log_file(given.plan, 0, 0).exists())
    time.sleep(0.5)
    ask("scancel", read(given.plan)[0].handle["job"])
    thread.join(60)
    assert found[0][0].exit_code == 75
    assert "stopped as asked" in found[0][0].message
    assert len(read(given.plan)) == 1


@needs_slurm
def test_a_job_in_the_queue_is_taken_out_of_it(cluster, tmp_path):
    given = launched(tmp_path, tree_of(tmp_path, "true", options=["--begin=now+1hour"]))
    attempt = given.target.start(given.plan, 0)
    seen = given.target.poll(given.plan, attempt)
    assert [task.state for task in seen.tasks] == ["waiting", "waiting"]
    assert "PENDING (BeginTime)" in seen.tasks[0].message
    assert given.target.stop(given.plan, attempt, grace=5.0) == []
    assert not ask("squeue", "--noheader")
    assert until(lambda: given.target.poll(given.plan, attempt).exit_code) == 1


# ---- a real run


def lmx(folder: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-m", "lmx", *words], cwd=folder, env=environment)


TINY = (
    "model.n_layers=1",
    "model.d_model=32",
    "model.n_heads=2",
    "model.n_kv_heads=2",
    "trainer.sequence_length=32",
    "trainer.global_batch_size=8",
    "trainer.log_every=1",
    "trainer.compile_cache=null",
)


def losses(run_dir: Path) -> dict[int, float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@needs_slurm
@pytest.mark.slow
def test_training_on_two_nodes_is_preempted_and_goes_on(cluster, tmp_path):
    """The losses are those of one process that nobody disturbed."""
    steps, words = 200, [*TINY, "trainer.steps=200", "mesh=fsdp", "checkpoint.every=1000"]
    single = lmx(tmp_path, "train", *TINY, f"trainer.steps={steps}", "hydra.run.dir=one")
    assert single.wait(600) == 0
    target = [
        "target=slurm",
        "target.nodes=2",
        f"target.python={sys.executable}",
        "target.code=installed",
        "target.devices=1",
        f"+target.env.PYTHONPATH={ROOT}",
        "target.ask_every=1s",
    ]
    driver = lmx(tmp_path, "launch", *target, *words, "hydra.run.dir=two")
    metrics = tmp_path / "two" / "metrics.jsonl"
    until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 20, 180)
    job = ask("squeue", "--noheader", "--format=%i")
    ask("scancel", "--signal=TERM", job)
    until(lambda: "Restarts=1" in ask("scontrol", "--oneliner", "show", "job", job), 120)
    assert driver.wait(600) == 0
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(two) == list(range(1, steps + 1))
    # Two nodes add up in another order than one process; the difference grows with the steps.
    assert max(abs(one[step] - two[step]) for step in range(1, 6)) < 1e-4
    assert max(abs(one[step] - two[step]) for step in one) < 0.02
    assert len(list((tmp_path / "two" / "launch" / "attempts").iterdir())) == 1


@needs_slurm
@pytest.mark.slow
def test_the_script_that_is_run_by_hand(cluster, tmp_path):
    composed = subprocess.run(
        [
            sys.executable,
            "-m",
            "lmx",
            "launch",
            *TINY,
            "trainer.steps=3",
            "mesh=fsdp",
            "dry_run=true",
            "output=json",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "config.yaml").write_text(json.loads(composed.stdout)[0]["input"])
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "lmx").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m lmx "$@"\n')
    (bin_ / "lmx").chmod(0o755)
    subprocess.run(
        [str(ROOT / "launch" / "slurm.sh"), "config.yaml", "run", "2", "--wait"],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{bin_}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        check=True,
        timeout=300,
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3
