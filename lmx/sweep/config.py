"""`lmx sweep`: its keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lmx.config.component import Component, Config, field
from lmx.config.types import Count, Duration, Flag, Positive, PositiveReal, Text
from lmx.launch import Target
from lmx.sweep.grammar import Grammar
from lmx.sweep.pods import LocalPod, Pod
from lmx.sweep.stopping import Stopping


class Pool(Component):
    """The pods that a sweep's jobs run on."""

    def build(self, sweep: Path) -> list[Pod]:
        """The pods of the sweep in a folder, ready to be leased."""
        raise NotImplementedError

    def enlist(self, sweep: Path, tree: Mapping[str, Any], grace: float) -> list[str]:
        """Makes sure that every pod can run the sweep's jobs, before any starts; what is worth knowing, in words.

        `tree`: the configuration of one of them; `grace`: how long jobs have to save. RequestError where one cannot.
        """
        return []

    def tree(self) -> dict[str, Any]:
        """The pool as a plain tree that `Pool.model_validate` reads."""
        cls = type(self)
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **self.model_dump()}

    def targets(self) -> dict[str, Target]:
        """The pods that are targets of `lmx launch`: name -> target."""
        return {}

    def frozen(self) -> bool:
        """Whether the pods run the code as it was when the sweep was frozen, whatever it is here by now."""
        return False

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return []


class LocalPool(Pool):
    """Parts of this machine."""

    size: Positive = field("jobs at a time", effect="bookkeeping")
    cores: Literal["shared", "divided"] = field(
        "whether every job may use every CPU core, or each pod has its own", effect="bookkeeping"
    )
    devices: list[Text] | None = field(
        "for each pod the GPUs that it sees (CUDA_VISIBLE_DEVICES), such as ['0,1','2,3']; null: all see all",
        effect="bookkeeping",
    )
    environment: dict[str, Text] = field("variables of the jobs' environment", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        if self.devices is not None and len(self.devices) != self.size:
            n = len(self.devices)
            return [("pool.devices", f"{n} entries for {self.size} pods", f"pool.size={max(n, 1)}")]
        return []

    def build(self, sweep: Path) -> list[Pod]:
        """`local-0`, `local-1`, ..."""
        cores = sorted(os.sched_getaffinity(0))
        pods: list[Pod] = []
        for i in range(self.size):
            environment = dict(self.environment)
            if self.devices is not None:
                environment["CUDA_VISIBLE_DEVICES"] = self.devices[i]
            own = cores[i % len(cores) :: self.size] if self.cores == "divided" else None
            pods.append(LocalPod(f"local-{i}", environment, own))
        return pods


class Retries(Config):
    """When a job that did not end well is started again. A wrong request (exit code 2) never is."""

    max_failures: Count = field(
        "attempts that may fail, or end without a further checkpoint, before a job counts as failed",
        effect="bookkeeping",
    )
    max_preemptions: Count = field(
        "times that a job may be taken away (exit code 75, lost)", effect="bookkeeping"
    )
    grace: Duration = field("time between SIGTERM and SIGKILL", unit="s", effect="bookkeeping")


class SweepRun(Config):
    """`lmx sweep run`: what is swept, where it runs, and what happens when a job does not end well."""

    overrides: list[Text] = field("what is swept, as for lmx train -m", effect="bookkeeping")
    pool: Pool = field("the pods that jobs run on", effect="bookkeeping")
    retries: Retries = field("when a job is started again", effect="bookkeeping")
    stopping: Stopping | None = field("ends jobs that are behind the others; null: off", effect="bookkeeping")
    points: Grammar | None = field(
        "points beyond the product of the overrides: zipped, chained, every option of a group; null: none",
        effect="bookkeeping",
    )
    hours_per_job: PositiveReal | None = field(
        "how long a job takes, for the cost; null: trainer.duration where that is set",
        unit="h",
        effect="bookkeeping",
        example="1.5",
    )
    max_chip_hours: PositiveReal | None = field(
        "a sweep that needs more, or nobody knows how much, is asked for, or refused where nobody can be asked; null: "
        "no limit",
        unit="h",
        effect="bookkeeping",
    )
    dir: Text = field("folder of the sweep, which is made", effect="bookkeeping")
    poll: Duration = field("time between looks at the pods", unit="s", effect="bookkeeping")
    detach: Flag = field("return at once and go on in the background", effect="bookkeeping")
    dry_run: Flag = field("show the jobs and start nothing", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return [*self.pool.problems(), *(self.points.problems() if self.points is not None else [])]


class SweepResume(Config):
    """`lmx sweep resume`."""

    sweep: Text | None = field("folder of the sweep; null: the newest", effect="bookkeeping")
    pool: Pool | None = field("other pods than before", effect="bookkeeping")
    changed_code: Literal["refuse", "accept"] = field(
        "whether jobs may go on with code that is not that of the freeze", effect="bookkeeping"
    )
    max_failures: Count | None = field("another budget of failures", effect="bookkeeping", example="5")
    max_preemptions: Count | None = field(
        "another budget of preemptions", effect="bookkeeping", example="200"
    )
    detach: Flag = field("return at once and go on in the background", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return self.pool.problems() if self.pool is not None else []


class SweepStatus(Config):
    """`lmx sweep status`."""

    sweep: Text | None = field("folder of the sweep; null: the newest", effect="bookkeeping")
    watch: Literal["auto", "always", "never"] = field("show it anew every few seconds", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class SweepCancel(Config):
    """`lmx sweep cancel`."""

    sweep: Text | None = field("folder of the sweep; null: the newest", effect="bookkeeping")
    timeout: Duration = field("how long to wait for the driver", unit="s", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class SweepTable(Config):
    """`lmx sweep table`."""

    sweep: Text | None = field("folder of the sweep; null: the newest", effect="bookkeeping")
    metric: Text = field("a number of summary.json", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")
    seed: Text = field("the key in which jobs of one arm differ", effect="bookkeeping")
    output: Literal["text", "csv", "markdown", "json"] = field("form of the result", effect="bookkeeping")


class SweepPlot(Config):
    """`lmx sweep plot`."""

    sweep: Text | None = field("folder of the sweep; null: the newest", effect="bookkeeping")
    kind: Literal["curves", "parameter"] = field("loss over steps, or result over x", effect="bookkeeping")
    x: Text | None = field(
        "key drawn against the metric; null: the one with most values", effect="bookkeeping"
    )
    metric: Text = field("a number of summary.json", effect="bookkeeping")
    best_is: Literal["lowest", "highest"] = field("which value of it is good", effect="bookkeeping")
    seed: Text = field("the key in which jobs of one arm differ", effect="bookkeeping")
    to: Text | None = field("the picture; null: in the sweep's folder", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
