"""The jobs of a Hydra launcher on pods: each is pickled, run by `lmx.sweep.pickled`, and its return value read back."""

from __future__ import annotations

import os
import pickle
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from omegaconf import OmegaConf, open_dict

from lmx.config.errors import STOPPED
from lmx.sweep.config import Pool, Retries
from lmx.sweep.driver import Driver, Hooks
from lmx.sweep.freeze import Frozen, make_plan, varied_keys
from lmx.sweep.plan import Job, attempt_dir, job_dir, write_plan
from lmx.sweep.results import checkpointed


class Lost(RuntimeError):
    """A job ended without telling what it returned."""


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Runs the jobs on the launcher's pods; their returns in order."""
    setup_globals()
    config, pool = launcher.config, launcher.pool
    assert config is not None and isinstance(pool, Pool)  # noqa: PT018
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    problems = pool.problems()
    if problems:
        raise ValueError(f"hydra.launcher.{problems[0][0]}: {problems[0][1]}")
    sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
    folder = sweep_dir / ".launcher" / f"{time.strftime('%H%M%S')}-{initial_job_idx}-{secrets.token_hex(2)}"
    jobs, runs = [], {}
    for number, overrides in enumerate(job_overrides, initial_job_idx):
        job_config = launcher.hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.id = (
                f"job_id_for_{number}" if "id" not in job_config.hydra.job else str(number)
            )
            job_config.hydra.job.num = number
        own = Path(str(OmegaConf.select(job_config, "hydra.sweep.subdir")))
        runs[number] = sweep_dir / own
        jobs.append(Job(number, list(filter_overrides(overrides)), "", {}))
        _pickle(folder, number, launcher, job_config)
    _drive(launcher, folder, jobs, runs)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    return [_returned(folder, job.number) or _lost(folder, job, config) for job in jobs]


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


def _drive(launcher: Any, folder: Path, jobs: list[Job], runs: dict[int, Path]) -> None:
    sweep_dir = folder.parents[1]
    frozen = Frozen(jobs, varied_keys([job.overrides for job in jobs]), 0)
    path = os.pathsep.join(word or os.getcwd() for word in sys.path)
    program = ["/usr/bin/env", f"PYTHONPATH={path}", sys.executable, "-m", "lmx.sweep.pickled"]
    settings = {"runs": {str(number): str(run) for number, run in runs.items()}}
    plan = make_plan(folder, frozen, command=sys.argv, program=program, settings=settings, code={})
    write_plan(folder, plan)
    driver = Driver(
        folder,
        plan,
        pods=launcher.pool.build(folder),
        retries=Retries.model_validate(launcher.retries),
        hooks=Hooks(
            result=lambda job: _result(folder, job.number),
            losing=lambda _: (),
            say=lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True),
            step=lambda job: checkpointed(runs[job.number]),
            again=f"lmx train resume=RUN    (for each unfinished run in {sweep_dir})",
        ),
        poll=launcher.poll,
    )
    try:
        code = driver.run()
    finally:
        driver.close()
    if code == STOPPED:
        raise SystemExit(STOPPED)


def _returned(folder: Path, number: int) -> JobReturn | None:
    try:
        return pickle.loads((job_dir(folder, number) / "return.pickle").read_bytes())
    except FileNotFoundError:
        return None


def _result(folder: Path, number: int) -> dict[str, Any] | None:
    found = _returned(folder, number)
    return {} if found is not None and found.status == JobStatus.COMPLETED else None


def _lost(folder: Path, job: Job, config: Any) -> JobReturn:
    """The return of a job that left none: its failure is raised when its value is asked for."""
    logs = sorted(job_dir(folder, job.number).glob("attempt-*/log.txt"))
    last = logs[-1] if logs else attempt_dir(folder, job.number, 1) / "log.txt"
    found = JobReturn(overrides=job.overrides, cfg=config, status=JobStatus.FAILED)
    found.return_value = Lost(f"job {job.number} ended without a result; its log is {last}")
    return found
