"""What a sweep costs in chip-hours, before it starts: printed, and asked for above a limit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.text import counted
from lmx.launch import Slurm, Target
from lmx.run.launch_config import chips_of
from lmx.sweep.plan import Job

_HOUR = 3600.0


class Cost(NamedTuple):
    """jobs, chips of the pods (fewest, most), hours of a job (None: not known), pods."""

    jobs: int
    fewest: int
    most: int
    hours: float | None
    pods: int

    @property
    def chip_hours(self) -> float | None:
        """At most, every job on the largest pod; None where the time of a job is not known."""
        return None if self.hours is None else self.jobs * self.hours * self.most

    def words(self) -> str:
        """The same for people."""
        chips = f"{self.most}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
        chips += " chip" if self.most == 1 else " chips"
        base = f"{counted(self.jobs, 'job')} on {chips} each, {counted(self.pods, 'pod')} at a time"
        if self.hours is None:
            return f"{base}; what they cost is not known, since nothing says how long one takes"
        wall = self.jobs * self.hours / self.pods
        return f"{base}: about {self.chip_hours:,.4g} chip-hours in {wall:,.3g} h ({self.hours:,.3g} h a job)"


def chips(target: Target, tree: Mapping[str, Any]) -> int:
    """The chips that a job holds on a target: as far as the target or the job's mesh names them. 0: none but CPUs."""
    if getattr(target, "devices", None) is not None:
        return 0  # virtual devices of CPUs
    if isinstance(target, Slurm):
        return target.nodes * (target.gpus or 0)
    axes = (tree.get("mesh") or {}).get("axes") or {}
    asked = SimpleNamespace(mesh=SimpleNamespace(axes=axes), target=target)
    return chips_of(asked)  # type: ignore[arg-type]


def cost_of(jobs: Sequence[Job], targets: Sequence[Target], hours: float | None) -> Cost | None:
    """The cost of jobs on pods; None where the pods have no chips. `hours` of a job: None looks at trainer.duration."""
    each = [chips(target, job.config) for target in targets for job in jobs]
    if not any(each):
        return None
    limits = [(job.config.get("trainer") or {}).get("duration") for job in jobs]
    known = [limit for limit in limits if isinstance(limit, int | float)]
    if hours is None and len(known) == len(jobs):
        hours = sum(known) / len(known) / _HOUR
    return Cost(len(jobs), min(each), max(each), hours, len(targets))


def agree(cost: Cost, limit: float | None, ask: Callable[[str], str] | None = None) -> None:
    """RequestError where a sweep above the limit, or of unknown cost, is not agreed to: a terminal is asked."""
    needs = cost.chip_hours
    if limit is None or (needs is not None and needs <= limit):
        return
    if needs is None:
        words = f"how long a job takes is not known, so neither is whether the sweep stays in max_chip_hours={limit:g}"
        cure = "To start it: hours_per_job=H, or without a limit, max_chip_hours=null"
    else:
        words = f"the sweep needs about {needs:,.4g} chip-hours, the limit is max_chip_hours={limit:g}"
        cure = f"To start it: max_chip_hours={-(-needs // 1):.0f}"
    if ask is None and sys.stdin.isatty() and sys.stderr.isatty():
        ask = input
    if ask is not None and ask(f"{words}. Start it? [y/N] ").strip().lower() in ("y", "yes"):
        return
    raise RequestError(f"{words}; nothing was started. {cure}")
