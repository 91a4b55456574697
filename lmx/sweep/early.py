"""Early stopping of a sweep's jobs: whether it can happen, and what the rule is shown while they run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.io.records import read_metrics
from lmx.sweep.driver import Driver
from lmx.sweep.plan import Plan, run_dir
from lmx.sweep.stopping import Course, Stopping

_JUDGED_EVERY = 5.0

Rows = Sequence[Mapping[str, Any]]


def never_judged(rule: Stopping, config: Mapping[str, Any]) -> str | None:
    """Why a job of that configuration could never be ended by the rule, and the fix; None where it can.

    Runs end where they save; `eval/` numbers are written where they evaluate.
    """
    trainer, saves = config["trainer"], config["checkpoint"]
    steps = trainer["steps"] or math.inf
    within = lambda every: every is not None and every < steps
    fix = max(int(min(steps, 1000)) // 10, 1)
    if rule.metric.startswith("eval/") and not within(trainer["eval_every"]):
        key, does = "trainer.eval_every", "evaluates"
    elif saves["every_minutes"] is None and not within(saves["every"]) and not within(saves["keep_every"]):
        key, does = "checkpoint.every", "saves"
    else:
        return None
    return f"stopping: no run would end early, since each {does} at its end alone; {key}={fix}"


def losing_of(folder: Path, plan: Plan, say: Callable[[str], None]) -> Callable[[Driver], Sequence[int]]:
    """Asks the sweep's rule of early stopping, every few seconds."""
    tree = plan.settings.get("stopping")
    if tree is None:
        return lambda _: ()
    rule, looked, told = Stopping.model_validate(tree), [0.0], [False]
    judge = rule.judge()

    def losing(working: Driver) -> Sequence[int]:
        if time.monotonic() < looked[0] + _JUDGED_EVERY:
            return ()
        looked[0] = time.monotonic()
        rows = {job.number: read_metrics(run_dir(folder, job.number)) for job in plan.jobs}
        courses = {number: _course(own, rule.metric) for number, own in rows.items()}
        if not told[0]:
            told[0] = _tell_missing(rule.metric, rows, courses, say)
        return judge(courses, set(working.active()))

    return losing


def _course(rows: Rows, metric: str) -> Course:
    values = ((row["step"], row.get(metric)) for row in rows)
    return {step: float(value) for step, value in values if isinstance(value, int | float)}


def _tell_missing(
    metric: str, rows: Mapping[int, Rows], courses: Mapping[int, Course], say: Callable[[str], None]
) -> bool:
    """Whether it is settled that runs write the metric; says so where one has evaluated and has not written it."""
    if any(courses.values()):
        return True
    for number, own in rows.items():
        if any("eval/loss" in row for row in own):
            names = sorted({name for row in own for name in row} - {"step"})
            say(
                f"stopping.metric={metric}: job {number} writes no such number, so no run ends early; it writes "
                f"{', '.join(names)}"
            )
            return True
    return False
