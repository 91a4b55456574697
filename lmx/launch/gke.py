"""Target `gke`: the run is a JobSet of a cluster, and each of its processes a pod; everything goes through kubectl.

The JobSet starts its pods again by itself, so a run goes on while nobody looks after it. What is known of an attempt
is kept in `seen.json` of its folder: pods go, and how they ended goes with them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.io.files import read_json, write_atomic
from lmx.launch import gke_look, gke_manifest, jobset
from lmx.launch.gke_config import Gke
from lmx.launch.host import missing_program
from lmx.launch.target import Attempt, Plan, Seen, Step, Task, log_file, write

TIMEOUT = 60.0
LATE = 30.0
"""Seconds by which a log may come late."""

SEND = ("apply", "--server-side", "--field-manager=lmx", "--force-conflicts", "--filename=-")
KINDS = "jobsets.jobset.x-k8s.io,pods"

CURES = (
    (
        r"current-context is not set|context .* does not exist|no context|localhost:8080|context was not found",
        "gcloud container clusters get-credentials CLUSTER --location=LOCATION, or set target.context "
        "(kubectl config get-contexts)",
    ),
    (
        r"gke-gcloud-auth-plugin",
        "install the plugin that signs in: gcloud components install gke-gcloud-auth-plugin",
    ),
    (
        r"logged in|Unauthorized|credentials|invalid_grant",
        "sign in again: gcloud auth login, then gcloud container clusters get-credentials CLUSTER",
    ),
    (
        r'no matches for kind "JobSet"|resource type "jobsets|could not find the requested resource',
        "the cluster has no JobSet; install 0.10 or newer: https://jobset.sigs.k8s.io/docs/installation",
    ),
    (r"onJobFailureMessagePatterns", "the cluster's JobSet is too old; 0.10 or newer is needed"),
    (r'namespaces "[^"]*" not found', "set target.namespace to one that is there (kubectl get namespaces)"),
    (r"[Ff]orbidden", "ask for the right to create JobSets and ConfigMaps there, or set target.namespace"),
    (
        r"refused|timed out|timeout|no such host|unreachable|no answer",
        "the cluster must answer: kubectl cluster-info",
    ),
)


class NoAnswer(Exception):
    """The cluster did not answer, or refused; kubectl's words."""


def words_of(target: Gke, *words: str) -> tuple[str, ...]:
    """A call of kubectl."""
    place = {"context": target.context, "namespace": target.namespace}
    return (target.kubectl, *(f"--{k}={v}" for k, v in place.items() if v is not None), *words)


def call(target: Gke, *words: str, text: str = "") -> str:
    """What kubectl prints, `text` being its standard input; NoAnswer with its complaint, RequestError without it."""
    try:
        done = subprocess.run(
            words_of(target, *words, "--request-timeout=30s"),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise RequestError(missing_program(target.kubectl)) from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {TIMEOUT:.0f} s") from None
    if done.returncode:
        # Lines such as `E1121 10:00:00 ...` tell how often kubectl has tried.
        said = [
            line.strip() for line in done.stderr.splitlines() if line and not re.match(r"[EWI]\d{4} ", line)
        ]
        told = re.sub(r"; if you choose to ignore these errors, .*?--validate=false", "", "; ".join(said))
        raise NoAnswer(told or f"kubectl ended with exit code {done.returncode}")
    return done.stdout


def cured(error: NoAnswer) -> str:
    """The complaint, and what to do about it."""
    found = next((cure for pattern, cure in CURES if re.search(pattern, str(error))), None)
    return f"{error}; {found}" if found else str(error)


# ---- before the start


def check_request(target: Gke) -> None:
    """RequestError where there is no such slice, no image, or no place for what the run writes."""
    jobset.slice_of(target.accelerator, target.topology)
    if target.image is None:
        raise RequestError(
            "there is no image for the containers; set target.image=IMAGE, with lmx's packages in it"
        )
    if (target.claim is None) == (target.bucket is None):
        raise RequestError(
            f"target.claim={target.claim or 'null'} target.bucket={target.bucket or 'null'}: pods are gone when they "
            "have ended, so what a run writes needs a volume: set one of target.claim=PVC and target.bucket=BUCKET"
        )


def check(target: Gke, plan: Plan) -> None:
    """RequestError where kubectl is not here, or the cluster would refuse what is sent."""
    if shutil.which(target.kubectl) is None:
        raise RequestError(missing_program(target.kubectl))
    text = gke_manifest.as_yaml(gke_manifest.manifests(target, plan, 0))
    try:
        call(target, *SEND, "--dry-run=server", text=text)
    except NoAnswer as error:
        raise RequestError(f"nothing was started: the cluster refuses the JobSet: {cured(error)}") from None


def steps(target: Gke, plan: Plan) -> list[Step]:
    """The manifest, and the command that sends it."""
    text = gke_manifest.as_yaml(gke_manifest.manifests(target, plan, 0))
    return [Step(argv=words_of(target, *SEND), input=text)]


# ---- start


def start(target: Gke, plan: Plan, number: int) -> Attempt:
    """Sends the JobSet; sending it again changes nothing. What earlier attempts left in the cluster is deleted."""
    name = gke_manifest.name_of(plan, number)
    hosts = jobset.slice_of(target.accelerator, target.topology).hosts
    handle = {"name": name, "hosts": hosts, "slices": target.slices, "began": time.time()}
    attempt = Attempt(number, handle)
    write(plan, attempt)
    text = gke_manifest.as_yaml(gke_manifest.manifests(target, plan, number))
    try:
        if number:
            _delete(
                target, f"{jobset.RUN_LABEL}={gke_manifest.run_label(plan)},{jobset.ATTEMPT_LABEL}!={name}"
            )
        call(target, *SEND, text=text)
    except NoAnswer as error:
        raise RequestError(f"the cluster refuses the JobSet: {cured(error)}") from None
    return attempt


def _delete(target: Gke, selector: str) -> str:
    return call(
        target, "delete", "jobsets.jobset.x-k8s.io,configmaps", f"--selector={selector}", "--wait=false"
    )


# ---- look


def poll(target: Gke, plan: Plan, attempt: Attempt, *, driving: bool) -> Seen:
    """The processes, and how far the run is. The cluster is asked at most every `ask_every`, however often this is
    called; what the pods have logged since is brought when `driving`."""
    folder = plan.attempt_folder(attempt.number)
    folder.mkdir(parents=True, exist_ok=True)
    known = read_json(folder / "seen.json") or {}
    if driving and time.time() - known.get("time", 0.0) < target.ask_every:
        return _seen(known)
    try:
        found = json.loads(call(target, "get", KINDS, f"--selector={_selector(attempt)}", "--output=json"))[
            "items"
        ]
    except NoAnswer as error:
        return _seen(known | {"silent": f"the cluster does not answer: {cured(error)}"}, attempt)
    state = gke_look.state_of(found)
    pods = [item for item in found if item["kind"] == "Pod"]
    known = gke_look.looked(attempt, state, pods, known, stopping=(folder / "stop").exists())
    if driving:
        known["logs"] = bring_logs(target, plan, attempt, pods, known.get("logs", {}))
        told = gke_look.last_row(log_file(plan, attempt.number, 0))
        known |= {name: value for name, value in told.items() if value is not None}
        write_atomic(folder / "seen.json", json.dumps(known))
        if known["existed"] and not state.exists and not known["over"] and not (folder / "stop").exists():
            (plan.folder / "stop").touch()  # whoever deletes the JobSet by hand wants the run to end
    return _seen(known)


def _selector(attempt: Attempt) -> str:
    return f"{jobset.ATTEMPT_LABEL}={attempt.handle['name']}"


def _seen(known: Mapping[str, Any], attempt: Attempt | None = None) -> Seen:
    """What is written down, as it is told."""
    tasks = [Task(**task) for task in known.get("tasks", ())]
    if "silent" in known:
        assert attempt is not None
        name, count = attempt.handle["name"], attempt.handle["hosts"] * attempt.handle["slices"]
        tasks = tasks or [Task(i, name, "waiting") for i in range(count)]
        tasks = [task._replace(message=known["silent"]) for task in tasks]
    taken, loss = known.get("preempted", False), known.get("loss")
    return Seen(tuple(tasks), known.get("step"), known.get("checkpoint"), taken, loss)


# ---- logs


def bring_logs(
    target: Gke, plan: Plan, attempt: Attempt, pods: Sequence[Mapping[str, Any]], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds what the pods have logged since to the files of the attempt; what to go on from, JSON.

    A log comes with the time of each line: what comes twice is known by it.
    """
    begun = time.time()
    since = [f"--since={begun - known['time'] + LATE:.0f}s"] if known else []
    names = {pod["metadata"]["name"]: gke_look.index_of(pod, attempt.handle["hosts"]) for pod in pods}
    try:
        text = call(
            target,
            "logs",
            f"--selector={_selector(attempt)}",
            "--container=lmx",
            "--prefix",
            "--timestamps",
            "--tail=-1",
            "--ignore-errors",
            *since,
        )
    except NoAnswer:
        return dict(known)
    last: dict[str, str] = dict(known.get("last", {}))
    for pod, lines in gke_look.sorted_logs(text, last).items():
        if pod in names:
            with open(log_file(plan, attempt.number, names[pod]), "a", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in lines)
    return {"time": begun, "last": last}


# ---- stop


def stop(target: Gke, plan: Plan, attempt: Attempt, *, grace: float) -> list[str]:
    """Deletes the JobSet: its pods get SIGTERM, and `target.grace` at most, or `grace` where that is shorter."""
    folder = plan.attempt_folder(attempt.number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").touch()
    soon = target.model_copy(update={"ask_every": 0.5})
    holder = journal.driver(plan.folder)
    driving = holder is None or holder.startswith(
        f"process {os.getpid()} "
    )  # else the driver writes down what it sees
    try:
        poll(soon, plan, attempt, driving=driving)
        call(
            target,
            "delete",
            "jobsets.jobset.x-k8s.io",
            attempt.handle["name"],
            "--ignore-not-found",
            "--wait=false",
        )
        if not _gone(soon, plan, attempt, grace, driving):
            call(
                target,
                "delete",
                "pods",
                f"--selector={_selector(attempt)}",
                "--grace-period=1",
                "--wait=false",
            )
            if not _gone(soon, plan, attempt, 60, driving):
                return [
                    f"pods of JobSet {attempt.handle['name']} do not end: kubectl get pods -l {_selector(attempt)}"
                ]
    except NoAnswer as error:
        return [f"JobSet {attempt.handle['name']} could not be deleted: {cured(error)}"]
    return []


def _gone(target: Gke, plan: Plan, attempt: Attempt, patience: float, driving: bool) -> bool:
    """Whether all pods have ended; meanwhile what they log and how they end is written down."""
    until = time.monotonic() + patience
    while poll(target, plan, attempt, driving=driving).running:
        if time.monotonic() > until:
            return False
        time.sleep(1.0)
    return True


def release(target: Gke, plan: Plan) -> list[str]:
    """Deletes the JobSets and ConfigMaps of the run; what it has written stays on its volume."""
    try:
        said = _delete(target, f"{jobset.RUN_LABEL}={gke_manifest.run_label(plan)}")
    except (NoAnswer, RequestError) as error:
        return [f"what is left of the run in the cluster was not deleted: {error}"]
    return [line for line in said.splitlines() if "deleted" in line]
