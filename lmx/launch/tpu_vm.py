"""Target `tpu_vm`: the workers of a TPU pod, reached by the ssh command that gcloud itself would use."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.files import read_json, write_atomic
from lmx.launch import gang, ssh
from lmx.launch.gcloud import Trouble
from lmx.launch.host import Host, Unreachable, missing_program
from lmx.launch.target import Attempt, Plan, Seen, Task, Unreached, each, read
from lmx.launch.tpu_pod import (
    QUEUED,
    VM,
    Pod,
    cloud_of,
    delete,
    find,
    keep,
    name_of,
    obtain,
    record,
    refuse,
)
from lmx.launch.tpu_vm_config import TpuVm
from lmx.launch.tpu_workers import hosts_of, reach

FRESH = 60.0
"""Seconds for which a pod that was just seen to be ready is not asked about again."""
SETTLE = 60.0
"""Seconds within which a pod whose workers have stopped answering is seen to be gone, if that is why."""


def check_request(target: TpuVm) -> None:
    """RequestError where a program is missing here."""
    for program in (target.gcloud, "ssh", *(("git",) if target.code == "snapshot" else ())):
        if shutil.which(program) is None:
            raise RequestError(missing_program(Path(program).name))


def check(target: TpuVm, plan: Plan) -> None:
    """RequestError where gcloud cannot ask (credentials, project, zone), or the pod is gone and shall not be made."""
    name = name_of(target, plan)
    pod = find(target, name, sorts=(QUEUED,) if target.name is None else (QUEUED, VM))
    reason = refuse(target, pod, name)
    if reason is not None:
        raise RequestError(f"nothing was started: {reason}")
    if "made" not in record(plan):  # asked again later it is there, and still was made for this
        keep(plan, name=name, made=pod is None)


def say(text: str) -> None:
    """The driver's words."""
    from lmx.launch.drive import to_stderr

    to_stderr(text)


# ---- setup


def place_of(target: TpuVm, plan: Plan) -> TpuVm:
    """The target with {code} of its setup filled in."""
    if target.setup is None:
        return target
    folder = ssh.code_folder(target, plan)
    return target.model_copy(update={"setup": target.setup.replace("{code}", folder or "lmx")})


def prepare(target: TpuVm, plan: Plan) -> None:
    """Makes the pod, waits for it, brings code and setup to its workers; on those that have them nothing is done."""
    settle(target, plan, obtain(target, plan, say))


def settle(target: TpuVm, plan: Plan, pod: Pod) -> list[Host]:
    """Sets the workers of a ready pod up, and checks them. Their hosts, for runs."""
    say(f"{pod}; its workers are set up")
    boot = hosts_of(target, pod)
    if target.runs is None and len(boot) > 1:
        raise RequestError(
            f"{pod.name} has {len(boot)} workers, which save checkpoints together: set target.runs to a folder that "
            "all mount, such as target.runs=/mnt/runs"
        )
    place = place_of(target, plan)
    ssh.prepare(place, plan, boot)
    hosts = [host._replace(python=target.python) for host in boot]
    ssh.check_hosts(place, plan, hosts)
    if target.runs is not None:
        check_storage(target, pod, boot)
    keep(plan, born=pod.born, seen=time.time(), sort=pod.sort, hosts=[host._asdict() for host in hosts])
    return hosts


def storage_commands(target: TpuVm, pod: Pod) -> list[tuple[str, str]]:
    """(name, shell command): of worker 0, of the others, and of worker 0 again, to see that `runs` is what it is said
    to be: not on the worker's own disk, and the same folder on all."""
    assert target.runs is not None
    runs, name = shlex.quote(target.runs), shlex.quote(f".lmx-{pod.name}-{pod.born}")
    own = f"target.runs={target.runs} is on the worker's own disk, which goes with the pod; mount storage there in "
    other = f"target.runs={target.runs} is not the folder that worker 0 has there; mount the same storage on all in "
    return [
        (
            "first",
            f'mkdir -p {runs} && cd {runs} || exit 1\nif [ "$(stat -c %d .)" = "$(stat -c %d /)" ]; then\n'
            f"echo {shlex.quote(own + 'target.setup')}; exit 1; fi\ntouch {name}",
        ),
        (
            "others",
            f"ls {runs} >/dev/null; test -e {runs}/{name} || {{ echo {shlex.quote(other + 'target.setup')}; exit 1; }}",
        ),
        ("last", f"rm -f {runs}/{name}"),
    ]


def check_storage(target: TpuVm, pod: Pod, hosts: Sequence[Host]) -> None:
    """RequestError where checkpoints would go with the pod, or each worker would save into a folder of its own."""
    commands = storage_commands(target, pod)
    rest = hosts[1:]
    for (name, command), those in zip(commands, (hosts[:1], rest, hosts[:1]), strict=True):
        request = {"command": command, "folder": f"{target.workdir}/setup", "cwd": target.workdir}

        def ask(i: int, those: Sequence[Host] = those, name: str = name, request: Any = request) -> None:
            mark = f"storage-{name}-{pod.born}-{hosts.index(those[i])}".replace(":", "")
            those[i].call("setup", timeout=gang.CALL_TIMEOUT, mark=mark, **request)

        gang.on_all(those, ask)


# ---- runs


def layout(
    target: TpuVm, plan: Plan, hosts: Sequence[Host] | None = None, *, port: int | None = None
) -> gang.Layout:
    """Hosts and processes, one a worker. On TPUs the processes find each other by the pod's metadata."""
    if hosts is None:
        hosts = known(plan)
    environment, coordinator = dict(target.env), None
    if target.devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(target.devices)}
        if port is None:
            port = int(hosts[0].call("probe", timeout=ssh.PROBE_TIMEOUT, python=target.python)["port"])
        coordinator = f"{hosts[0].way[-1].rpartition('@')[2]}:{port or 'PORT'}"
    return gang.Layout(
        hosts=tuple(hosts),
        per_host=1,
        workdir=target.workdir,
        coordinator=coordinator,
        environment=environment,
        code=ssh.code_folder(target, plan),
        lost_after=target.lost_after,
    )


def known(plan: Plan) -> list[Host]:
    """The workers as they were set up last."""
    return [Host(h["name"], tuple(h["way"]), h["python"]) for h in record(plan).get("hosts", [])]


def start(target: TpuVm, plan: Plan, number: int, *, resume: bool) -> Attempt:
    """Starts every process. A pod that is gone is made again first; one that goes while they start is a preemption of
    the attempt, which is returned."""
    while True:
        hosts = _hosts(target, plan)
        try:
            return gang.start(plan, layout(target, plan, hosts), number, resume=resume)
        except (RequestError, Unreachable) as error:
            words = _goes(target, plan, hosts)
            if words is None:
                away = isinstance(error, Unreachable | Unreached)
                raise (Unreached if away else RequestError)(str(error)) from None
            keep(plan, seen=0)
            begun = read(plan)
            if begun and begun[-1].number == number:  # written before the first process was started
                _note(plan, number, words)
                return begun[-1]


def _hosts(target: TpuVm, plan: Plan) -> list[Host]:
    """The workers of the pod, set up: anew where it is another pod than before."""
    facts = record(plan)
    if time.time() - facts.get("seen", 0) < FRESH:
        return known(plan)
    pod = obtain(target, plan, say)
    if pod.born == facts.get("born") and facts.get("hosts"):
        return known(plan)
    return settle(target, plan, pod)


def renew(target: TpuVm, plan: Plan) -> None:
    """Asks for the pod, and makes it and sets it up again where it is gone and that is asked for."""
    keep(plan, seen=0)
    _hosts(target, plan)
    keep(plan, seen=time.time())


def taken(target: TpuVm, plan: Plan) -> bool:
    """Whether the pod that was set up is gone."""
    return bool(record(plan).get("hosts")) and _gone(target, plan) is not None


def _goes(target: TpuVm, plan: Plan, hosts: Sequence[Host]) -> str | None:
    """How the pod is gone, or goes while its workers do not answer; None where it stays."""
    until = time.monotonic() + SETTLE
    while True:
        words = _gone(target, plan)
        if words is not None:
            return words
        if not any(each(lambda i: reach(hosts[i], 0), len(hosts))) or time.monotonic() > until:
            return None
        time.sleep(min(target.ask_every, 5.0))


def _gone(target: TpuVm, plan: Plan) -> str | None:
    """How the pod that was set up is gone; None where it is still there."""
    name = name_of(target, plan)
    pod = find(target, name, sorts=(record(plan).get("sort", QUEUED),))
    if pod is None:
        return f"pod {name} is not there any more: preempted"
    other = pod.born != record(plan).get("born", pod.born)
    return f"{pod}: preempted" if pod.gone or other else None


def _note(plan: Plan, number: int, words: str | None) -> None:
    path = plan.attempt_folder(number) / "pod.json"
    write_atomic(path, json.dumps({"asked": time.time(), "gone": words}) + "\n")


def poll(target: TpuVm, plan: Plan, attempt: Attempt, *, logs: bool) -> Seen:
    """What the workers say; where one is silent or has failed, also what gcloud says of the pod."""
    seen = gang.poll(plan, attempt, logs=logs)
    silent = any(task.message and task.state in ("waiting", "running") for task in seen.tasks)
    failed = not seen.running and seen.exit_code not in (0, 2)
    if not (silent or failed):
        return seen
    words = _preempted(target, plan, attempt, at_once=failed, write=logs)
    if words is None:
        return seen
    now = time.time()
    tasks = tuple(_taken(task, words, now) for task in seen.tasks)
    return seen._replace(tasks=tasks, preempted=True)


def _taken(task: Task, words: str, now: float) -> Task:
    if task.state not in ("waiting", "running", "lost"):
        return task
    return task._replace(state="lost", exit_code=75, ended=task.ended or now, message=words)


def _preempted(target: TpuVm, plan: Plan, attempt: Attempt, *, at_once: bool, write: bool) -> str | None:
    """How the pod is gone, in words; None where it is not. Once gone it stays so for this attempt: a pod that is made
    again bears the same name."""
    before = read_json(plan.attempt_folder(attempt.number) / "pod.json") or {}
    if before.get("gone"):
        return before["gone"]
    if not at_once and time.time() - before.get("asked", 0) < target.ask_every:
        return None
    try:
        words = _gone(target, plan)
    except Trouble:  # no answer from gcloud either: what the workers say holds
        return None
    if write:
        _note(plan, attempt.number, words)
    return words


def release(target: TpuVm, plan: Plan) -> list[str]:
    """Deletes the pod where it was made for this run and is not to be kept."""
    facts = record(plan)
    if not facts.get("name"):
        return []
    name = facts["name"]
    if not facts.get("made"):
        return [f"pod {name} was there before this run, and stays"]
    words = " ".join(cloud_of(target).words(QUEUED, "delete", name, "--force"))
    if target.keep:
        return [f"pod {name} stays (target.keep=true), and costs; delete it by: {words}"]
    try:
        there = delete(target, name)
    except RequestError as error:
        return [f"pod {name} COULD NOT BE DELETED, and costs; delete it by: {words}\n    {error}"]
    return [f"queued resource {name} is deleted"] if there else []
