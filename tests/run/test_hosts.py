"""Processes of one run: found in the environment, equal to one process, stopped, resumed and ended together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from lmx.config.errors import RequestError
from lmx.io.ledger import seen_by
from lmx.run.hosts import Job, _first_slurm_host, detect
from lmx.run.hosts_config import Distributed
from tests.support import ROOT, read_option

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
JAX = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "tpu", "expected"),
    [
        ({}, False, None),
        (JAX, False, Job("h:1", 3, 2)),
        (JAX | {"JAX_NUM_PROCESSES": "1"}, False, None),
        (SLURM, False, Job("node007:61441", 2, 1, None)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NUM_TASKS": "3"}, False, None),
        ({"SLURM_JOB_ID": "4097", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False, None),  # no step of srun
        ({"OMPI_COMM_WORLD_SIZE": "4"}, False, Job(method="ompi")),
        ({}, True, Job(method=None)),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, True, Job(method=None)),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True, Job(method=None)),
    ],
)
def test_the_environment_says_what_there_is(environment, tpu, expected):
    if environment.get("SLURM_STEP_TASKS_PER_NODE") == "2,1":
        expected = Job("node007:61441", 3, 1, [0])
    assert detect(environment, tpu=tpu) == expected


def test_half_a_job_is_an_error():
    with pytest.raises(RequestError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID"):
        detect({"JAX_COORDINATOR_ADDRESS": "h:1"}, tpu=False)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[001-015],b", "n001"), ("n[3,7-8]", "n3"), ("x,n[1-2]", "x")],
)
def test_first_host_of_slurm(nodes, first):
    assert _first_slurm_host(nodes) == first


def problems(option, **changes):
    found = Distributed.model_validate(read_option("distributed", option, changes)).problems()
    return {key.removeprefix("distributed."): message for key, message, _ in found}


def test_contradictions():
    assert problems("auto") == problems("one") == {}
    assert list(problems("explicit")) == ["coordinator_address", "num_processes", "process_id"]
    whole = {"coordinator_address": "h:1", "num_processes": 2, "process_id": 1}
    assert problems("explicit", **whole) == {}
    assert list(problems("explicit", **whole | {"process_id": 2})) == ["process_id"]
    assert list(problems("explicit", **whole | {"coordinator_address": "h"})) == ["coordinator_address"]
    assert list(problems("auto", num_processes=2)) == ["num_processes"]


# ---- real processes

SMALL = [
    *("model.n_layers=2", "model.d_model=32", "model.n_heads=2", "trainer.sequence_length=32"),
    *("trainer.global_batch_size=8", "trainer.eval_batch_size=8", "trainer.eval_sequences=16"),
    *("trainer.eval_every=null", "trainer.log_every=1", "trainer.sample.tokens=4", "checkpoint.every=null"),
    *(
        "logging=quiet",
        "logging.tensorboard=false",
        "mesh=fsdp",
        "optimizer=adamw",
        "schedule=constant",
        "schedule.warmup=0",
    ),
]


def start(overrides, processes, devices, **each):
    """`lmx train` in several processes; `each`: process -> more overrides."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    started = []
    for i in range(processes):
        hosts = ["distributed=explicit", f"distributed.coordinator_address=127.0.0.1:{port}"]
        hosts += [f"distributed.num_processes={processes}", f"distributed.process_id={i}"]
        command = [sys.executable, "-m", "lmx", "train", *overrides, *each.get(f"p{i}", [])]
        started.append(
            subprocess.Popen(
                command + (hosts if processes > 1 else []),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def ended(started, timeout=600):
    """(exit code, stdout, stderr) of each."""
    found = []
    for process in started:
        out, err = process.communicate(timeout=timeout)
        found.append((process.returncode, out, err))
    return found


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_two_processes_equal_one_stop_together_and_go_on_as_another_number(tmp_path):
    """2 x 2 devices, stopped by a SIGTERM to one of them, then 1 x 4: the losses of 1 x 4 throughout.

    The rows of a process are not neighbours in a batch: 0 and 2 of four parts, and 1 and 3.
    """
    run, whole = tmp_path / "run", tmp_path / "whole"
    mesh = ["mesh=hsdp", "mesh.rules.batch=[fsdp,replica]"]
    endless = [*(m for m in SMALL if m != "mesh=fsdp"), *mesh, "trainer.steps=100000", f"hydra.run.dir={run}"]
    pair = start(endless, 2, 2)
    while not (run / "metrics.jsonl").exists() or len(losses(run)) < 3:
        assert all(p.poll() is None for p in pair), ended(pair)
        time.sleep(0.2)
    pair[1].send_signal(signal.SIGTERM)
    for code, out, err in ended(pair):
        assert code == 75, err
        assert out == ""
        assert "stopped by SIGTERM" in err
    stopped = json.loads((run / "summary.json").read_text())["steps"]
    steps = stopped + 3
    assert (run / "checkpoints" / str(stopped)).is_dir()
    assert f"step {stopped} " in (run / "log.1.txt").read_text()
    assert not (run / "metrics.1.jsonl").exists()

    # A signal before the first step of a run that goes on stops it as well, after that step.
    pair = start([f"resume={run}"], 2, 2)
    while f"going on after step {stopped}" not in (run / "log.txt").read_text():
        assert all(p.poll() is None for p in pair), ended(pair)
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in ended(pair, timeout=120)] == [75, 75]
    before, stopped = stopped, json.loads((run / "summary.json").read_text())["steps"]
    assert before < stopped
    steps = stopped + 3

    ((code, _, err),) = ended(start([f"resume={run}", f"trainer.steps={steps}"], 1, 4))
    assert code == 0, err
    ((code, _, err),) = ended(start([*SMALL, f"trainer.steps={steps}", f"hydra.run.dir={whole}"], 1, 4))
    assert code == 0, err
    assert seen_by(run) == seen_by(whole)
    got, expected = losses(run), losses(whole)
    assert list(got) == list(range(1, steps + 1))
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=2e-5)


def test_the_clock_of_process_0_ends_all_after_the_same_step(tmp_path):
    run = tmp_path / "run"
    overrides = [*SMALL, "trainer.steps=1000000", "trainer.duration=2s", "checkpoint=none"]
    for code, _, err in ended(start([*overrides, f"hydra.run.dir={run}"], 2, 1)):
        assert code == 0, err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    assert 1 < summary["steps"] < 1000000
    last = [re.findall(r"step (\d+) ", (run / name).read_text())[-1] for name in ("log.txt", "log.1.txt")]
    assert last == [str(summary["steps"])] * 2


def test_a_process_that_gives_no_sign_of_life_is_named_before_the_others_end(tmp_path):
    run = tmp_path / "run"
    overrides = [*SMALL, "trainer.steps=1000000", "checkpoint=none", "distributed.heartbeat_timeout=20s"]
    pair = start([*overrides, f"hydra.run.dir={run}"], 2, 1)
    while not (run / "metrics.jsonl").exists() or len(losses(run)) < 3:
        assert all(p.poll() is None for p in pair), ended(pair)
        time.sleep(0.2)
    pair[1].send_signal(signal.SIGSTOP)  # its connections stay open
    try:
        _, err = pair[0].communicate(timeout=120)
    finally:
        pair[1].kill()
        pair[1].communicate()
    assert pair[0].returncode != 0
    assert re.search(rf"process 1 on \S+ \(pid {pair[1].pid}\) has given no sign of life for \d+ s", err), err


@pytest.mark.slow
def test_two_processes_go_back_as_one_does(tmp_path):
    """On lasting spikes both go back to the same checkpoint, leave out the same data, and end as one process does."""
    overrides = [*SMALL, "trainer.steps=60", "trainer.global_batch_size=16", "optimizer.learning_rate=1e-2"]
    overrides += ["checkpoint=tiered", "checkpoint.every=10"]
    overrides += ["spikes=rewind", "spikes.patience=3", "spikes.loss_deviations=10", "spikes.decay=0.8"]
    overrides += [
        "spikes.warmup_steps=20",
        "data=synthetic",
        "fault=loss_spike",
        "fault.step=43",
        "fault.steps=3",
    ]
    runs = {count: tmp_path / f"run{count}" for count in (1, 2)}
    for count, run in runs.items():
        away = f"checkpoint.remote.path={tmp_path / f'away{count}'}"
        for code, _, err in ended(start([*overrides, away, f"hydra.run.dir={run}"], count, 2 // count)):
            assert code == 0, err
        assert json.loads((run / "summary.json").read_text())["rewinds"] == 1
    assert seen_by(runs[1]) == seen_by(runs[2])
    one, two = losses(runs[1]), losses(runs[2])
    assert list(two) == list(one)
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=2e-5)


@pytest.mark.slow
def test_a_process_with_another_configuration_ends_all_at_once(tmp_path):
    run = tmp_path / "run"
    overrides = [*SMALL, "trainer.steps=1000", f"hydra.run.dir={run}"]
    began = time.monotonic()
    first, second = ended(start(overrides, 2, 1, p1=["trainer.seed=5"]))
    assert second[0] == 2
    assert "process 1 has another configuration than process 0" in second[2]
    assert first[0] != 0
    assert time.monotonic() - began < 200  # not the five minutes of a barrier
