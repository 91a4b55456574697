"""Several hosts, each with its own address, name and sshd: `lmx launch` trains across them as one process would.

python -m pytest -n 0 -m slow tests/launch/test_network.py      # as root
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from lmx.config.overrides import write_value
from lmx.io import journal
from lmx.launch import agent
from lmx.launch.drive import drive
from tests.launch import namespaces
from tests.launch.programs import CHECKPOINT, POLICY, until
from tests.launch.test_ssh import launched, tree_of
from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((reason := namespaces.missing()) is not None, reason=str(reason)),
]

SMALL = [
    *("data=synthetic", "data.examples=64", "data.eval_examples=8", "model=tiny", "optimizer=adamw"),
    *("model.n_layers=1", "model.d_model=32", "model.n_heads=1", "trainer.sequence_length=16"),
    *("trainer.global_batch_size=8", "trainer.eval_every=null", "trainer.sample.tokens=0", "logging=quiet"),
    *("trainer.steps=8", "trainer.log_every=1", "checkpoint.every=4"),
]

# On a machine without TPU chips JAX sets this variable when it is imported, and then asks nobody.
ON_TPU = """
import os, sys
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
from lmx.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def environment(devices=1, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "TPU_", "MEGASCALE_"))}
    return clean | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        **more,
    }


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    return [row["loss"] for row in rows]


def lmx(*words, devices=1):
    done = subprocess.run(
        [sys.executable, "-m", "lmx", *words],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def over_ssh(net, work, **more):
    facts = {
        "hosts": list(net.addresses),
        "options": net.options,
        "python": sys.executable,
        "workdir": str(work),
        "devices": 1,
        "code": str(ROOT),
        **more,
    }
    return ["target=ssh", *(f"target.{key}={write_value(value)}" for key, value in facts.items())]


@pytest.mark.parametrize("mesh", ["fsdp", "hsdp"])
def test_four_hosts_train_as_one_process(tmp_path, mesh):
    words = [*SMALL, f"mesh={mesh}"]  # hsdp: two replicas of two hosts
    with namespaces.network(4, tmp_path / "net") as net:
        run = tmp_path / "runs" / "four"
        lmx("launch", *words, *over_ssh(net, tmp_path / "work"), f"hydra.run.dir={run}")
    alone = tmp_path / "runs" / "alone"
    lmx("train", *words, f"hydra.run.dir={alone}", devices=4)
    assert losses(run) == pytest.approx(losses(alone), rel=2e-5)
    assert not (run / "checkpoints").exists()  # they are where the hosts have them
    assert (tmp_path / "work" / "runs" / "four" / "checkpoints" / "8").exists()


def test_two_slices_of_two_hosts_find_each_other_by_metadata(tmp_path):
    subnet = namespaces.subnet()
    told = []
    for i in range(4):
        slice_, worker = divmod(i, 2)
        ends = ",".join(f"w{k}:{k}:{subnet}.{slice_ * 2 + k + 1}" for k in range(2))
        tpu = f"ACCELERATOR_TYPE: 'v4-16'\nWORKER_ID: '{worker}'\nMEGASCALE_NUM_SLICES: '2'\n"
        tpu += f"MEGASCALE_SLICE_ID: '{slice_}'\nMEGASCALE_COORDINATOR_ADDRESS: '{subnet}.1:8080'\n"
        told.append({"agent-worker-number": str(worker), "worker-network-endpoints": ends, "tpu-env": tpu})
    words = [*SMALL, "mesh=fsdp"]
    run, alone = tmp_path / "pods", tmp_path / "alone"
    with namespaces.network(4, tmp_path / "net", metadata=told) as net:
        train = [sys.executable, "-c", ON_TPU, "train", *words, f"hydra.run.dir={run}"]
        logs = [open(tmp_path / f"log-{i}", "w") for i in range(4)]  # noqa: SIM115
        started = [
            subprocess.Popen(
                [*net.inside(i), *train],
                cwd=ROOT,
                env=environment(JAX_FORCE_TPU_INIT="1"),
                stdout=logs[i],
                stderr=logs[i],
            )
            for i in range(4)
        ]
        codes = [process.wait(300) for process in started]
        assert codes == [0] * 4, "\n".join((tmp_path / f"log-{i}").read_text()[-2000:] for i in range(4))
    lmx("train", *words, f"hydra.run.dir={alone}", devices=4)
    assert losses(run) == pytest.approx(losses(alone), rel=2e-5)


def test_a_link_that_drops_and_heals_costs_one_failure_and_leaves_no_orphan(tmp_path):
    with namespaces.network(3, tmp_path / "net") as net:
        program = f"n=$ATTEMPT; {CHECKPOINT}; [ $ATTEMPT = 0 ] && exec sleep 300; exit 0"
        hosts = (list(net.addresses), net.options, None)
        tree = tree_of(hosts, tmp_path, program, lost_after="6s", connect_timeout="2s")
        given = launched(tmp_path, tree, POLICY._replace(max_failures=1, host_wait=120.0))
        said, found = [], []
        driver = threading.Thread(
            target=lambda: found.append(drive(given, say=said.append, show=lambda _: None))
        )
        driver.start()
        pid_file = tmp_path / "work" / "launches" / "run" / "0" / "host-2" / "task-2.pid"
        identity = until(lambda: agent.read(str(pid_file)))
        until(lambda: (given.plan.attempt_folder(0) / "seen.json").exists())
        net.link(2, "down")
        until(lambda: any("waiting for it" in text for text in said), 90)
        assert agent.alive(identity)  # nobody reaches it
        net.link(2, "up")
        driver.join(120)
        assert found[0].exit_code == 0, said
        assert not agent.alive(identity)
    ended = [e for e in journal.read(given.plan.folder) if e["event"] == "ended"]
    assert [e["exit_code"] for e in ended] == [1, 0]
    assert f"process 2 on {net.addresses[2]} is lost" in ended[0]["message"]


def test_a_host_that_dies_is_named(tmp_path):
    with namespaces.network(3, tmp_path / "net") as net:
        program = f"n=$ATTEMPT; {CHECKPOINT}; exec sleep 300"
        hosts = (list(net.addresses), net.options, None)
        tree = tree_of(hosts, tmp_path, program, lost_after="6s", connect_timeout="2s")
        given = launched(tmp_path, tree, POLICY._replace(max_failures=1))
        pid_file = tmp_path / "work" / "launches" / "run" / "0" / "host-1" / "task-1.pid"

        def die():
            until(lambda: agent.read(str(pid_file)))
            until(lambda: (given.plan.attempt_folder(0) / "seen.json").exists())
            net.kill(1)

        killer = threading.Thread(target=die)
        killer.start()
        ended = drive(given, say=lambda _: None, show=lambda _: None)
        killer.join()
        assert ended.exit_code == 1
        assert net.addresses[1] in ended.message
        others = [tmp_path / f"work/launches/run/0/host-{i}/task-{i}.pid" for i in (0, 2)]
        assert not any(agent.alive(agent.read(str(path))) for path in others)
