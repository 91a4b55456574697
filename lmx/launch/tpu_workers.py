"""The workers of a TPU pod: how gcloud would reach each by ssh, and whether they answer."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from lmx.config.errors import RequestError
from lmx.launch import ssh
from lmx.launch.host import Host
from lmx.launch.target import each
from lmx.launch.tpu_pod import VM, Pod, cloud_of
from lmx.launch.tpu_vm_config import TpuVm

MARK = "LMX-COMMAND"
"""Stands for the command in what gcloud prints."""
REACHABLE_WITHIN = 180.0
"""Seconds until the keys that gcloud has put into the metadata of a pod are known on all its workers."""


def ssh_words(target: TpuVm, node: str, worker: str, command: str, *more: str) -> tuple[str, ...]:
    """gcloud's command that runs `command` on a worker of a TPU VM, or on all of them."""
    track = "alpha" if target.connect == "iap" else None
    way = {"external": (), "internal": ("--internal-ip",), "iap": ("--tunnel-through-iap",)}[target.connect]
    flags = [f"--ssh-flag={word}" for word in target.ssh_options]
    place = node if target.user is None else f"{target.user}@{node}"
    words = (VM, "ssh", place, f"--worker={worker}", f"--command={command}", *more, *way, *flags)
    return cloud_of(target).words(*words, track=track)


def ways(target: TpuVm, printed: str) -> list[tuple[str, ...]]:
    """The words before a shell command on each worker, from what `gcloud ... ssh --dry-run` prints a line a worker.

    It prints words joined by spaces, unquoted: all are without spaces but the tunnel's. Options of our own come last,
    so that gcloud's and the user's hold: ssh takes the first value of each.
    """
    own = ssh.connection_options(target.connect_timeout)
    found = []
    for line in printed.splitlines():
        if not line.endswith(f" -- {MARK}"):
            continue
        head, _, tunnel = line.removesuffix(f" -- {MARK}").partition(" -o ProxyCommand ")
        words = head.split()
        if tunnel:
            proxy, _, rest = tunnel.partition(" -o ProxyUseFdpass=no")
            words += ["-o", f"ProxyCommand {proxy}", "-o", "ProxyUseFdpass=no", *rest.split()]
        found.append((*words[:-1], *own, words[-1]))
    return found


def hosts_of(target: TpuVm, pod: Pod) -> list[Host]:
    """Every worker of every slice, slice 0 first. gcloud brings the user's key to them, and says how it would reach
    them; RequestError where one does not answer."""
    Path("~/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)
    cloud = cloud_of(target)

    def of_slice(i: int) -> list[Host]:
        node = pod.nodes[i]
        cloud.run(ssh_words(target, node, "0", "true"))
        found = ways(target, cloud.run(ssh_words(target, node, "all", MARK, "--dry-run")))
        if not found:
            raise RequestError(
                f"gcloud does not say how it reaches the workers of {node}; another version of gcloud?"
            )
        return [Host(f"{node} worker {j}", way, target.boot_python) for j, way in enumerate(found)]

    first = of_slice(0)  # alone: where there is no key yet gcloud makes one, and two of them would collide
    rest = each(lambda i: of_slice(i + 1), len(pod.nodes) - 1)
    hosts = [host for slice_ in (first, *rest) for host in slice_]
    silent = [said for said in each(lambda i: reach(hosts[i], REACHABLE_WITHIN), len(hosts)) if said]
    if silent:
        raise RequestError("\n    ".join(["workers that cannot be reached:", *silent]))
    return hosts


def reach(host: Host, seconds: float) -> str | None:
    """Waits until a host answers; what ssh says where it does not."""
    until = time.monotonic() + seconds
    while True:
        try:
            done = subprocess.run(
                (*host.way, "true"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode == 0:
                return None
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            said = "no answer within 60 s"
        if time.monotonic() > until:
            return f"{host.name}: {said}"
        time.sleep(2)
