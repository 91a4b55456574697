"""`sweep.json`: what a sweep runs, fixed before the first job starts.

SWEEP/sweep.json      every resolved configuration, its hash, the code, the command line, the order
SWEEP/events.jsonl    what happened (lmx.sweep.events)
SWEEP/driver.lock     held by the one process that starts jobs
SWEEP/cancel          written to ask the driver to end all jobs
SWEEP/N/              the run directory of job N
SWEEP/.jobs/N/        its frozen config.yaml, a stop file, and a folder for each attempt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io.files import to_json, write_atomic
from lmx.io.lines import expect_shape, is_count, is_object, is_text, is_texts, misfit, read_record

VERSION = 1
SCHEMA = "lmx.run.config:TrainConfig"
"""What the jobs of `lmx sweep` are configurations of."""


class Job(NamedTuple):
    """One point of a sweep.

    number     its place in the order of the command line; its run directory is SWEEP/<number>
    overrides  what makes it, as on a command line
    hash       of the configuration without bookkeeping; equal for jobs that compute the same
    config     the resolved configuration
    """

    number: int
    overrides: list[str]
    hash: str
    config: dict[str, Any]


class Plan(NamedTuple):
    """A frozen sweep.

    name      its folder's name
    command   the command line that made it
    program   what runs a job, as a command line: it is called with the job's folder and its run directory
    code      commits and changes of the code at the freeze
    settings  how it is run: pool, retries, stopping, as plain trees
    varied    the keys that differ between jobs
    jobs      in the order of their numbers
    order     numbers in the order in which they start
    """

    name: str
    command: list[str]
    program: list[str]
    code: dict[str, Any]
    settings: dict[str, Any]
    varied: list[str]
    jobs: list[Job]
    order: list[int]


def write_plan(folder: Path, plan: Plan) -> None:
    """Makes the sweep's folder with `sweep.json` in it; RequestError where a sweep is there already."""
    if (folder / "sweep.json").exists():
        raise RequestError(
            f"dir={folder}: a sweep is there already; go on with it by `lmx sweep resume {folder}`, or name another"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"dir={folder}: there is a file of this name; name another folder") from None
    tree = {"version": VERSION, **plan._asdict(), "jobs": [job._asdict() for job in plan.jobs]}
    write_atomic(folder / "sweep.json", to_json(tree, indent=1) + "\n", sync=True)


def read_plan(folder: Path) -> Plan:
    """The sweep in a folder; RequestError where there is none, and where `sweep.json` is damaged."""
    tree = read_record(folder / "sweep.json", {"version": is_count}) or {}
    if tree.get("version") != VERSION:
        found = sorted(str(p.parent) for p in Path("sweeps").glob("*/sweep.json"))[-3:]
        hint = f"; there are {', '.join(found)}" if found else ""
        if tree:
            hint = f" that this lmx reads (version {tree['version']}, not {VERSION})"
        raise RequestError(f"{folder}: this is not the folder of a sweep (it has no sweep.json){hint}")
    expect_shape(folder / "sweep.json", tree, _SHAPE)
    jobs = [Job(*(job[key] for key in Job._fields)) for job in tree["jobs"]]
    return Plan(**{key: tree[key] for key in Plan._fields if key != "jobs"}, jobs=jobs)


def _are_jobs(value: Any) -> bool:
    shape = {"number": is_count, "overrides": is_texts, "hash": is_text, "config": is_object}
    if not isinstance(value, list) or not all(is_object(job) and misfit(job, shape) is None for job in value):
        return False
    return len({job["number"] for job in value}) == len(value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_count, value))


_SHAPE = {
    **{"version": is_count, "name": is_text, "command": is_texts, "program": is_texts, "code": is_object},
    **{"settings": is_object, "varied": is_texts, "jobs": _are_jobs, "order": _are_counts},
}


def run_dir(folder: Path, number: int) -> Path:
    """The run directory of a job."""
    return folder / str(number)


def job_dir(folder: Path, number: int) -> Path:
    """The folder of a job's frozen configuration and attempts."""
    return folder / ".jobs" / str(number)


def attempt_dir(folder: Path, number: int, attempt: int) -> Path:
    """The folder of one attempt: claim, pid, log.txt, exit."""
    return job_dir(folder, number) / f"attempt-{attempt}"
