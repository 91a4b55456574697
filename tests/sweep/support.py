"""Sweeps of cheap jobs."""

import json
import os
import sys
from pathlib import Path

from lmx.run.config import TrainConfig
from lmx.sweep.config import LocalPool, Retries
from lmx.sweep.driver import Driver, Hooks
from lmx.sweep.freeze import freeze, make_plan, points
from lmx.sweep.plan import read_plan, run_dir, write_plan
from lmx.sweep.results import checkpointed, result_of

CHEAP = [sys.executable, "-S", str(Path(__file__).parent / "cheap.py")]
SCHEMA = "lmx.run.config:TrainConfig"
SMALL = ["trainer.steps=10", "model=tiny"]


def program():
    """cheap.py without site's start-up files, but with the one package that it needs."""
    import yaml

    return ["/usr/bin/env", f"PYTHONPATH={Path(yaml.__file__).parents[1]}", *CHEAP]


def make_sweep(folder, overrides):
    frozen = freeze(points("train", TrainConfig, overrides))
    settings = {"schema": SCHEMA}
    plan = make_plan(folder, frozen, command=["lmx"], program=program(), settings=settings, code={})
    write_plan(folder, plan)
    return read_plan(folder)


def hooks_of(folder, *, say, losing=None):
    """What a driver asks of a sweep of cheap jobs."""
    return Hooks(
        result=lambda job: result_of(folder, job, TrainConfig),
        losing=losing or (lambda driver: []),
        say=say,
        step=lambda job: checkpointed(run_dir(folder, job.number)),
        again=f"lmx sweep resume {folder}",
    )


def make_driver(folder, *, size=2, max_failures=3, say=None, losing=None):
    pool = LocalPool(size=size, cores="shared", devices=None, environment={})
    said = [] if say is None else say
    return Driver(
        folder,
        read_plan(folder),
        pods=pool.build(folder),
        retries=Retries(max_failures=max_failures, max_preemptions=100, grace=5.0),
        hooks=hooks_of(folder, say=said.append, losing=losing),
        poll=0.05,
    )


def drive(folder, **options):
    driver = make_driver(folder, **options)
    try:
        return driver.run(), driver
    finally:
        driver.close()


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu"}


def twin_of(folder, overrides):
    """The folder of the same sweep, undisturbed."""
    twin = folder.with_name("twin")
    make_sweep(twin, overrides)
    assert drive(twin, size=2)[0] == 0
    return twin


def losses(run):
    """Steps and losses of a run that is done, and the two of its summary."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    return [(row["step"], row["loss"]) for row in rows], summary["loss"], summary["eval_loss"]


def starts(run_dir):
    """How often the job of a run was begun."""
    return len((run_dir / "starts").read_text().split())
