"""Target `tpu_vm` with the real gcloud, against a service that keeps state and workers that are real sshds."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from lmx.cli import main
from lmx.config.errors import RequestError
from lmx.launch import TpuVm, agent, look
from lmx.launch.drive import drive
from lmx.launch.dry import as_text
from lmx.launch.gcloud import Cloud
from lmx.launch.plan import Plan, freeze, load, load_target
from lmx.launch.target import Seen, Task, log_file
from lmx.launch.tpu_pod import create_words, name_of
from lmx.launch.tpu_vm import _taken
from lmx.launch.tpu_vm_config import workers
from lmx.launch.tpu_vm_dry import steps
from lmx.launch.tpu_workers import MARK, ways
from tests.launch.programs import CHECKPOINT, POLICY, stub, until
from tests.launch.tpu_service import SSHD, Service
from tests.support import ROOT, read_option

needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud, the Google Cloud CLI")
needs_sshd = pytest.mark.skipif(
    not (os.path.exists(SSHD) and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="needs an OpenSSH server and client (apt install openssh-server)",
)
SPEC = {
    "accelerator_type": "v4-16",
    "runtime_version": "tpu-ubuntu2204-base",
    "zone": "us-central2-b",
    "project": "p",
}

SMALL = [
    "model.n_layers=1",
    "model.d_model=32",
    "model.n_heads=2",
    "model.n_kv_heads=2",
    "trainer.steps=3",
    "mesh=fsdp",
]
SMALL += [
    "trainer.steps=3",
    "trainer.sequence_length=32",
    "trainer.global_batch_size=8",
    "trainer.sample.tokens=0",
]


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """gcloud with a configuration of its own, not logged in."""
    (tmp_path / "home").mkdir()
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def service(gcloud, tmp_path, monkeypatch):
    """The stand-in, which gcloud asks instead of Google."""
    (tmp_path / "service").mkdir()
    there = Service(tmp_path / "service", tmp_path / "disk")
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU", there.url)
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", there.url)
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
    yield there
    there.close()


@pytest.fixture
def sockets():
    """A folder with a short path: sockets have no long names."""
    with tempfile.TemporaryDirectory(prefix="lmx-") as folder:
        yield folder


@pytest.fixture
def storage():
    """A folder on another file system than the workers' own."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat("/").st_dev:
        pytest.skip("needs /dev/shm on a file system of its own")
    with tempfile.TemporaryDirectory(prefix="lmx-", dir="/dev/shm") as folder:
        yield folder


def tree_of(**changes):
    return read_option("target", "tpu_vm") | SPEC | changes


def target_of(**changes) -> TpuVm:
    found = load_target(tree_of(**changes))
    assert isinstance(found, TpuVm)
    return found


@pytest.fixture
def launched(service, sockets, storage, tmp_path):
    """Freezes a run whose program is a script, on a pod of the service."""

    def make(program, policy=POLICY, **changes):
        python = stub(tmp_path, program)
        tree = tree_of(
            ssh_options=[
                "-p",
                str(service.ssh_port),
                "-o",
                f"ControlPath={sockets}/%C",
                "-o",
                "LogLevel=ERROR",
            ],
            boot_python=python,
            python=python,
            workdir=str(service.disk),
            code="installed",
            devices=1,
            ask_every="0.2s",
            connect_timeout="2s",
            lost_after="20s",
            **{"runs": storage, **changes},
        )
        run_dir = tmp_path / "run"
        freeze(
            {"name": "x"},
            folder=run_dir / "launch",
            run_dir=run_dir,
            target=tree,
            policy=policy,
            environment={},
        )
        return load(run_dir / "launch")

    return make


def run(given):
    said = []
    ended = drive(given, say=said.append, show=lambda _: None)
    return ended, "\n".join(said)


# ---- with gcloud and workers


@needs_gcloud
@needs_sshd
def test_a_pod_is_made_set_up_used_and_deleted(service, launched, storage, capsys):
    given = launched(
        'echo "log of $TASK" >&2; echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES; test -e "$PWD/made"',
        setup="echo {code}; touch made",
        spot=True,
    )
    given.target.check(given.plan)
    assert service.made == []
    ended, said = run(given)
    assert ended.exit_code == 0, ended
    name = name_of(given.target, given.plan)
    (asked,) = service.made
    (spec,) = asked["tpu"]["nodeSpec"]
    assert (spec["nodeId"], spec["node"]["acceleratorType"], asked["spot"]) == (name, "v4-16", {})
    folder = given.plan.attempt_folder(0)
    assert [(folder / f"task-{i}.log").read_text() for i in range(2)] == ["log of 0\n", "log of 1\n"]
    assert (folder / "task-0.out").read_text().startswith("127.0.0.11:")
    assert (folder / "task-1.out").read_text().endswith(" 2\n")
    assert (Path(storage) / "run" / "began-1-0").exists()
    assert f"queued resource {name} is deleted" in said
    assert service.queued == service.nodes == {}
    heard = capsys.readouterr().err
    assert f"queued resource {name} is asked for" in heard
    assert f"queued resource {name} is PROVISIONING; waiting" in heard
    assert not list(Path(storage).glob(".lmx*"))


def taken_at(service, given, condition):
    """Preempts the pod of a run when a condition comes about; the thread that does."""

    def take():
        until(condition, 120)
        service.preempt(name_of(given.target, given.plan))

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def checkpoint_seen(given):
    """Whether the driver knows of checkpoint 5."""
    known = agent.read(str(given.plan.attempt_folder(0) / "seen.json")) or {}
    return known.get("0", {}).get("checkpoint") == 5


@needs_gcloud
@needs_sshd
@pytest.mark.slow
@pytest.mark.parametrize("while_it_starts", [False, True])
def test_a_preempted_pod_is_made_again_and_the_run_goes_on(service, launched, storage, while_it_starts):
    program = f'case "$WORDS" in *--resume*) exit 0;; esac; n=5; {CHECKPOINT}; exec sleep 300'
    given = launched(program, spot=True, recreate=True)
    written = Path(storage) / "run" / "checkpoints" / "5" / "lmx.json"
    thread = taken_at(service, given, lambda: written.exists() if while_it_starts else checkpoint_seen(given))
    ended, said = run(given)
    thread.join()
    assert ended.exit_code == 0, (ended, said)
    assert "preempted (time 1)" in said
    assert "attempt 1" in said
    assert while_it_starts or "attempt 1, going on from step 5" in said
    assert len(service.made) == 2
    assert service.queued == {}


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_a_preempted_pod_is_left_where_nobody_asked_for_another(service, launched):
    given = launched(
        f"n=5; {CHECKPOINT}; exec sleep 300", POLICY._replace(max_failures=0), spot=True, recreate=False
    )
    name = name_of(given.target, given.plan)
    thread = taken_at(service, given, lambda: checkpoint_seen(given))
    ended, _ = run(given)
    thread.join()
    assert ended.exit_code == 1
    cure = "target.recreate=true deletes it and makes it again"
    assert f"queued resource {name} is SUSPENDED; {cure}" in ended.message
    assert len(service.made) == 1


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_slices_and_an_existing_pod_which_stays(service, launched):
    spec = {"acceleratorType": "v4-16"}
    several = {"multisliceParams": {"nodeCount": 2, "nodeIdPrefix": "ours"}, "node": spec}
    parent = "projects/p/locations/us-central2-b"
    service.create(parent, "ours", {"tpu": {"nodeSpec": [several]}})
    service.queued["ours"]["state"] = {"state": "ACTIVE"}
    service.provide("ours")
    given = launched("echo $TASK of $JAX_NUM_PROCESSES", name="ours", create="never", accelerator_type=None)
    given.target.check(given.plan)
    ended, said = run(given)
    assert ended.exit_code == 0, ended
    folder = given.plan.attempt_folder(0)
    assert [(folder / f"task-{i}.out").read_text() for i in range(4)] == [f"{i} of 4\n" for i in range(4)]
    attempt = json.loads((folder / "attempt.json").read_text())
    assert [h["name"] for h in attempt["handle"]["hosts"]] == [
        f"ours-{s} worker {w}" for s in range(2) for w in range(2)
    ]
    assert "pod ours was there before this run, and stays" in said
    assert set(service.nodes) == {"ours-0", "ours-1"}


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_several_slices_are_asked_for_and_a_vm_is_used(service, launched, tmp_path):
    service.states = ("ACCEPTED", "ACTIVE")
    service.workers = 1
    given = launched("echo $JAX_NUM_PROCESSES", count=2, reserved=True)
    ended, _ = run(given)
    assert ended.exit_code == 0, ended
    assert log_file(given.plan, 0, 1, "out").read_text() == "2\n"
    (asked,) = service.made
    assert asked["tpu"]["nodeSpec"][0]["multisliceParams"]["nodeCount"] == 2
    assert asked["reservationName"] == "projects/p/locations/us-central2-b/reservations/-"
    shutil.rmtree(tmp_path / "run")
    service.begin_node("alone", {"acceleratorType": "v4-8"}, "projects/p/locations/us-central2-b")
    given = launched("exit 0", name="alone", create="never", runs=None)
    given.target.check(given.plan)
    assert run(given)[0].exit_code == 0
    assert "alone" in service.nodes


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_storage_that_goes_with_the_pod_is_refused_before_a_process_starts(service, launched, tmp_path):
    service.states = ("ACTIVE",)
    given = launched("exit 0", runs=str(tmp_path / "own"))
    ended, _ = run(given)
    assert ended.exit_code == 2
    assert "is on the worker's own disk, which goes with the pod" in ended.message
    assert service.queued == {}


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_the_driver_dies_while_the_pod_is_made_and_another_goes_on(service, launched, monkeypatch):
    service.states = ("ACCEPTED", *["WAITING_FOR_RESOURCES"] * 40, "ACTIVE")
    given = launched("exit 0")
    child = os.fork()
    if child == 0:
        run(given)
        os._exit(0)
    until(lambda: service.queued, 60)
    os.kill(child, 9)
    os.waitpid(child, 0)
    service.queued[name_of(given.target, given.plan)]["state"] = {"state": "ACTIVE"}
    service.provide(name_of(given.target, given.plan))
    ended, _ = run(given)
    assert ended.exit_code == 0, ended
    assert len(service.made) == 1
    assert service.queued == {}


@needs_gcloud
@pytest.mark.slow
@pytest.mark.parametrize("driven", [True, False])
def test_stopped_while_the_pod_is_waited_for(service, launched, driven):
    service.states = ("WAITING_FOR_RESOURCES",)
    given = launched("exit 0")
    found = []
    if driven:
        thread = threading.Thread(target=lambda: found.append(run(given)[0]))
        thread.start()
        until(lambda: service.queued, 60)
        look.stop(given.plan.folder, grace=1.0)
        thread.join()
        assert "stopped as asked. while the pod was waited for" in found[0].message
    else:
        given.target.check(given.plan)
        service.create(
            "projects/p/locations/us-central2-b", name_of(given.target, given.plan), {"tpu": {"nodeSpec": []}}
        )
        assert "is deleted" in look.stop(given.plan.folder, grace=1.0)
    assert look.status(given.plan.folder)["state"] == "failed"
    assert service.queued == {}


@needs_gcloud
@pytest.mark.slow
def test_a_failed_request_ends_or_is_made_again(service, launched, tmp_path):
    service.states = ("FAILED",)
    ended, said = run(launched("exit 0", recreate=False))
    assert ended.exit_code == 2
    assert "is FAILED (no more capacity in the zone); target.recreate=true" in ended.message
    assert "is deleted" in said
    shutil.rmtree(tmp_path / "run")
    service.made.clear()
    ended, _ = run(launched("exit 0", recreate=True))
    assert ended.exit_code == 2
    assert "it was made 3 times" in ended.message
    assert len(service.made) == 3
    assert service.queued == {}


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_training_on_two_workers_gives_the_loss_of_one_machine(
    service, sockets, storage, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    service.states = ("ACTIVE",)
    target = {
        **SPEC,
        "ssh_options": f"['-p','{service.ssh_port}','-o','ControlPath={sockets}/%C']",
        "boot_python": sys.executable,
        "python": sys.executable,
        "workdir": service.disk,
        "code": ROOT,
        "runs": storage,
        "devices": 1,
    }
    words = [f"target.{key}={value}" for key, value in target.items()]
    assert main.run(["launch", *SMALL, "target=tpu_vm", *words, "hydra.run.dir=runs/pod"]) == 0
    assert main.run(["launch", *SMALL, "target.devices=2", "hydra.run.dir=runs/here"]) == 0
    pod, here = (
        json.loads((Path(path) / "summary.json").read_text()) for path in (f"{storage}/pod", "runs/here")
    )
    assert pod["loss"] == pytest.approx(here["loss"], rel=1e-5)
    assert list(Path(storage).glob("pod/checkpoints/*/lmx.json"))
    assert service.queued == {}


@needs_gcloud
@needs_sshd
@pytest.mark.slow
def test_the_script_by_hand(gcloud, tmp_path, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("the script's workers listen on port 22, which only root may open")
    (tmp_path / "service").mkdir()
    there = Service(tmp_path / "service", tmp_path / "disk", states=("ACTIVE",), ssh_port=22)
    for name in ("TPU", "COMPUTE"):
        monkeypatch.setenv(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}", there.url)
    for name, value in {"AUTH_DISABLE_CREDENTIALS": "true", "CORE_PROJECT": "p", "COMPUTE_ZONE": "z"}.items():
        monkeypatch.setenv(f"CLOUDSDK_{name}", value)
    (tmp_path / "c.yaml").write_text("x: 1")
    (tmp_path / "setup.sh").write_text(f"touch {tmp_path}/set-up")
    script = ROOT / "launch" / "tpu_vm.sh"
    try:
        done = subprocess.run(
            ["sh", str(script), "c.yaml", "/mnt/x", "mine", "v4-16", "tpu-ubuntu2204-base", "--spot"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert there.made[0]["spot"] == {}
        assert there.queued == {}
        assert "lmx: " in done.stderr, (
            done.stderr + done.stdout
        )  # not found on the PATH of these workers: the command came there
        assert (tmp_path / "set-up").exists()
        assert done.returncode != 0
    finally:
        there.close()
        for name in ("lmx-config.yaml", "lmx-setup.sh"):
            Path(f"~{getpass.getuser()}/{name}").expanduser().unlink(missing_ok=True)


# ---- what gcloud says


@needs_gcloud
def test_a_quota_is_told_with_its_cure(service, launched):
    message = "Quota limit 'TPUV4sPodPerProjectPerZone' has been exceeded. Limit: 8 in zone."
    service.refuse = ("RESOURCE_EXHAUSTED", message)
    ended, _ = run(launched("exit 0"))
    assert ended.exit_code == 2
    assert "Limit: 8 in zone." in ended.message
    assert "IAM & Admin > Quotas" in ended.message
    assert service.queued == {}


@needs_gcloud
@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"project": "forbidden"},
            ["Permission 'tpu.queuedResources.get' denied", "roles/tpu.admin in forbidden"],
        ),
        (
            {"name": "nobody", "create": "never"},
            ["no queued resource and no TPU VM of that name", "target.create"],
        ),
        ({"zone": None}, ["zone", "set target.zone=ZONE"]),
        ({"project": None}, ["project", "set target.project=PROJECT"]),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(service, launched, changes, words):
    given = launched("exit 0", **changes)
    with pytest.raises(RequestError) as error:
        given.target.check(given.plan)
    for word in words:
        assert word in str(error.value)
    assert not any(line.startswith("POST") for line in service.asked)


@needs_gcloud
@pytest.mark.slow
def test_nobody_is_logged_in(gcloud, tmp_path):
    with pytest.raises(RequestError, match="gcloud auth login"):
        target_of().check(Plan("run", tmp_path, "runs/run", {}))


def test_no_gcloud(tmp_path):
    with pytest.raises(RequestError, match="no program 'no-such-gcloud'"):
        target_of(gcloud="no-such-gcloud").check_request()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ERROR: (gcloud.x) NOT_FOUND: Resource 'a' was not found", "not there"),
        ("ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'a' has been exceeded.", "quota"),
        ("ERROR: (gcloud.x) Error parsing [queued_resource].\nFailed to find attribute [zone].", "no zone"),
        ("ERROR: (gcloud.x) You do not currently have an active account selected.", "no credentials"),
        (
            "ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before",
            "API is off",
        ),
        ("ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.get' denied", "not allowed"),
        ("what?", "other"),
    ],
)
def test_sorts_of_errors(said, kind):
    trouble = Cloud("gcloud", "p", "z").trouble(f"WARNING: x\n{said}\n")
    assert trouble.kind == kind
    assert "WARNING" not in str(trouble) or kind == "other"


# ---- without gcloud


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"accelerator_type": None}, "accelerator_type", "which TPU?"),
        ({"type": "v5p", "topology": "2x2x4"}, "accelerator_type", "one way"),
        ({"accelerator_type": "tpu7x-16"}, "accelerator_type", "GKE"),
        ({"accelerator_type": "v4"}, "accelerator_type", "no size"),
        ({"accelerator_type": None, "type": "v5p", "topology": "2*2"}, "topology", "no size"),
        ({"runtime_version": None}, "runtime_version", "which image?"),
        ({"spot": True, "reserved": True}, "spot", "exclude"),
        ({"create": "never"}, "name", "which pod?"),
        ({"runs": "runs"}, "runs", "absolute"),
        ({"runs": None}, "runs", "several workers"),
        ({"runs": None, "accelerator_type": "v4-8"}, "runs", "deleted at the end"),
        ({"runs": None, "accelerator_type": "v4-8", "keep": True, "spot": True}, "runs", "a spot pod"),
        ({"runs": None, "accelerator_type": "v4-8", "keep": True, "recreate": True}, "runs", "made again"),
    ],
)
def test_contradictions(changes, key, words):
    found = target_of(**{"runs": "/mnt/runs", **changes}).problems()
    assert [k for k, _, _ in found] == [f"target.{key}"]
    assert words in found[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": "/mnt/runs"},
        {"accelerator_type": "v4-8", "keep": True},
        {"accelerator_type": None, "runtime_version": None, "name": "a", "create": "never"},
    ],
)
def test_what_can_be(changes):
    assert target_of(**changes).problems() == []


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("v4-8", 1),
        ("v4-32", 4),
        ("v5p-16", 2),
        ("v2-8", 1),
        ("v3-32", 4),
        ("v5litepod-8", 1),
        ("v5litepod-16", 4),
    ]
    + [("v6e-1", 1), ("v6e-256", 64), ("v5p 2x2x1", 1), ("v5p 2x2x4", 4), ("v6e 4x4", 4), ("v5e 2x4", 1)],
)
def test_workers_of_a_slice(written, count):
    kind, _, topology = written.partition(" ")
    changes = (
        {"accelerator_type": None, "type": kind, "topology": topology}
        if topology
        else {"accelerator_type": kind}
    )
    assert workers(target_of(**changes)) == count


def test_the_words_of_gcloud_for_ssh():
    head = "/usr/bin/ssh -T -i /k -o CheckHostIP=no"
    proxy = "ProxyCommand /usr/bin/python -S /g.py compute start-iap-tunnel 't-w-0' '%p' --zone=z"
    tunnel = f"-o {proxy} -o ProxyUseFdpass=no"
    printed = f"noise\n{head} -p 22 me@1.2.3.4 -- {MARK}\n{head} {tunnel} -p 22 me@5.6.7.8 -- {MARK}\n"
    plain, through = ways(target_of(), printed)
    assert plain[:6] == ("/usr/bin/ssh", "-T", "-i", "/k", "-o", "CheckHostIP=no")
    assert plain[-1] == "me@1.2.3.4"
    assert "BatchMode=yes" in plain
    at = through.index("ProxyUseFdpass=no")
    assert through[at - 2] == proxy
    assert through[at + 1 : at + 3] == ("-p", "22")
    assert through[-1] == "me@5.6.7.8"


def test_one_message_tells_all_that_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["target=tpu_vm", "target.spot=true", "target.reserved=true", "hydra.run.dir=runs/x"]
    assert main.run(["launch", *words]) == 2
    said = capsys.readouterr().err
    for fix in ("accelerator_type=v5litepod-16", "runtime_version=", "reserved=false", "runs=/mnt/runs"):
        assert f"fix: target.{fix}" in said
    assert not (tmp_path / "runs" / "x").exists()


def test_dry_run_shows_every_command(tmp_path):
    target = target_of(spot=True, recreate=True, runs="/mnt/runs", setup="pip install {code}", name="pod")
    text = as_text(steps(target, Plan("r", tmp_path, "/mnt/runs/r", {}, "abc")))
    lines = [line for line in text.splitlines() if line.startswith("$ gcloud")]
    assert [line.split()[4:7] for line in lines] == [
        ["queued-resources", "describe", "pod"],
        ["tpu-vm", "describe", "pod"],
        ["queued-resources", "delete", "pod"],
        ["queued-resources", "create", "pod"],
        ["queued-resources", "describe", "pod"],
        ["tpu-vm", "ssh", "pod"],
        ["tpu-vm", "ssh", "pod"],
        ["queued-resources", "delete", "pod"],
    ]
    assert " ".join(create_words(target, "pod")) in text
    assert "--spot" in lines[3]
    assert "pip install ~/lmx/code/abc" in text
    assert text.count("ssh FOUND USER@WORKER-1") == 3  # code, setup, start
    assert "JAX_COORDINATOR_ADDRESS" not in text  # the metadata of the pod says it


def test_names_of_pods(tmp_path):
    named = [name_of(target_of(), Plan(run, tmp_path / run, "r", {})) for run in ("2026-11-21_x", "A" * 90)]
    assert named[0].startswith("lmx-2026-11-21-x-")
    assert all(len(name) <= 63 for name in named)
    assert name_of(target_of(), Plan("a", tmp_path / "1", "r", {})) != name_of(
        target_of(), Plan("a", tmp_path / "2", "r", {})
    )


def test_the_end_of_a_preempted_attempt_is_75():
    tasks = (Task(0, "a", "running"), Task(1, "b", "ended", 134, 0.5))
    seen = Seen(tuple(_taken(task, "gone", 1.0) for task in tasks), preempted=True)
    assert (seen.exit_code, seen.running) == (75, False)
    assert seen.first_error is not None
    assert seen.first_error.message == "gone"
