"""Hydra launchers: `hydra/launcher=local_pool` (K jobs at a time) and `hydra/launcher=pods` (leases, retries, resume).

Hydra imports this module whenever it starts: what needs time is imported when jobs are launched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PodsLauncher(Launcher):
    """Runs a sweep's jobs on the pods of a pool, each in processes of its own."""

    def __init__(self, pool: Any, retries: Mapping[str, Any], poll: float) -> None:
        """`pool`: an `lmx.sweep.Pool`; `retries`: the keys of `lmx.sweep.Retries`; `poll` in seconds."""
        self.pool, self.retries, self.poll = pool, dict(retries), poll
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra gives before the first launch."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and returns what they returned, in their order."""
        from lmx.sweep.launcher import launch

        return launch(self, job_overrides, initial_job_idx)


class LocalPoolLauncher(PodsLauncher):
    """Runs K jobs at a time on this machine; a job that fails is not tried again."""

    def __init__(
        self, size: int, cores: Any, devices: Any, environment: Any, grace: float, poll: float
    ) -> None:
        """The keys of `lmx.sweep.LocalPool`."""
        from lmx.sweep.config import LocalPool

        pool = LocalPool(size=size, cores=cores, devices=devices, environment=environment)
        super().__init__(pool, {"max_failures": 0, "max_preemptions": 0, "grace": grace}, poll)


_HERE = "hydra_plugins.lmx_launchers.launchers"
_LOCAL: dict[str, Any] = {"size": 2, "cores": "shared", "devices": None, "environment": {}}
_STORE = ConfigStore.instance()
_STORE.store(
    group="hydra/launcher",
    name="local_pool",
    node={"_target_": f"{_HERE}.LocalPoolLauncher", "_convert_": "all", **_LOCAL, "grace": 60.0, "poll": 0.2},
    provider="lmx",
)
_STORE.store(
    group="hydra/launcher",
    name="pods",
    node={
        "_target_": f"{_HERE}.PodsLauncher",
        "_convert_": "all",
        "pool": {"_target_": "lmx.sweep.LocalPool", **_LOCAL},
        "retries": {"max_failures": 3, "max_preemptions": 100, "grace": 60.0},
        "poll": 0.2,
    },
    provider="lmx",
)
