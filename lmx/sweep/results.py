"""What a job has reached, read from its run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.component import Config
from lmx.config.plain_tree import tree_hash
from lmx.io.records import last_values, read_config, read_summary
from lmx.sweep.plan import Job, Plan, run_dir


def schema_of(plan: Plan) -> type[Config]:
    """The class that the jobs' configurations are of."""
    import importlib

    module, _, name = plan.settings["schema"].partition(":")
    return getattr(importlib.import_module(module), name)


def config_hash(tree: Mapping[str, Any], frozen: Mapping[str, Any], schema: type[Config]) -> str:
    """The hash of a run's configuration, without the length that a run given a duration has found for itself."""
    trainer, before = tree.get("trainer"), frozen.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(before, Mapping) and before.get("steps", 0) is None:
        tree = {**tree, "trainer": {**trainer, "steps": None}}
    return tree_hash(tree, schema)


def result_of(folder: Path, job: Job, schema: type[Config]) -> dict[str, Any] | None:
    """The summary of a job that is done; None where it is not, or where its run is of another configuration."""
    run = run_dir(folder, job.number)
    summary = read_summary(run)
    if summary.get("status") != "done" or config_hash(read_config(run), job.config, schema) != job.hash:
        return None
    return summary


def checkpointed(run: Path) -> int | None:
    """The step of the newest whole checkpoint; None where there is none."""
    steps = [int(p.parent.name) for p in run.glob("checkpoints/*/lmx.json") if p.parent.name.isdecimal()]
    return max(steps, default=None)


def progress(folder: Path, job: Job) -> tuple[int | None, int | None]:
    """Steps done and steps in all, as far as the run has told."""
    trainer = (job.config or read_config(run_dir(folder, job.number))).get("trainer")
    total = trainer.get("steps") if isinstance(trainer, Mapping) else None
    step = last_values(run_dir(folder, job.number)).get("step")
    return (step if isinstance(step, int) else None, total if isinstance(total, int) else None)
