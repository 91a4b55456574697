"""Target `slurm`: the run is one job, and each of its processes a task of `srun`.

An attempt is a job. SLURM tells whether it waits, runs or has ended; how its processes ended stands in the attempt's
folder, which all nodes share, so that it is known for as long as the folder is there:

    job.sh  task.sh        what sbatch and srun run       job.log    what the job itself says, its setup included
    task-P.log task-P.out  of process P                   task-P.exit  its exit code
    job.exit               exit code of the whole job     stop       the job is not to be started again
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.files import read_json, write_atomic
from lmx.launch import agent
from lmx.launch.host import missing_program
from lmx.launch.slurm_config import Slurm
from lmx.launch.slurm_job import FORGOTTEN, TAKEN, UNTOLD, WAITING, Job, NoAnswer, ask, call
from lmx.launch.slurm_script import code_folder, job_name, job_script, scripts
from lmx.launch.target import Attempt, Plan, Seen, Step, Task, write

PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")
CURES = {
    "TIMEOUT": "; its time limit was over: raise target.time, or target.signal_lead so that there is time to save",
    "OUT_OF_MEMORY": "; raise target.memory",
    "CANCELLED": "; it was cancelled by hand",
}


# ---- before the start


def check(target: Slurm, plan: Plan) -> None:
    """RequestError where SLURM is not here, or would refuse the job: a partition, an account, a number of nodes."""
    missing = next((program for program in PROGRAMS if shutil.which(program) is None), None)
    if missing is not None:
        raise RequestError(missing_program(missing))
    try:
        call("sbatch", "--test-only", script=job_script(target, plan, 0))
    except NoAnswer as error:
        raise RequestError(
            f"nothing was started: SLURM refuses the job: {error}{_cure(target, str(error))}"
        ) from None


def _cure(target: Slurm, said: str) -> str:
    lower = said.lower()
    if "contact slurm controller" in lower or "did not answer" in lower:
        return "; the controller must answer: sinfo"
    if "configuration source" in lower or "cannot stat file" in lower:
        return "; no cluster is known here: run this on a login node, or name its slurm.conf in SLURM_CONF"
    if "account" in lower:
        return f"; target.account={target.account or 'null'}: those that are yours: sacctmgr show assoc user=$USER"
    try:
        there = sorted(set(call("sinfo", "--noheader", "--format=%R %D").splitlines()))
    except (NoAnswer, RequestError):
        return ""
    known = ", ".join(f"{name} ({count} nodes)" for name, _, count in (line.partition(" ") for line in there))
    given = f"target.partition={target.partition or 'null'} target.nodes={target.nodes}"
    return f"; {given}; partitions here: {known}"


def steps(target: Slurm, plan: Plan) -> list[Step]:
    """The scripts and their submission."""
    found: list[Step] = []
    if target.code == "snapshot":
        found.append(
            Step(
                file=str(code_folder(target, plan)), input=f"a folder: what is in {plan.folder / 'code.tar'}"
            )
        )
    files = scripts(target, plan, 0)
    found += [Step(file=str(path), input=text) for path, text in files.items()]
    return [*found, Step(argv=submission(plan, 0))]


def submission(plan: Plan, number: int) -> tuple[str, ...]:
    """The command that submits an attempt."""
    return ("sbatch", "--parsable", str(plan.attempt_folder(number) / "job.sh"))


def prepare(target: Slurm, plan: Plan) -> None:
    """Unpacks the code beside the plan: every job of the run has this code, whatever happens in the checkout."""
    if target.code == "snapshot":
        agent.unpack(str(code_folder(target, plan)), (plan.folder / "code.tar").read_bytes())


# ---- start


def start(target: Slurm, plan: Plan, number: int) -> Attempt:
    """Submits a job. Where a driver was killed in the middle of that, the job is found again by its name."""
    if number:
        agent.move_aside(plan.run_dir, number)
    handle: dict[str, Any] = {
        "name": job_name(plan, number),
        "job": None,
        "processes": target.nodes * target.processes,
        "run_dir": plan.run_dir,
        "began": time.time(),
    }
    write(plan, Attempt(number, handle))
    for path, text in scripts(target, plan, number).items():
        write_atomic(path, text, sync=True)
    try:
        answer = call(*submission(plan, number))
    except NoAnswer as error:
        raise RequestError(f"SLURM refuses the job: {error}{_cure(target, str(error))}") from None
    return Attempt(number, handle | {"job": answer.strip().partition(";")[0]})


# ---- look


def poll(target: Slurm, plan: Plan, attempt: Attempt, *, driving: bool) -> Seen:
    """The processes, and how far the run is. SLURM is asked at most every `ask_every`, however often this is called."""
    folder = plan.attempt_folder(attempt.number)
    record = folder / "job.json"
    before = read_json(record) or {"job": Job()._asdict(), "time": 0.0}
    job, silent = Job(**before["job"]), before.get("silent", "")
    whole = _left(folder, "job")
    soon = not driving or (whole is not None and whole["restart"] == job.restarts)  # it is about to end
    if time.time() - before["time"] > (min(1.0, target.ask_every) if soon else target.ask_every):
        try:
            job, silent = ask(attempt), ""
        except NoAnswer as error:
            silent = f"SLURM does not answer: {error}"
        if driving:
            asked = {"job": job._asdict(), "time": time.time(), "silent": silent}
            write_atomic(record, json.dumps(asked))
    if driving and job.state == "CANCELLED" and not (folder / "stop").exists():
        (plan.folder / "stop").touch()  # whoever cancels the job by hand wants the run to end
    tasks = tasks_of(attempt, folder, job, silent)
    taken = job.state in TAKEN and any(task.exit_code for task in tasks)
    row = agent.last_row(plan.run_dir)
    return Seen(tasks, row["step"], agent.newest_checkpoint(plan.run_dir), taken, row["loss"])


def tasks_of(attempt: Attempt, folder: Path, job: Job, silent: str = "") -> tuple[Task, ...]:
    """The processes of an attempt, by what SLURM says of its job and what they have left in `folder`."""
    count = attempt.handle["processes"]
    known = [_left(folder, f"task-{i}") for i in range(count)]
    if job.state != FORGOTTEN:  # what is left of a former start of the job is not how this one ended
        known = [left if left and left["restart"] == job.restarts else None for left in known]
    queued = job.state in (*WAITING, UNTOLD)
    moving = queued or (not job.over and all(known))  # those that have ended may be started again
    words = silent or (_waits(job) if queued else "")
    found = []
    for i, left in enumerate(known):
        began = (_read(folder / f"task-{i}.node") or "").split()
        node = began[0] if began else job.nodes or f"job {job.id or attempt.handle['name']}"
        if moving:
            task = Task(i, node, "waiting", message=words)
        elif left:
            # A shell tells of signal 9 as 137.
            code = left["code"] if left["code"] <= 128 else 128 - left["code"]
            task = Task(i, node, "ended", code, left["time"], _full(attempt, folder, left))
        elif not job.over:
            task = Task(i, node, "running", message=silent)
        elif job.state == "COMPLETED":
            task = Task(i, node, "ended", 0)
        else:
            whole = _left(folder, "job")
            code = job.exit_code or (whole["code"] if whole else 1)
            task = Task(i, node, "lost", code or 1, message=_ended(job, folder))
        found.append(task)
    return tuple(found)


def _waits(job: Job) -> str:
    again = f", to be started again (time {job.restarts})" if job.restarts else ""
    if job.id is None:
        return "not submitted yet"
    return f"job {job.id} is {job.state}{f' ({job.reason})' if job.reason else ''}{again}"


def _ended(job: Job, folder: Path) -> str:
    """Why a process without an exit code is gone."""
    if job.id is None:
        return "the job was not submitted"
    if job.state == FORGOTTEN:
        text = f"SLURM does not know job {job.id} any more"
    else:
        text = f"job {job.id} ended as {job.state}{f' ({job.reason})' if job.reason else ''}"
    if not (folder / "job.log").exists():
        return f"{text}, and left nothing in {folder}: is that on a file system that the nodes share?"
    lines = (_read(folder / "job.log") or "").splitlines()
    return f"{text}{CURES.get(job.state, '')}" + (f"; the last line of job.log: {lines[-1]}" if lines else "")


def _left(folder: Path, name: str) -> dict[str, Any] | None:
    """What NAME.exit says."""
    found = agent.read(str(folder / f"{name}.exit"))
    return found if isinstance(found, dict) else None


def _full(attempt: Attempt, folder: Path, left: Mapping[str, Any]) -> str:
    """Which disk was full when a process ended, in words."""
    where = {"launch": str(folder), "run": attempt.handle.get("run_dir", "the run's directory")}
    return f"the disk of {where[left['full']]} is full" if left.get("full") else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


# ---- stop


def stop(plan: Plan, attempt: Attempt, *, grace: float) -> list[str]:
    """SIGTERM to the processes, SIGKILL after `grace` seconds; a job that waits is taken out of the queue."""
    folder = plan.attempt_folder(attempt.number)
    (folder / "stop").touch()
    try:
        job = ask(attempt)
        if job.over or job.id is None:
            return []
        if job.state == "RUNNING" and _began(folder, attempt, job):
            call("scancel", "--signal=TERM", job.id)
            if _wait(attempt, grace):
                return []
            call("scancel", "--signal=KILL", job.id)
            if _wait(attempt, 10):
                return []
        _cancel(job.id)
        if not _wait(attempt, 90):  # SLURM's own patience (KillWait) is 30 s unless set otherwise
            return [f"job {job.id} was cancelled, but SLURM has not ended it yet: scontrol show job {job.id}"]
    except NoAnswer as error:
        return [f"the job could not be ended: {error}; scancel --name={attempt.handle['name']}"]
    return []


def _began(folder: Path, attempt: Attempt, job: Job) -> bool:
    """Whether processes have started: a job that is still in its setup has none that could take a signal."""
    nodes = [_read(folder / f"task-{i}.node") for i in range(attempt.handle["processes"])]
    return any(node is not None and node.split()[-1:] == [str(job.restarts)] for node in nodes)


def _wait(attempt: Attempt, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not ask(attempt).over:
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _cancel(job: str) -> None:
    try:
        call("scancel", job)
    except NoAnswer as error:
        if "already" not in str(error).lower():
            raise
