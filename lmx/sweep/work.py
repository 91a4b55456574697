"""An attempt at a job on a launch target, on disk: its plan, made of the pod's and the job's; where its run is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from lmx.io.files import read_json, to_json, write_atomic
from lmx.launch.config import Processes
from lmx.launch.host import Host, here
from lmx.launch.plan import Launch
from lmx.launch.target import Attempt, Plan
from lmx.sweep.carry import Look, Place, look
from lmx.sweep.enlist import Enlisted, enlisted

_OWN = (
    "config.yaml",
    "events.jsonl",
    "driver.lock",
    "plan.json",
    "pool.json",
    "prepared",
    "prepare.lock",
    "check.log",
    "stop",
)
"""What of a pod's folder is not of its attempts."""


class Work(NamedTuple):
    """What this process looks after. `run`: the job's run directory here; `place`: on a host, None where it is here."""

    launch: Launch
    pod: Enlisted
    attempt: Path
    job: Path
    run: Path
    number: int

    @property
    def stop_file(self) -> str:
        """The file that ends the run at its next checkpoint, as the hosts name it."""
        here_ = self.launch.plan.run_dir == str(self.run)
        return str(self.job / "stop") if here_ else f"{self.launch.plan.run_dir}.stop"


def work_of(attempt: Path, pod_folder: Path, job: Path, run: Path) -> Work:
    """The attempt's plan, made where it is not there yet. Plain files: the next process reads the same."""
    pod = enlisted(pod_folder)
    folder = attempt / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    for path in pod_folder.iterdir():
        if path.is_file() and path.name not in _OWN and not path.name.startswith("."):
            _link(path, folder / path.name)
    if not (folder / "config.yaml").exists():
        write_atomic(folder / "config.yaml", (job / "config.yaml").read_text(encoding="utf-8"), sync=True)
    run_dir = pod.run_dir(run, job.name)
    stop = str(job / "stop") if run_dir == str(run) else f"{run_dir}.stop"
    base = pod.launch.plan
    name = f"{pod.sweep}-{job.name}"
    plan = Plan(name, folder, run_dir, {**base.environment, "LMX_STOP_FILE": stop}, base.code)
    if not (folder / "plan.json").exists():
        record = {
            **(read_json(pod_folder / "plan.json") or {}),
            "run": name,
            "run_dir": run_dir,
            "environment": plan.environment,
        }
        write_atomic(folder / "plan.json", to_json(record, indent=1) + "\n")
    launch = Launch(plan, pod.launch.target, pod.launch.policy)
    return Work(launch, pod, attempt, job, run, int(attempt.name.rpartition("-")[2]))


def _link(path: Path, to: Path) -> None:
    if not to.exists():
        try:
            os.link(path, to)
        except OSError:
            shutil.copyfile(path, to)


# ---- where the run is


def place_of(work: Work, attempt: Attempt) -> Place | None:
    """Where its directory is looked at; None where that is here, or where no host can be asked."""
    run_dir, handle = work.launch.plan.run_dir, attempt.handle
    if run_dir == str(work.run):
        return None
    if isinstance(work.launch.target, Processes):
        host = handle["hosts"][0]
        return Place(Host(host["name"], tuple(host["way"]), host["python"]), handle["workdir"], run_dir)
    return Place(here(), os.getcwd(), run_dir) if work.pod.runs is not None else None


def before(work: Work) -> Look:
    """The run's directory before the start."""
    found = work.pod.hosts(work.launch.plan)
    place = Place(here(), os.getcwd(), work.launch.plan.run_dir)
    if found is not None:
        place = Place(found.hosts[0], found.workdir, work.launch.plan.run_dir)
    elif work.launch.plan.run_dir != str(work.run) and work.pod.runs is None:
        return Look(None, None)  # it goes on by itself
    return look(place)
