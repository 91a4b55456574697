"""The jobs of a Hydra launcher on pods.

On this machine each is pickled, run by `lmx.sweep.pickled`, and its return value read back: any Hydra application can
do that. On launch targets the jobs are runs of `lmx train`, frozen as those of `lmx sweep`. Either way the folder
`SWEEP_DIR/.launcher/N` is a sweep that `lmx sweep status | resume | cancel | table` know.
"""

from __future__ import annotations

import os
import pickle
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from lmx.config.errors import STOPPED, ConfigError
from lmx.io.provenance import command_line
from lmx.sweep.config import Pool, Retries
from lmx.sweep.cost import cost_of
from lmx.sweep.driver import Driver, Hooks
from lmx.sweep.freeze import Frozen, make_plan, varied_keys
from lmx.sweep.plan import SCHEMA, Job, Plan, attempt_dir, job_dir, read_plan, run_dir, write_plan
from lmx.sweep.results import checkpointed, result_of, schema_of
from lmx.sweep.target_pool import Gangs


class Lost(RuntimeError):
    """A job ended without telling what it returned."""


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Runs the jobs on the launcher's pods; their returns in order."""
    setup_globals()
    config = launcher.config
    assert config is not None
    pool = pool_of(launcher)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    problems = pool.problems()
    if problems:
        key, message, fix = problems[0]
        raise ValueError(
            f"hydra.launcher.{key}: {message}; {fix.replace('pool.', 'hydra.launcher.pool.', 1)}"
        )
    sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
    folder = sweep_dir / ".launcher" / f"{time.strftime('%H%M%S')}-{initial_job_idx}-{secrets.token_hex(2)}"
    jobs, configs = [], {}
    for number, overrides in enumerate(job_overrides, initial_job_idx):
        job_config = launcher.hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.id = (
                f"job_id_for_{number}" if "id" not in job_config.hydra.job else str(number)
            )
            job_config.hydra.job.num = number
        configs[number] = job_config
        if isinstance(pool, Gangs):
            jobs.append(_frozen(launcher.task_function, number, list(overrides)))
        else:
            jobs.append(Job(number, list(filter_overrides(overrides)), "", {}))
            _pickle(folder, number, launcher, job_config)
        own = sweep_dir / str(OmegaConf.select(job_config, "hydra.sweep.subdir"))
        own.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        run_dir(folder, number).symlink_to(os.path.relpath(own, folder))
    _drive(launcher, pool, folder, jobs)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    if isinstance(pool, Gangs):
        plan = read_plan(folder)
        return [_summarised(folder, plan, job, configs[job.number]) for job in jobs]
    return [_returned(folder, job.number) or _lost(folder, job, config) for job in jobs]


def pool_of(launcher: Any) -> Pool:
    """The launcher's pool; a name stands for that option of `pool`."""
    pool = launcher.pool
    if isinstance(pool, Pool):
        return pool
    if isinstance(pool, Mapping):
        return Pool.model_validate(dict(pool))
    loader = launcher.hydra_context.config_loader
    there = loader.get_group_options("pool")
    if pool not in there:
        raise ValueError(f"hydra.launcher.pool={pool}: there is no such pool; there are {', '.join(there)}")
    found = loader.load_configuration(f"pool/{pool}", [], RunMode.RUN)
    tree = OmegaConf.to_container(found, resolve=False)
    assert isinstance(tree, dict)
    tree.pop("hydra", None)
    return Pool.model_validate(tree.get("pool", tree))


def _frozen(task: Any, number: int, overrides: list[str]) -> Job:
    """A job of `lmx train`, validated and resolved."""
    from lmx.config.compose import Composer

    command = getattr(task, "command", None)
    if command is None or command.name != "train":
        raise ValueError(
            "hydra.launcher.pool: launch targets run `lmx train` alone; other applications run on "
            "hydra.launcher.pool=local"
        )
    lines = list(filter_overrides(overrides))
    composer = Composer(command.name, command.schema_class(), overrides=lines, **task.places)
    composed, problems = composer.check(lines, {"num": number, "id": str(number)})
    if composed is None:
        raise ConfigError(problems, command.name)
    return Job(number, lines, composed.hash, composed.tree)


def _pickle(folder: Path, number: int, launcher: Any, job_config: Any) -> None:
    where = job_dir(folder, number)
    where.mkdir(parents=True)
    content = {
        "task_function": launcher.task_function,
        "hydra_context": launcher.hydra_context,
        "config": job_config,
        "singletons": Singleton.get_state(),
    }
    (where / "job.pickle").write_bytes(cloudpickle.dumps(content))


def _drive(launcher: Any, pool: Pool, folder: Path, jobs: list[Job]) -> None:
    frozen = Frozen(jobs, varied_keys([job.overrides for job in jobs]), 0)
    path = os.pathsep.join(word or os.getcwd() for word in sys.path)
    program = ["/usr/bin/env", f"PYTHONPATH={path}", sys.executable, "-m", "lmx.sweep.pickled"]
    retries = Retries.model_validate(launcher.retries)
    settings = {
        "pool": pool.tree(),
        "retries": retries.model_dump(),
        "stopping": None,
        "poll": launcher.poll,
        "schema": SCHEMA if isinstance(pool, Gangs) else None,
    }
    plan = make_plan(folder, frozen, command=command_line(), program=program, settings=settings, code={})
    cost = cost_of(jobs, list(pool.targets().values()), None)
    if cost is not None:
        _say(cost.words())
    for words in pool.enlist(folder, jobs[0].config, retries.grace):
        _say(words)
    write_plan(folder, plan)
    driver = Driver(
        folder,
        plan,
        pods=pool.build(folder),
        retries=retries,
        hooks=hooks_of(folder, plan),
        poll=launcher.poll,
    )
    try:
        code = driver.run()
    finally:
        driver.close()
    if code == STOPPED:
        raise SystemExit(STOPPED)


def hooks_of(folder: Path, plan: Plan) -> Hooks:
    """What a driver asks of a launcher's folder."""
    if plan.settings["schema"] is None:
        result = lambda job: _result(folder, job.number)
    else:
        schema = schema_of(plan)
        result = lambda job: result_of(folder, job, schema)
    return Hooks(
        result=result,
        losing=lambda _: (),
        say=_say,
        step=lambda job: checkpointed(run_dir(folder, job.number)),
        again=f"lmx sweep resume {folder}",
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _returned(folder: Path, number: int) -> JobReturn | None:
    try:
        return pickle.loads((job_dir(folder, number) / "return.pickle").read_bytes())
    except FileNotFoundError:
        return None


def _result(folder: Path, number: int) -> dict[str, Any] | None:
    found = _returned(folder, number)
    return {} if found is not None and found.status == JobStatus.COMPLETED else None


def _summarised(folder: Path, plan: Plan, job: Job, config: Any) -> JobReturn:
    """The return of a run on a target: what `lmx train` returns to a sweeper, from the run's summary."""
    summary = result_of(folder, job, schema_of(plan))
    if summary is None:
        return _lost(folder, job, config)
    found = JobReturn(overrides=job.overrides, cfg=config, status=JobStatus.COMPLETED)
    found.return_value = summary.get("eval_loss", summary.get("loss"))
    return found


def _lost(folder: Path, job: Job, config: Any) -> JobReturn:
    """The return of a job that left none: its failure is raised when its value is asked for."""
    logs = sorted(job_dir(folder, job.number).glob("attempt-*/log.txt"))
    last = logs[-1] if logs else attempt_dir(folder, job.number, 1) / "log.txt"
    found = JobReturn(overrides=job.overrides, cfg=config, status=JobStatus.FAILED)
    found.return_value = Lost(f"job {job.number} ended without a result; its log is {last}")
    return found
