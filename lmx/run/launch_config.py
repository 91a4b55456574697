"""`lmx launch` and the commands that look after what it has started: their keys."""

from __future__ import annotations

import math
import re
from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Duration, Flag, Positive, Text
from lmx.launch.fits import misfit
from lmx.launch.target import Target
from lmx.run.config import TrainConfig


class Care(Config):
    """How a launched run is looked after."""

    max_failures: Count = field(
        "how often a failed run is started again; a preemption without a new checkpoint counts too",
        effect="bookkeeping",
    )
    max_preemptions: Count | None = field(
        "how often a preempted run is started again; null: always", effect="bookkeeping"
    )
    restart_after: Duration = field("how long it waits before that", unit="s", effect="bookkeeping")
    host_wait: Duration | None = field(
        "how long a restart waits for hosts that do not answer, before the run is given up; null: not at all",
        unit="s",
        effect="bookkeeping",
    )
    grace: Duration = field(
        "how long processes have to write a checkpoint when they are stopped", unit="s", effect="bookkeeping"
    )
    poll_every: Duration = field("how often the hosts are asked", unit="s", effect="bookkeeping")
    detach: Flag = field(
        "true: the command returns at once, the run is driven in the background", effect="bookkeeping"
    )


class Approval(Config):
    """When a launch needs the approval of a review."""

    above_chips: Count | None = field(
        "a run on more chips than this starts only as `lmx review approve` has it; null: none needs that",
        effect="bookkeeping",
    )
    experiments: Text = field("folder with a folder an experiment, where approvals lie", effect="bookkeeping")


class LaunchConfig(TrainConfig):
    """`lmx launch`: all that `lmx train` has, where it runs, and how it is looked after."""

    target: Target = field("where the run is started", effect="bookkeeping")
    launch: Care = field("restarts, stopping, following", effect="bookkeeping")
    approval: Approval = field("the review that a large run needs", effect="bookkeeping")
    dry_run: Flag = field("true: only print every command and file", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix that can be pasted)."""
        found = super().problems()
        if self.resume is not None:
            message = (
                f"a launch starts a new run; a launched one goes on by `lmx launch resume {self.resume}`"
            )
            found.append(("resume", message, "resume=null"))
        if self.distributed.method != "auto":
            message = "the launcher tells the processes how they find each other"
            found.append(("distributed.method", message, "distributed=auto"))
        wrong = misfit(self.target, self.mesh.axes)
        return [*found, *([wrong] if wrong else []), *self.target.problems()]


def chips_of(config: LaunchConfig) -> int:
    """Chips of a launch, as far as its target or its mesh name them: the larger number of the two."""
    axes = [n for n in config.mesh.axes.values() if isinstance(n, int)]
    of_mesh = math.prod(axes)
    target = config.target
    shape, slices = getattr(target, "topology", None), getattr(target, "slices", getattr(target, "count", 1))
    of_target = math.prod(int(n) for n in shape.split("x")) * slices if shape else 1
    kind = re.fullmatch(r"(v\w+?)-(\d+)", getattr(target, "accelerator_type", None) or "")
    if kind is not None:
        cores = 2 if kind[1] in ("v2", "v3", "v4", "v5p") else 1
        of_target = int(kind[2]) // cores * slices
    hosts = getattr(target, "hosts", None) or [None]
    processes = getattr(target, "processes", 1)
    devices = getattr(target, "devices", None) or 1
    return max(of_mesh, of_target, len(hosts) * processes * devices)


class LaunchStatus(Config):
    """`lmx launch status`."""

    run: Text | None = field("a run's directory or its name; null: all", effect="bookkeeping")
    root: Text = field("folder of the runs", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class LaunchLogs(Config):
    """`lmx launch logs`."""

    run: Text = field("a run's directory or its name", effect="bookkeeping", example="runs/RUN")
    root: Text = field("folder of the runs", effect="bookkeeping")
    process: Count = field("whose log", effect="bookkeeping")
    attempt: Count | None = field("of which attempt; null: the last", effect="bookkeeping")
    lines: Positive | None = field("how many of the last lines; null: all", effect="bookkeeping")


class LaunchStop(Config):
    """`lmx launch stop`."""

    run: Text = field("a run's directory or its name", effect="bookkeeping", example="runs/RUN")
    root: Text = field("folder of the runs", effect="bookkeeping")
    grace: Duration | None = field(
        "how long its processes have to write a checkpoint; null: as it was launched",
        unit="s",
        effect="bookkeeping",
    )


class LaunchAttach(Config):
    """`lmx launch attach`."""

    run: Text = field("a run's directory or its name", effect="bookkeeping", example="runs/RUN")
    root: Text = field("folder of the runs", effect="bookkeeping")


class LaunchResume(LaunchAttach):
    """`lmx launch resume`."""

    changed_versions: Literal["refuse", "accept"] = field(
        "whether a run may go on with other versions of Python or packages on its hosts than it began with",
        effect="bookkeeping",
    )
    detach: Flag = field(
        "true: the command returns at once, the run is driven in the background", effect="bookkeeping"
    )
