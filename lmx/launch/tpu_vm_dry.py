"""What target `tpu_vm` would do, command by command. Only the workers' addresses are not known beforehand."""

from __future__ import annotations

from lmx.launch import gang, ssh
from lmx.launch.host import Host
from lmx.launch.target import Plan, Step
from lmx.launch.tpu_pod import QUEUED, VM, cloud_of, create_words, delete_words, name_of
from lmx.launch.tpu_vm import layout, place_of
from lmx.launch.tpu_vm_config import TpuVm, workers
from lmx.launch.tpu_workers import MARK, ssh_words

FOUND = "FOUND"
"""Stands for the options that gcloud prints."""


def steps(target: TpuVm, plan: Plan) -> list[Step]:
    """gcloud's commands, then the calls of the agent on every worker, then the end of the pod."""
    name, cloud = name_of(target, plan), cloud_of(target)
    found = [Step(cloud.describe_words(QUEUED, name), where=f"here: is there a queued resource {name}?")]
    if target.name is not None:
        found.append(Step(cloud.describe_words(VM, name), where="here: where there is none, is it a TPU VM?"))
    if target.recreate:
        found.append(Step(delete_words(target, name), where="here: where it is SUSPENDED or FAILED"))
    if target.create == "missing":
        found.append(Step(create_words(target, name), where="here: where there is none"))
        every = f"here: every {target.ask_every:.0f} s until it is ACTIVE"
        found.append(Step(cloud.describe_words(QUEUED, name), where=every))
    several = target.count > 1
    nodes = [f"{name}-{i}" for i in range(target.count)] if several else [name]
    hosts = []
    for node in nodes:
        found.append(Step(ssh_words(target, node, "0", "true"), where="here: brings your key to the workers"))
        asked = ssh_words(target, node, "all", MARK, "--dry-run")
        found.append(Step(asked, where="here: prints how each worker is reached, the FOUND words below"))
        hosts += _hosts(target, node)
    place = place_of(target, plan)
    boot = [host._replace(python=target.boot_python) for host in hosts]
    found += ssh.prepare_steps(place, plan, boot)
    found += gang.steps(plan, layout(target, plan, hosts, port=0))
    if target.create == "missing" and not target.keep:
        where = "here: at the end of the run, where the pod was made for it"
        found.append(Step(delete_words(target, name), where=where))
    return found


def _hosts(target: TpuVm, node: str) -> list[Host]:
    count = workers(target)
    user = target.user or "USER"
    known = [f"worker {i}" for i in range(count)] if count is not None else ["each worker"]
    return [
        Host(f"{node} {worker}", ("ssh", FOUND, f"{user}@{worker.replace(' ', '-').upper()}"), target.python)
        for worker in known
    ]
