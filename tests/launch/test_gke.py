"""Target `gke`: the real kubectl against a stand-in of the API server; the script of a container in a real shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
import yaml

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.launch import gke_look, gke_manifest, jobset, look
from lmx.launch.drive import drive
from lmx.launch.plan import Plan, freeze, load, load_target
from lmx.launch.target import Attempt, log_file, read
from tests.launch.kube import Cluster, jobset_schema
from tests.launch.programs import CHECKPOINT, POLICY, stub, until
from tests.support import ROOT, read_option

CRD = ROOT / "../shared/schemas/jobset-crd.yaml"
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def target_of(**changes):
    given = {"image": "gcr.io/p/lmx:1", "claim": "runs", "code": "installed", "ask_every": "0.1s"}
    return load_target(read_option("target", "gke") | given | changes)


def plain(tmp_path: Path, name: str = "r") -> Plan:
    folder = tmp_path / name / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("name: x\n")
    return Plan(name, folder, f"/lmx/runs/{name}", {"A": "1"}, "abc")


# ---- the manifest


def test_one_manifest_has_all_that_the_pods_need(tmp_path):
    (tmp_path / "r" / "launch").mkdir(parents=True)
    (tmp_path / "r" / "launch" / "code.tar").write_bytes(b"x" * 5000)
    files, built = gke_manifest.manifests(target_of(code="snapshot", slices=2, ttl="1h"), plain(tmp_path), 3)
    assert sorted([*files["data"], *files["binaryData"]]) == ["code.tar.xz", "config.yaml", "run.sh"]
    assert files["data"]["config.yaml"] == "name: x\n"
    assert files["metadata"]["name"] == built["metadata"]["name"]
    assert built["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert built["spec"]["ttlSecondsAfterFinished"] == 3600
    pod = built["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["containers"][0]["command"] == ["sh", "/etc/lmx/run.sh"]
    assert {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]
    assert list(yaml.safe_load_all(gke_manifest.as_yaml([files, built]))) == [files, built]


def test_exit_codes_decide_by_the_rules_of_job_and_jobset(tmp_path):
    """JobSet sees the message of the job, `... matching FailJob rule at index N`: the two lists belong together."""
    _, built = gke_manifest.manifests(target_of(), plain(tmp_path), 0)
    rules = built["spec"]["failurePolicy"]["rules"]
    pods = built["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in pods] == ["FailJob"] * 3
    patterns = {r["onJobFailureMessagePatterns"][0]: r["action"] for r in rules}
    assert patterns["matching FailJob rule at index 0$"] == "FailJobSet"
    assert pods[0]["onExitCodes"]["values"] == [2]
    assert patterns["matching FailJob rule at index 1$"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert pods[1]["onExitCodes"]["values"] == [75]
    assert patterns["matching FailJob rule at index 2$"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert pods[2]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    for rule in rules:  # JobSet refuses other names
        import re

        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])


@pytest.mark.parametrize("name", ["r", "2026-11-21_19-04-06_Tiny Model!", "x" * 200, "..."])
def test_names(tmp_path, name):
    plan = Plan(name, tmp_path, "d", {})
    built = gke_manifest.name_of(plan, 12)
    assert len(f"{built}-slice-1000-1000-abcde") <= 63
    assert set(built) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert gke_manifest.name_of(plan._replace(folder=tmp_path / "other"), 12) != built


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "target.image=IMAGE"),
        ({"claim": None}, "set one of target.claim=PVC and target.bucket=BUCKET"),
        ({"bucket": "b"}, "set one of target.claim=PVC and target.bucket=BUCKET"),
        ({"topology": "4x4x4"}, "v5e has 2 dimensions"),
        ({"accelerator": "h100"}, "no such TPU on GKE"),
    ],
)
def test_wrong_requests(changes, message):
    with pytest.raises(RequestError, match=message):
        target_of(**changes).check_request()


def test_code_that_is_too_large(tmp_path):
    plan = plain(tmp_path)
    (tmp_path / "big.bin").write_bytes(os.urandom(1_100_000))
    with tarfile.open(plan.folder / "code.tar", "w") as tar:
        tar.add(tmp_path / "big.bin", "data/big.bin")
    message = r"1\.1 MB when packed.*data/big\.bin 1,100 kB.*target\.code=installed"
    with pytest.raises(RequestError, match=message):
        gke_manifest.manifests(target_of(code="snapshot"), plan, 0)
    with pytest.raises(RequestError, match=message):  # and of a dry run
        target_of(code="snapshot").check_code(plan.folder / "code.tar")


def test_no_kubectl(tmp_path):
    with pytest.raises(RequestError, match="no program 'no-kubectl' here"):
        target_of(kubectl="no-kubectl").check(plain(tmp_path))


def test_dry_run_prints_what_would_be_sent(tmp_path):
    plan = plain(tmp_path)._replace(folder=tmp_path / "none", text="name: y\n")
    (step,) = target_of(context="c", namespace="n").steps(plan)
    assert step.argv[:3] == ("kubectl", "--context=c", "--namespace=n")
    files, built = yaml.safe_load_all(step.input)
    assert files["data"]["config.yaml"] == "name: y\n"
    assert built["metadata"]["namespace"] == "n"


# ---- the script of a container


def script(
    tmp_path: Path, program: str, *, number: int = 0, env: dict | None = None, **changes
) -> subprocess.Popen:
    """Starts the script, with a shell in place of the Python, and folders of this test in place of the container's."""
    plan = plain(tmp_path)._replace(run_dir=str(tmp_path / "lmx/runs/r"))
    target = target_of(**{"python": stub(tmp_path, program), "mount": str(tmp_path / "lmx"), **changes})
    text = gke_manifest.script(target, plan, number).replace("/dev/termination-log", str(tmp_path / "told"))
    text = text.replace("/tmp/lmx-code", str(tmp_path / "code")).replace("/etc/lmx", str(tmp_path))
    pod = {"LMX_SLICE": "0", "LMX_RESTART": "0", "JOB_COMPLETION_INDEX": "0"}
    environment = os.environ | pod | (env or {})
    return subprocess.Popen(["sh", "-c", text], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_container_from_the_beginning_and_from_the_checkpoint(tmp_path):
    program = f'n=$((ATTEMPT + 3)); {CHECKPOINT}; echo "$WORDS"; exit $(( ATTEMPT ? 0 : 75 ))'
    first = script(tmp_path, program)
    words, _ = first.communicate(timeout=20)
    assert (first.returncode, "--resume" in words) == (75, False)
    assert words.startswith(
        f"-m lmx train --frozen {tmp_path}/config.yaml hydra.run.dir={tmp_path}/lmx/runs/r"
    )
    assert (tmp_path / "told").read_text() == "3\n"
    second = script(tmp_path, program, env={"LMX_RESTART": "1"})
    words, _ = second.communicate(timeout=20)
    assert (second.returncode, "--resume" in words) == (0, True)
    assert (tmp_path / "told").read_text() == "4\n"


def test_a_container_hands_the_signal_on_once(tmp_path):
    told = 'echo one >> "$RUN/signals"'
    program = f"n=7; trap '{CHECKPOINT}; {told}; exit 75' TERM; touch $RUN/ready; sleep 300 & wait"
    running = script(tmp_path, program)
    until((tmp_path / "lmx/runs/r/ready").exists)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 75
    assert (tmp_path / "lmx/runs/r/signals").read_text() == "one\n"
    assert (tmp_path / "told").read_text() == "7\n"


def test_stopped_without_progress_is_a_failure(tmp_path):
    assert script(tmp_path, "exit 75").wait(20) == 1
    assert script(tmp_path, "exit 2").wait(20) == 2


def test_again_without_a_checkpoint_begins_in_an_empty_directory(tmp_path):
    program = 'if [ -e "$RUN/config.yaml" ]; then exit 2; fi; touch "$RUN/config.yaml" "$RUN/mine"; exit 1'
    assert script(tmp_path, program).wait(20) == 1
    assert (
        script(tmp_path, program, env={"LMX_RESTART": "1", "JOB_COMPLETION_INDEX": "1"}).wait(20) == 2
    )  # 0 does it
    assert script(tmp_path, program, env={"LMX_RESTART": "1"}).wait(20) == 1
    assert (tmp_path / "lmx/runs/r/before-attempt-0.1/config.yaml").exists()
    assert (tmp_path / "lmx/runs/r/mine").exists()
    assert script(tmp_path, program, number=1).wait(20) == 1


def test_code_and_setup_come_before_the_start(tmp_path):
    import tarfile

    plan = plain(tmp_path)
    (tmp_path / "marker.py").write_text("x = 1\n")
    with tarfile.open(plan.folder / "code.tar", "w") as archive:
        archive.add(tmp_path / "marker.py", "marker.py")
    (tmp_path / "code.tar.xz").write_bytes(gke_manifest.packed(plan.folder / "code.tar"))
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\nif [ "$2" = tarfile ]; then exec python3 "$@"; fi\ncat "${PYTHONPATH%%:*}/marker.py"; echo $MORE\n'
    )
    python.chmod(0o755)
    running = script(tmp_path, "", python=str(python), code="snapshot", setup="export MORE=more")
    assert running.communicate(timeout=20)[0] == "x = 1\nmore\n"


# ---- kubectl


@pytest.fixture(scope="module")
def schema():
    return jobset_schema(CRD) if CRD.exists() else None


@pytest.fixture
def cluster(schema, tmp_path, monkeypatch):
    """A cluster that kubectl finds."""
    made = Cluster(schema)
    made.kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield made
    made.close()


def launched(tmp_path: Path, policy=POLICY, **changes):
    run_dir = tmp_path / "run"
    tree = (
        read_option("target", "gke")
        | {"image": "i", "claim": "c", "code": "installed", "ask_every": "0.1s"}
        | changes
    )
    freeze(
        {"name": "x"}, folder=run_dir / "launch", run_dir=run_dir, target=tree, policy=policy, environment={}
    )
    return load(run_dir / "launch")


def driven(given):
    """Drives the run in a thread: (the thread, its result, what it says, what it shows)."""
    result, said, shown = [], [], []
    thread = threading.Thread(target=lambda: result.append(drive(given, say=said.append, show=shown.append)))
    thread.start()
    return thread, result, said, shown


@needs_kubectl
def test_from_the_command_to_the_result(cluster, tmp_path):
    given = launched(tmp_path, slices=2, topology="2x4")
    given.target.check(given.plan)
    assert cluster.objects == {}
    name = gke_manifest.name_of(given.plan, 0)
    thread, result, said, shown = driven(given)
    until(lambda: ("jobsets", name) in cluster.objects)
    assert cluster.objects["configmaps", name]["data"]["config.yaml"] == "name: x\n"
    pods = cluster.pods(name)
    assert len(pods) == 2
    for i, pod in enumerate(pods):
        cluster.runs(pod, f"hello of {i}", "step 3/10  loss 5")
    until(lambda: look.status(given.plan.folder)["step"] == 3)
    assert look.status(given.plan.folder)["loss"] == 5.0
    cluster.says(pods[0], "step 9/10  loss 4")
    until(lambda: "step 9/10" in "".join(shown))
    for pod in pods:
        cluster.ends(pod, 0, "10")
    cluster.finish(name, "Completed")
    thread.join(30)
    assert result[0].exit_code == 0
    assert log_file(given.plan, 0, 1).read_text() == "hello of 1\nstep 3/10  loss 5\n"
    assert "".join(shown) == "hello of 0\nstep 3/10  loss 5\nstep 9/10  loss 4\n"  # each line once
    assert not any(kind in ("jobsets", "configmaps") for kind, _ in cluster.objects)  # given back
    assert any("deleted" in line for line in said)


@needs_kubectl
def test_restarts_of_the_jobset_are_none_of_the_driver_s(cluster, tmp_path):
    given = launched(tmp_path, topology="4x4", policy=POLICY._replace(max_failures=0))
    name = gke_manifest.name_of(given.plan, 0)
    thread, result, _, _ = driven(given)
    until(lambda: ("jobsets", name) in cluster.objects)
    pods = cluster.pods(name)
    for pod in pods:
        cluster.runs(pod)
    cluster.ends(pods[2], 75, "4")
    until(lambda: look.status(given.plan.folder)["processes"][2]["state"] == "waiting")
    for pod in cluster.pods(name, restart=1):
        cluster.runs(pod, "again")
    until(lambda: all(p["state"] == "running" for p in look.status(given.plan.folder)["processes"]))
    assert thread.is_alive()
    for pod in [p for kind, p in cluster.objects if kind == "pods"]:
        cluster.ends(pod, 0, "8")
    cluster.finish(name, "Completed")
    thread.join(30)
    assert (result[0].exit_code, len(read(given.plan))) == (0, 1)


@needs_kubectl
def test_a_failed_jobset_names_the_first_pod_and_is_sent_again(cluster, tmp_path):
    given = launched(tmp_path, topology="4x4", policy=POLICY._replace(max_failures=1))
    thread, result, said, _ = driven(given)
    for number in range(2):
        name = gke_manifest.name_of(given.plan, number)
        until(lambda name=name: ("jobsets", name) in cluster.objects)
        pods = cluster.pods(name)
        for pod in pods:
            cluster.runs(pod)
        until(lambda: all(p["state"] == "running" for p in look.status(given.plan.folder)["processes"]))
        cluster.says(pods[1], "lmx train: the disk is full")
        cluster.ends(pods[1], 1, "")
        cluster.finish(name, "Failed", "jobset failed due to one or more job failures")
    thread.join(30)
    assert result[0].exit_code == 1
    assert f"process 1 on {pods[1]} ended with exit code 1" in result[0].message
    assert "lmx train: the disk is full" in result[0].message
    assert "launch.max_failures=1" in result[0].message
    assert any("process 1" in line for line in said)


@needs_kubectl
def test_a_wrong_request_is_not_sent_again(cluster, tmp_path):
    given = launched(tmp_path, topology="2x2")
    name = gke_manifest.name_of(given.plan, 0)
    thread, result, _, _ = driven(given)
    until(lambda: ("jobsets", name) in cluster.objects)
    (pod,) = cluster.pods(name)
    cluster.ends(pod, 2)
    cluster.finish(name, "Failed", "jobset failed due to FailJobSet failure policy action")
    thread.join(30)
    assert (result[0].exit_code, len(read(given.plan))) == (2, 1)


def end_pods(cluster: Cluster) -> None:
    """What kubelets do with pods that are to be deleted: they end with a checkpoint, and are gone."""
    for pod in [name for kind, name in list(cluster.objects) if kind == "pods"]:
        if "deletionTimestamp" in cluster.objects["pods", pod]["metadata"]:
            cluster.says(pod, "saved")
            cluster.ends(pod, 75, "5")
            time.sleep(2.5)
            cluster.remove(pod)


@needs_kubectl
def test_stop_after_the_driver_was_killed(cluster, tmp_path):
    given = launched(tmp_path, topology="2x2")
    attempt = given.target.start(given.plan, 0)
    journal.append(
        given.plan.folder, {"event": "prepared"}, {"event": "starting", "attempt": 0, "checkpoint": None}
    )
    (pod,) = cluster.pods(attempt.handle["name"])
    cluster.runs(pod, "hello")
    assert look.status(given.plan.folder)["processes"][0]["state"] == "running"
    assert look.logs(given.plan.folder, process=0, attempt=None, lines=None) == "hello\n"
    kubelet = threading.Timer(1.0, end_pods, [cluster])
    kubelet.start()
    said = look.stop(given.plan.folder, grace=20.0)
    assert said.startswith("its processes have ended")
    assert f'configmap "{attempt.handle["name"]}" deleted' in said
    kubelet.join()
    thread, result, _, _ = driven(given)
    thread.join(30)
    assert (result[0].exit_code, result[0].message.startswith("stopped as asked")) == (75, True)
    assert look.logs(given.plan.folder, process=0, attempt=None, lines=1) == "saved\n"
    assert look.status(given.plan.folder)["checkpoint"] == 5


@needs_kubectl
def test_a_jobset_that_is_deleted_by_hand_is_not_sent_again(cluster, tmp_path):
    given = launched(tmp_path, topology="2x2")
    name = gke_manifest.name_of(given.plan, 0)
    thread, result, _, _ = driven(given)
    until(lambda: ("jobsets", name) in cluster.objects)
    cluster.runs(cluster.pods(name)[0], "hello")
    until(lambda: look.status(given.plan.folder)["processes"][0]["state"] == "running")
    subprocess.run(
        ["kubectl", "delete", "jobset", name, "--wait=false"], check=True, stdout=subprocess.DEVNULL
    )
    end_pods(cluster)
    thread.join(30)
    assert "stopped as asked" in result[0].message
    assert len(read(given.plan)) == 1


@needs_kubectl
@pytest.mark.parametrize(
    ("code", "said", "cure"),
    [
        (401, "Unauthorized", "gcloud auth login"),
        (403, 'jobsets is forbidden: User "x" cannot patch', "ask for the right"),
        (
            400,
            'unknown field "spec.failurePolicy.rules[0].onJobFailureMessagePatterns"',
            "0.10 or newer is needed",
        ),
        (404, 'namespaces "n" not found', "kubectl get namespaces"),
        (
            500,
            "error validating data; if you choose to ignore these errors, turn validation off with --validate=false",
            "validating",
        ),
    ],
)
def test_what_the_cluster_refuses_is_told_before_the_start(cluster, tmp_path, code, said, cure):
    cluster.refuse = lambda method, path: (code, said) if method == "PATCH" else None
    with pytest.raises(RequestError) as error:
        target_of().check(plain(tmp_path))
    assert "nothing was started" in str(error.value)
    assert cure in str(error.value)
    assert "--validate=false" not in str(error.value)  # advice of kubectl that would hide what is wrong
    assert cluster.objects == {}


@needs_kubectl
def test_a_cluster_without_jobset(cluster, tmp_path):
    cluster.has_jobset = False
    with pytest.raises(RequestError, match=r"the cluster has no JobSet; install 0\.10"):
        target_of().check(plain(tmp_path))


@needs_kubectl
@pytest.mark.parametrize("changes", [{}, {"context": "elsewhere"}])
def test_no_context(tmp_path, monkeypatch, changes):
    (tmp_path / "kubeconfig").write_text("apiVersion: v1\nkind: Config\n")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RequestError, match="gcloud container clusters get-credentials CLUSTER"):
        target_of(**changes).check(plain(tmp_path))


@needs_kubectl
def test_a_misspelt_field_is_refused(cluster, schema, tmp_path, monkeypatch):
    """That the stand-in would see what is wrong."""
    if schema is None:
        pytest.skip("the CRD of JobSet is not here")
    real = jobset.jobset
    monkeypatch.setattr(
        jobset, "jobset", lambda job: (b := real(job)) | {"spec": b["spec"] | {"suspended": True}}
    )
    with pytest.raises(RequestError, match=r"spec\.suspended"):
        target_of().check(plain(tmp_path))


# ---- looks


def attempt_of(hosts: int = 2, slices: int = 1):
    handle = {"name": "x", "hosts": hosts, "slices": slices, "began": time.time()}
    return Attempt(0, handle)


def test_why_pods_wait():
    pending = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}],
    }
    image = {"name": "lmx", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    pods = [
        {
            "metadata": {"name": f"p{i}", "labels": {"batch.kubernetes.io/job-completion-index": str(i)}},
            "status": status,
        }
        for i, status in enumerate([pending, {"phase": "Pending", "containerStatuses": [image]}])
    ]
    known = gke_look.looked(attempt_of(), gke_look.State(True), pods, {}, stopping=False)
    assert [task["message"] for task in known["tasks"]] == ["0/3 nodes", "ErrImagePull: no such image"]
    queued = {
        "kind": "JobSet",
        "spec": {"suspend": True},
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
    }
    assert gke_look.state_of([queued]).message == "waits in the queue q"


def test_what_was_known_outlives_the_pods():
    ended = {
        "name": "lmx",
        "state": {"terminated": {"exitCode": 137, "finishedAt": "2026-01-01T00:00:00Z", "message": "6\n"}},
    }
    pod = {
        "metadata": {"name": "p", "labels": {}},
        "status": {"phase": "Failed", "containerStatuses": [ended]},
    }
    known = gke_look.looked(attempt_of(1), gke_look.State(True), [pod], {}, stopping=False)
    assert known["tasks"][0]["state"] == "waiting"  # the JobSet is about to start it again
    known = gke_look.looked(attempt_of(1), gke_look.State(False), [pod], known, stopping=True)
    assert (known["tasks"][0]["exit_code"], known["checkpoint"]) == (-9, 6)
    known = gke_look.looked(attempt_of(1), gke_look.State(False), [], known, stopping=True)
    assert (known["tasks"][0]["state"], known["tasks"][0]["exit_code"], known["checkpoint"]) == (
        "ended",
        -9,
        6,
    )


def test_a_jobset_that_was_never_sent():
    late = attempt_of(1)._replace(handle=attempt_of(1).handle | {"began": 0.0})
    assert (
        gke_look.looked(attempt_of(1), gke_look.State(False), [], {}, stopping=False)["tasks"][0]["state"]
        == "waiting"
    )
    known = gke_look.looked(late, gke_look.State(False), [], {}, stopping=False)
    assert (known["tasks"][0]["state"], known["tasks"][0]["exit_code"]) == ("lost", 1)
    assert "was not sent" in known["tasks"][0]["message"]


def test_lines_that_come_twice():
    last = {}
    first = "[pod/p-0/lmx] 2026-01-01T00:00:00.5Z a\n[pod/p-0/lmx] 2026-01-01T00:00:00.51Z b [x] c\n"
    assert gke_look.sorted_logs(first, last) == {"p-0": ["a", "b [x] c"]}
    more = first + "[pod/p-0/lmx] 2026-01-01T00:00:00.511Z \n[pod/p-1/lmx] 2026-01-01T00:00:01Z d\n"
    assert gke_look.sorted_logs(more, last) == {"p-0": [""], "p-1": ["d"]}
