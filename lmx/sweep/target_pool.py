"""Pools of launch targets: their keys. Values are in conf/pool."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lmx.config.component import field
from lmx.config.errors import RequestError
from lmx.config.types import Duration, Text
from lmx.launch import Ssh, Target, TpuVm
from lmx.launch.ssh import names_of
from lmx.sweep.config import Pool
from lmx.sweep.pods import Pod

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Gangs(Pool):
    """What pools of launch targets have in common."""

    runs: Text | None = field(
        "folder of run directories that all pods reach under this name; null: where each target has them",
        effect="bookkeeping",
    )
    storage: Literal["shared", "separate"] = field(
        "shared: all pods reach the same run directories, which is proved before the start; separate: a job stays with "
        "the pods that reach its run directory, and begins anew elsewhere when they are gone",
        effect="bookkeeping",
    )
    poll_every: Duration = field("how often the hosts of a pod are asked", unit="s", effect="bookkeeping")
    patience: Duration = field(
        "how long a pod that was lost is asked whether it is there again", unit="s", effect="bookkeeping"
    )

    def targets(self) -> dict[str, Target]:
        """The pods: name -> target."""
        raise NotImplementedError

    def build(self, sweep: Path) -> list[Pod]:
        """A pod a target."""
        from lmx.sweep.target_pod import target_pods

        return target_pods(sweep, self.targets(), self.patience)

    def enlist(self, sweep: Path, tree: Mapping[str, Any], grace: float) -> list[str]:
        """Asks every pod, and proves that they share what they have to."""
        from lmx.launch.plan import Policy
        from lmx.sweep.enlist import enlist

        policy = Policy(0, 0, grace, self.poll_every, 0.0)
        return enlist(
            sweep,
            self.targets(),
            tree=tree,
            policy=policy,
            runs=self.runs,
            storage=self.storage,
            patience=self.patience,
        )

    def tree(self) -> dict[str, Any]:
        """The pool as a plain tree that `Pool.model_validate` reads."""
        return {**super().tree(), **self._targets_of_tree()}

    def _targets_of_tree(self) -> dict[str, Any]:
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether every pod runs a snapshot."""
        return all(target.takes_snapshot() for target in self.targets().values())


class TargetPool(Gangs):
    """Any targets of `lmx launch`, mixed: each is one pod."""

    pods: dict[Text, Target] = field("name of each pod -> its target", effect="bookkeeping")

    def targets(self) -> dict[str, Target]:
        """As they stand there."""
        return dict(self.pods)

    def _targets_of_tree(self) -> dict[str, Any]:
        from lmx.sweep.enlist import tree_of

        return {"pods": {name: tree_of(target) for name, target in self.pods.items()}}

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        fix = "+target@pool.pods.a=ssh 'pool.pods.a.hosts=[host1,host2]'"
        if not self.pods:
            return [("pool.pods", "there is no pod: name each, with its target", fix)]
        found = [
            ("pool.pods", f"{name!r} is no name for a pod: letters, digits, - _ .", fix)
            for name in self.pods
            if not _NAME.fullmatch(name)
        ]
        found += self._twice()
        for name, target in self.pods.items():
            where = f"pool.pods.{name}"
            for words in target.problems():
                key, message, cure = (text.replace("target.", f"{where}.") for text in words)
                found.append((key, message, cure))
        return found

    def _twice(self) -> list[tuple[str, str, str]]:
        """Machines that two pods name: each would run a job of its own on them."""
        owners: dict[tuple[str, str], list[str]] = {}
        for name, target in self.pods.items():
            machines: list[tuple[str, str]] = []
            if isinstance(target, Ssh):
                with contextlib.suppress(RequestError):  # told with all else, when the pods are asked
                    machines = [("host", host) for host in names_of(target)]
            if isinstance(target, TpuVm) and target.name is not None:
                machines = [("TPU pod", f"{target.name} in {target.zone}")]
            for machine in dict.fromkeys(machines):
                owners.setdefault(machine, []).append(name)
        fixes = {"host": "'pool.pods.{}.hosts=[OTHER]'", "TPU pod": "pool.pods.{}.name=OTHER"}
        return [
            (
                f"pool.pods.{names[-1]}",
                f"{sort} {machine} is in pods {' and '.join(names)}; it is in one",
                fixes[sort].format(names[-1]),
            )
            for (sort, machine), names in owners.items()
            if len(names) > 1
        ]


class SshPool(Gangs):
    """Gangs of hosts that are reached in the same way by ssh: each gang is one pod."""

    gangs: list[list[Text]] = field("the hosts of each gang, [user@]host[:port]", effect="bookkeeping")
    target: Ssh = field("what is the same for all of them", effect="bookkeeping")

    def targets(self) -> dict[str, Target]:
        """`ssh-0`, `ssh-1`, ..."""
        return {
            f"ssh-{i}": self.target.model_copy(update={"hosts": list(hosts), "hosts_file": None})
            for i, hosts in enumerate(self.gangs)
        }

    def _targets_of_tree(self) -> dict[str, Any]:
        from lmx.sweep.enlist import tree_of

        return {"target": tree_of(self.target)}

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        fix = "'pool.gangs=[[host1,host2],[host3,host4]]'"
        if not self.gangs or not all(self.gangs):
            return [("pool.gangs", "each gang needs at least one host", fix)]
        hosts = [host for gang in self.gangs for host in gang]
        twice = sorted({host for host in hosts if hosts.count(host) > 1})
        if twice:
            return [("pool.gangs", f"{', '.join(twice)} stands there twice; a host is in one gang", fix)]
        if self.target.hosts or self.target.hosts_file:
            return [("pool.target.hosts", "the hosts are in pool.gangs", "pool.target.hosts=null")]
        return []
