"""What the commands `lmx sweep run | resume | status | cancel` do."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.config.compose import Composer
from lmx.config.errors import DONE, STOPPED, ConfigError, LmxError, Problem, RequestError, Resumable
from lmx.config.near import nearest
from lmx.config.sweep import Point
from lmx.config.text import counted
from lmx.io.files import to_json
from lmx.io.journal import driver
from lmx.io.provenance import command_line
from lmx.launch.fits import misfit
from lmx.launch.versions import forget
from lmx.run.config import TrainConfig
from lmx.sweep import attempt
from lmx.sweep.config import Pool, Retries, SweepRun
from lmx.sweep.cost import agree, cost_of
from lmx.sweep.driver import Driver, Hooks
from lmx.sweep.early import losing_of, never_judged
from lmx.sweep.events import read_events, states
from lmx.sweep.freeze import changed_code, freeze, make_plan, points
from lmx.sweep.grammar import Grammar
from lmx.sweep.plan import SCHEMA, Plan, read_plan, run_dir, write_plan
from lmx.sweep.results import checkpointed, result_of, schema_of
from lmx.sweep.stopping import Stopping
from lmx.sweep.target_pod import release


def say(text: str) -> None:
    """A line on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def find(name: str | None) -> Path:
    """The folder of a sweep: a path, a folder's name in sweeps/, or None for the newest. RequestError otherwise."""
    if name is not None:
        path = Path(name).expanduser()
        beside = Path("sweeps") / name
        return beside if not path.exists() and (beside / "sweep.json").exists() else path
    found = sorted(Path("sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RequestError(
            "sweeps/: no sweep is there; name the folder of one, or start one with `lmx sweep run`"
        )
    return found[-1].parent


def swept(grammar: Grammar | None, overrides: Sequence[str], **places: Any) -> list[Point]:
    """The points of a sweep: of each block of the grammar the product with the overrides."""
    if grammar is None:
        return points("train", TrainConfig, overrides, **places)
    tree = Composer("train", TrainConfig, **places).tree
    found: list[Point] = []
    problems: dict[tuple[str, str], Problem] = {}
    groups = tree.groups()
    for group in grammar.every:
        if group not in groups:
            near = nearest(group, groups)
            message, fix = f"{group} is no group of options", f"points.every=[{near}]" if near else None
            problems["points.every", message] = Problem(
                "points.every", message, fix=fix, kind="unknown_group"
            )
    known = grammar.model_copy(update={"every": [group for group in grammar.every if group in groups]})
    given = {key_of(line) for line in overrides}
    for block in known.blocks(tree.options):
        for key in given & {key_of(line) for line in block}:
            message = "is set by points= as well; leave it out in one of the two"
            line = next(line for line in overrides if key_of(line) == key)
            problems[key, message] = Problem(key, message, origin=f"command line: {line}", kind="twice")
        try:
            found += points("train", TrainConfig, [*block, *overrides], **places)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault((problem.key, problem.message), problem)
    if problems:
        raise ConfigError(list(problems.values()), "train")
    return found


def key_of(line: str) -> str:
    """The key or group that an override is about."""
    return line.lstrip("+~").partition("=")[0]


def run(composed: Any) -> Path:
    """Freezes a sweep and runs it; its folder."""
    config: SweepRun = composed.config
    place = composed.composer.place
    found = swept(config.points, config.overrides, config_dir=place.config_dir)
    frozen = freeze(found)
    if frozen.duplicates:
        say(f"{counted(frozen.duplicates, 'point')} left out: the same configuration as an earlier one")
    folder = Path(config.dir)
    settings = {name: composed.tree[name] for name in ("pool", "retries", "stopping", "poll")} | {
        "schema": SCHEMA
    }
    program = [sys.executable, str(Path(attempt.__file__).absolute())]
    plan = make_plan(folder, frozen, command=command_line(), program=program, settings=settings)
    say(f"{counted(len(plan.jobs), 'job')} on {counted(len(config.pool.build(folder)), 'pod')}: {folder}")
    _fitting(plan, config.pool, config.stopping)
    cost = cost_of(plan.jobs, list(config.pool.targets().values()), config.hours_per_job)
    if cost is not None:
        cure = ": hours_per_job=H" if cost.hours is None else ""
        say(f"{cost.words()}{cure}")
    if config.dry_run:
        _show_jobs(plan, config.output)
        return folder
    if cost is not None:
        agree(cost, config.max_chip_hours)
    _enlist(folder, plan, config.pool, config.retries.grace)
    write_plan(folder, plan)
    if config.detach:
        _detach(folder)
    else:
        drive(folder)
    return folder


def _fitting(plan: Plan, pool: Pool, stopping: Stopping | None) -> None:
    """RequestError with every mesh of a job that the processes of a pod cannot have, and with jobs that the rule of
    early stopping could never end."""
    wrong: dict[str, list[str]] = {}
    for job in plan.jobs:
        for name, target in pool.targets().items():
            found = misfit(target, job.config["mesh"]["axes"])
            if found is not None:
                key, message, fix = found
                wrong.setdefault(f"pod {name}: {key} = {message}; {fix}", []).append(str(job.number))
        idle = never_judged(stopping, job.config) if stopping is not None else None
        if idle is not None:
            wrong.setdefault(idle, []).append(str(job.number))
    if wrong:
        lines = [f"{words} (jobs {', '.join(jobs)})" for words, jobs in wrong.items()]
        raise RequestError("\n    ".join(["no job was started:", *lines]))


def _show_jobs(plan: Plan, output: str) -> None:
    """The jobs of a sweep that is not started: what all have in common is said once, and not on stdout."""
    if output == "json":
        print(to_json([{"job": job.number, "overrides": job.overrides} for job in plan.jobs], indent=1))
        return
    varies = lambda line: line.lstrip("+").partition("=")[0] in plan.varied
    same = [line for line in plan.jobs[0].overrides if not varies(line)] if plan.jobs else []
    if same:
        say(f"every job: {' '.join(same)}")
    for job in plan.jobs:
        print(" ".join([str(job.number), *filter(varies, job.overrides)]))


def _enlist(folder: Path, plan: Plan, pool: Pool, grace: float) -> None:
    """Makes sure of every pod; where one cannot run jobs, nothing of the sweep stays behind."""
    there, beside = folder.exists(), folder.parent.exists()
    if (folder / "sweep.json").exists() and not plan.jobs:
        return
    try:
        for words in pool.enlist(folder, plan.jobs[0].config, grace):
            say(words)
    except Exception:
        if not there:
            shutil.rmtree(folder, ignore_errors=True)
        if not beside:
            with contextlib.suppress(OSError):  # another sweep is there by now
                folder.parent.rmdir()
        raise


def resume(config: Any) -> Path:
    """Goes on with a sweep; its folder."""
    folder = find(config.sweep)
    plan = read_plan(folder)
    _settings(folder, plan)
    pool = config.pool or Pool.model_validate(plan.settings["pool"])
    if config.changed_code == "refuse" and not pool.frozen():
        refuse_changed(folder, plan)
    if config.changed_code == "accept":
        for path in folder.glob(".pods/*"):
            forget(path)
    changes = {
        name: getattr(config, name)
        for name in ("max_failures", "max_preemptions")
        if getattr(config, name) is not None
    }
    if config.detach:
        if changes or config.pool is not None:
            raise RequestError(
                "detach=true goes on with the sweep's own pool and budgets; leave the others out"
            )
        _detach(folder, *(["changed_code=accept"] if config.changed_code == "accept" else []))
    else:
        drive(folder, pool=config.pool, **changes)
    return folder


def refuse_changed(folder: Path, plan: Plan) -> None:
    """RequestError where the code here is not that of the freeze: its jobs would not compute the same."""
    found = changed_code(plan.code)
    if found:
        words = "\n    ".join(found)
        raise RequestError(
            f"{folder}: code or packages are not those of the freeze, so jobs may not compute what those that are "
            f"done did\n    {words}\n    go back to them, or go on all the same:\n"
            f"    lmx sweep resume {folder} changed_code=accept"
        )


def _settings(folder: Path, plan: Plan) -> dict[str, Any]:
    """How the sweep is run; RequestError where an older lmx did not record it."""
    missing = [name for name in ("pool", "retries", "poll") if name not in plan.settings]
    if missing:
        raise RequestError(
            f"{folder}: this sweep does not record its {', '.join(missing)}; it was made by an older lmx, start it anew"
        )
    return plan.settings


def drive(folder: Path, *, pool: Pool | None = None, **changes: int) -> None:
    """Works on a sweep until it ends. LmxError where jobs failed, Resumable where it was stopped."""
    plan = read_plan(folder)
    settings = _settings(folder, plan)
    retries = Retries.model_validate(settings["retries"]).model_copy(update=changes)
    if pool is not None:
        _enlist(folder, plan, pool, retries.grace)
    working = Driver(
        folder,
        plan,
        pods=(pool or Pool.model_validate(settings["pool"])).build(folder),
        retries=retries,
        hooks=_hooks(folder, plan),
        poll=settings["poll"],
    )
    try:
        code = working.run()
    finally:
        working.close()
    if code == STOPPED:
        raise Resumable(f"{folder}: {working.tally()}; go on with\n    lmx sweep resume {folder}")
    if code != DONE:
        raise LmxError(
            f"{folder}: {working.tally()}; `lmx sweep resume {folder} max_failures=N` tries them again"
        )


def _hooks(folder: Path, plan: Plan) -> Hooks:
    if plan.settings["schema"] is None:
        from lmx.sweep.launcher import hooks_of

        return hooks_of(folder, plan)
    schema = schema_of(plan)
    return Hooks(
        result=lambda job: result_of(folder, job, schema),
        losing=losing_of(folder, plan, say),
        say=say,
        step=lambda job: checkpointed(run_dir(folder, job.number)),
        again=shlex.join(["lmx", "sweep", "resume", str(folder)]),
    )


def _detach(folder: Path, *more: str) -> None:
    """Starts a driver that outlives this terminal, and waits until it works."""
    with open(folder / "driver.log", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lmx", "sweep", "resume", str(folder.absolute()), *more],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(os.environ),
        )
    while f"process {child.pid} " not in (who := driver(folder) or ""):
        if child.poll() is not None:
            if child.returncode == DONE:
                break
            why = f": {who} works on this sweep already" if who else f" (exit code {child.returncode})"
            raise LmxError(f"the driver ended at once{why}; see {folder / 'driver.log'}")
        time.sleep(0.1)
    say(f"in the background: process {child.pid}, log {folder / 'driver.log'}\n    lmx sweep status {folder}")


def cancel(folder: Path, timeout: float) -> str:
    """Ends what runs and says so. Without a driver, this process becomes one that stops the jobs."""
    plan = read_plan(folder)
    active = [n for n, s in _states(folder, plan).items() if s.status in ("LEASED", "RUNNING")]
    if driver(folder) is None:
        if not active:
            return "\n".join(["nothing runs", *release(folder)])
        working = Driver(
            folder,
            plan,
            pods=[],
            retries=Retries.model_validate(_settings(folder, plan)["retries"]),
            hooks=_hooks(folder, plan),
            poll=0.2,
        )
        try:
            (folder / "cancel").touch()
            working.run()
        finally:
            working.close()
        return working.tally()
    (folder / "cancel").touch()
    until = time.monotonic() + timeout
    while driver(folder) is not None:
        if time.monotonic() > until:
            raise LmxError(
                f"the driver ({driver(folder)}) has not ended within {timeout:g} s; its jobs are still saving"
            )
        time.sleep(0.2)
    return f"cancelled; {counted(len(active), 'job')} ran"


def _states(folder: Path, plan: Plan) -> dict[int, Any]:
    return states([job.number for job in plan.jobs], read_events(folder))
