"""The life of a TPU pod: found, asked for, waited for, deleted. All of it through gcloud, and safe to repeat.

RUN_DIR/launch/pod.json    name, whether it was made for this run, and what is known of its workers
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io.files import read_json, write_atomic
from lmx.launch.gcloud import Cloud, Trouble
from lmx.launch.target import Plan
from lmx.launch.tpu_vm_config import TpuVm

QUEUED, VM = "queued-resources", "tpu-vm"
READY = ("ACTIVE", "READY")
GONE = {
    QUEUED: ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING"),
    VM: ("STOPPING", "STOPPED", "DELETING", "PREEMPTED", "TERMINATED", "HIDING", "HIDDEN"),
}
"""States from which a pod does not become ready by itself."""
GOING = ("SUSPENDING", "DELETING")
MOST_TRIES = 3
PATIENCE = 10
"""How many times in a row gcloud may get no answer while a pod is waited for."""

Say = Callable[[str], None]


class Pod(NamedTuple):
    """A pod as gcloud describes it.

    sort   `queued-resources` or `tpu-vm`
    nodes  names of its TPU VMs, one a slice, slice 0 first
    born   when it was made: another time is another pod
    why    what the service says of a failure
    """

    name: str
    sort: str
    state: str
    nodes: tuple[str, ...]
    born: str
    why: str = ""

    @property
    def ready(self) -> bool:
        """Whether its workers can be reached."""
        return self.state in READY

    @property
    def gone(self) -> bool:
        """Whether it will not become ready any more."""
        return self.state in GONE[self.sort]

    def __str__(self) -> str:
        sort = "queued resource" if self.sort == QUEUED else "TPU VM"
        return f"{sort} {self.name} is {self.state}" + (f" ({self.why})" if self.why else "")


def cloud_of(target: TpuVm) -> Cloud:
    """gcloud for this target."""
    return Cloud(target.gcloud, target.project, target.zone)


def name_of(target: TpuVm, plan: Plan) -> str:
    """The pod's name: its own, or one of the run's, which differs between run directories of the same name."""
    if target.name is not None:
        return target.name
    words = re.sub(r"[^a-z0-9]+", "-", plan.run.lower()).strip("-")[:40].strip("-")
    return f"lmx-{words}-{hashlib.sha256(str(plan.folder).encode()).hexdigest()[:6]}"


def find(target: TpuVm, name: str, *, sorts: tuple[str, ...] = (QUEUED, VM)) -> Pod | None:
    """The pod of this name; None where there is none."""
    for sort in sorts:
        found = cloud_of(target).describe(sort, name)
        if found is not None:
            return _queued(name, found) if sort == QUEUED else _vm(name, found)
    return None


def _queued(name: str, found: dict[str, Any]) -> Pod:
    state = found.get("state", {})
    nodes: list[str] = []
    for spec in found.get("tpu", {}).get("nodeSpec", []):
        several = spec.get("multisliceParams")
        if spec.get("nodeId"):
            nodes.append(spec["nodeId"])
        elif several:
            prefix = several.get("nodeIdPrefix") or name
            nodes += [f"{prefix}-{i}" for i in range(int(several["nodeCount"]))]
    why = state.get("failedData", {}).get("error", {}).get("message", "")
    return Pod(name, QUEUED, state.get("state", "CREATING"), tuple(nodes), found.get("createTime", ""), why)


def _vm(name: str, found: dict[str, Any]) -> Pod:
    return Pod(name, VM, found.get("state", "CREATING"), (name,), found.get("createTime", ""))


def create_words(target: TpuVm, name: str) -> tuple[str, ...]:
    """The command that asks for the queued resource."""
    flags: dict[str, str | None] = {
        "--accelerator-type": target.accelerator_type,
        "--type": target.type,
        "--topology": target.topology,
        "--runtime-version": target.runtime_version,
        "--network": target.network,
        "--subnetwork": target.subnetwork,
        "--service-account": target.service_account,
    }
    nodes = (f"--node-count={target.count}", f"--node-prefix={name}")
    words = list(nodes if target.count > 1 else (f"--node-id={name}",))
    words += [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    words += [flag for flag, wanted in (("--spot", target.spot), ("--reserved", target.reserved)) if wanted]
    return cloud_of(target).words(QUEUED, "create", name, *words, *target.options)


def delete_words(target: TpuVm, name: str) -> tuple[str, ...]:
    """The command that deletes the queued resource with its workers."""
    return cloud_of(target).words(QUEUED, "delete", name, "--force")


def record(plan: Plan) -> dict[str, Any]:
    """What is kept of the pod in the run's folder."""
    return read_json(plan.folder / "pod.json") or {}


def keep(plan: Plan, **facts: Any) -> None:
    """Adds facts to it."""
    write_atomic(plan.folder / "pod.json", json.dumps(record(plan) | facts, indent=1) + "\n", sync=True)


def refuse(target: TpuVm, pod: Pod | None, name: str) -> str | None:
    """Why a pod cannot be used and shall not be made (again), with the cure; None where there is no such reason."""
    if pod is None:
        if target.create == "missing":
            return None
        return (
            f"target.name={name}: there is no queued resource and no TPU VM of that name; those there are: gcloud "
            "compute tpus queued-resources list; target.create=missing makes one"
        )
    if not pod.gone:
        return None
    if pod.sort == VM:
        return f"{pod}; delete it, or start it (gcloud compute tpus tpu-vm start {name})"
    if not target.recreate:
        return f"{pod}; target.recreate=true deletes it and makes it again"
    if target.create == "never":
        return f"{pod}; target.create=missing is needed for target.recreate=true"
    return None


def obtain(target: TpuVm, plan: Plan, say: Say) -> Pod:
    """The pod, ready: what is missing is made, what is gone made again where that is asked for, what is on its way
    waited for. RequestError where it cannot be, or `launch stop` was called."""
    name = name_of(target, plan)
    until = None if target.wait is None else time.monotonic() + target.wait
    made, silent, last = 0, 0, ""
    sorts: tuple[str, ...] = (QUEUED,) if target.name is None else (QUEUED, VM)
    while True:
        try:
            pod = find(target, name, sorts=sorts)
            silent = 0
        except Trouble as trouble:
            silent += 1
            if trouble.kind != "no answer" or silent > PATIENCE:
                raise
            say(str(trouble))
            _pause(plan, target.ask_every)
            continue
        if "made" not in record(plan):
            keep(plan, name=name, made=pod is None)
        reason = refuse(target, pod, name)
        if reason is not None:
            raise RequestError(reason)
        if pod is not None and pod.ready:
            return pod
        if pod is None or (pod.gone and pod.state not in GOING):
            _unless_stopped(plan)
            made += 1
            if made > MOST_TRIES:
                raise RequestError(f"{pod or name}; it was made {MOST_TRIES} times, and went away each time")
            _make(target, name, pod, say)
            continue
        if str(pod) != last:
            last = str(pod)
            say(f"{last}; waiting until it is ready")
        if until is not None and time.monotonic() > until:
            raise RequestError(
                f"{pod}, after target.wait={target.wait:.0f}s; a longer one, another zone or type?"
            )
        _pause(plan, target.ask_every)


def _make(target: TpuVm, name: str, pod: Pod | None, say: Say) -> None:
    cloud = cloud_of(target)
    if pod is not None:
        say(f"{pod}; it is deleted and made again")
        delete(target, name)
    say(f"queued resource {name} is asked for")
    try:
        cloud.run(create_words(target, name))
    except Trouble as trouble:
        if (
            trouble.kind != "there already"
        ):  # asked for by a driver that was killed before it heard the answer
            raise


def _pause(plan: Plan, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _unless_stopped(plan)
        time.sleep(min(0.5, seconds))


def _unless_stopped(plan: Plan) -> None:
    if (plan.folder / "stop").exists():
        raise RequestError("while the pod was waited for")


def delete(target: TpuVm, name: str) -> bool:
    """Deletes a queued resource with its workers; whether there was one."""
    try:
        cloud_of(target).run(delete_words(target, name))
    except Trouble as trouble:
        if trouble.kind == "not there":
            return False
        raise
    return True
