"""One attempt at a job on a launch target, in a process: `python -m lmx.sweep.launched run ATTEMPT POD JOB RUN`.

It starts the job's processes on the pod's hosts, follows them, brings their logs and results here, and writes
`ATTEMPT/ended.json` when it knows how they ended. Killed before that, it is started again and finds the same processes.

    ATTEMPT/launch/      the plan and logs of the attempt, as `lmx.launch` keeps them
    ATTEMPT/pid          once the processes run
    ATTEMPT/stop         written to end them with time to save, as SIGTERM to this process does
    ATTEMPT/kill         written to end them without more time to save
    POD/                 the pod's plan, code and setup (lmx.sweep.enlist)

`python -m lmx.sweep.launched check POD` asks whether a pod can take a job: one that lost a job, or is yet to be made.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmx.config.errors import DONE, FAILED, STOPPED, WRONG_REQUEST, RequestError
from lmx.io.files import to_json, write_atomic
from lmx.launch import Gke
from lmx.launch.drive import SETTLE, Interrupted, driving
from lmx.launch.host import Unreachable
from lmx.launch.plan import load
from lmx.launch.target import Attempt, Seen, Task, log_file, read, write
from lmx.sweep.carry import Look, Place, ask, bring
from lmx.sweep.enlist import enlisted, prepared, shared_state
from lmx.sweep.pods import MARK, last_words
from lmx.sweep.work import Work, before, place_of, work_of

LOST = 69
"""The exit code of an attempt whose pod did not start it, or went away: not the job's own end."""

_CARRY_EVERY = 5.0
_PATIENCE_TO_CARRY = 30.0


class Wishes:
    """SIGTERM to this process, and the files that ask for an end.

    waits  whether something is done that may take long: SIGTERM ends that at once
    """

    def __init__(self, work: Work) -> None:
        self.work, self.waits, self.signalled = work, True, False
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, *_: object) -> None:
        self.signalled = True
        (self.work.launch.plan.folder / "stop").touch()
        if self.waits:
            raise Interrupted

    @property
    def stop(self) -> bool:
        """An end, with time to save."""
        return self.signalled or (self.work.attempt / "stop").exists()

    @property
    def kill(self) -> bool:
        """No more time."""
        return (self.work.attempt / "kill").exists()


# ---- the attempt


def begin(work: Work, wishes: Wishes, say: Callable[[str], None]) -> Attempt:
    """The attempt, started here or by a process before this one. RequestError and Unreachable where the pod cannot."""
    plan, target = work.launch.plan, work.launch.target
    begun = read(plan)
    if begun:
        return begun[-1]
    prepared(work.pod)
    shared_state(work.pod, plan.folder)
    found = _free(work, wishes, say)
    if wishes.stop or wishes.kill:
        raise RequestError("it was told to stop before it began")
    if work.launch.plan.run_dir != str(work.run) and (work.run / "checkpoints").exists():
        work.run.rename(work.job / f"before-{len(list(work.job.glob('before-*'))) + 1}")
    say(f"starts on {work.pod.name}" + ("" if found.checkpoint is None else f" from step {found.checkpoint}"))
    attempt = target.start(plan, work.number, resume=found.checkpoint is not None)
    write(plan, attempt)
    return attempt


def _free(work: Work, wishes: Wishes, say: Callable[[str], None]) -> Look:
    """Waits until nobody works in the run's directory: a pod that was lost may still run the job, and end it."""
    until, told = time.monotonic() + work.pod.patience, False
    while True:
        found = before(work)
        if found.holder is None or wishes.stop or wishes.kill:
            return found
        if time.monotonic() > until:
            raise RequestError(f"its run directory is still in use by {found.holder}")
        if not told:
            say(f"waits: its run directory is in use by {found.holder}")
            told = True
        time.sleep(min(2.0, work.pod.patience))


def follow(
    work: Work, attempt: Attempt, wishes: Wishes, say: Callable[[str], None]
) -> tuple[Seen, int | None]:
    """Follows the processes to their end; how they ended, and the newest checkpoint."""
    plan, target, policy = work.launch.plan, work.launch.target, work.launch.policy
    place, carried, failed_at, told, silent = place_of(work, attempt), 0.0, None, set(), set()
    checkpoint: int | None = None
    while True:
        seen = target.poll(plan, attempt)
        checkpoint = _newest(checkpoint, seen.checkpoint)
        if place is not None and time.monotonic() > carried + _CARRY_EVERY:
            carried = time.monotonic()
            checkpoint = _newest(checkpoint, _carry(place, work.run, patience=0.0))
        if not seen.running:
            break
        for task in seen.tasks:
            if task.message and task.host not in silent:
                silent.add(task.host)
                say(task.message)
        failed_at = failed_at or (time.monotonic() if seen.first_error is not None else None)
        first = seen.first_error
        patience = policy.grace if first is not None and first.exit_code == STOPPED else SETTLE
        if failed_at is not None and time.monotonic() > failed_at + patience:
            target.stop(plan, attempt, grace=5.0)
        _obey(work, attempt, place, wishes, told)
        time.sleep(policy.poll_every)
    if place is not None:
        gone = any(task.state == "lost" for task in seen.tasks)
        checkpoint = _newest(
            checkpoint, _carry(place, work.run, patience=0.0 if gone else _PATIENCE_TO_CARRY)
        )
    return seen, checkpoint


def _newest(one: int | None, other: int | None) -> int | None:
    return max((step for step in (one, other) if step is not None), default=None)


def _carry(place: Place, run: Path, *, patience: float) -> int | None:
    until = time.monotonic() + patience
    while True:
        try:
            return bring(place, run).checkpoint
        except (Unreachable, RequestError):
            if time.monotonic() >= until:
                return None
            time.sleep(2.0)


def _obey(work: Work, attempt: Attempt, place: Place | None, wishes: Wishes, told: set[str]) -> None:
    """Passes on to the hosts what this process was asked for."""
    plan, target = work.launch.plan, work.launch.target
    if wishes.kill:
        target.stop(plan, attempt, grace=0.0)
    elif wishes.stop and "stop" not in told:
        told.add("stop")
        target.stop(plan, attempt, grace=work.launch.policy.grace)
    elif (work.job / "stop").exists() and "prune" not in told and plan.run_dir != str(work.run):
        if place is None or isinstance(target, Gke):  # a JobSet starts again what has stopped by itself
            target.stop(plan, attempt, grace=work.launch.policy.grace)
        else:
            try:
                ask(place.host, "touch", cwd=place.workdir, path=work.stop_file)
            except Unreachable:
                return
        told.add("prune")


# ---- the end


def _verdict(work: Work, attempt: Attempt, seen: Seen) -> tuple[int, str | None]:
    """Exit code and reason."""
    first, code = seen.first_error, seen.exit_code or DONE
    words = _words(work, attempt, first) if first is not None else None
    lost = [task for task in seen.tasks if task.state == "lost"]
    if seen.preempted:
        return LOST, f"{work.pod.name} was taken away"
    if lost and code not in (DONE, WRONG_REQUEST):
        return LOST, f"{lost[0].host}: {lost[0].message}"
    if code == WRONG_REQUEST and words and "in use by" in words:
        return STOPPED, words
    if code == FAILED and first is not None and first.exit_code is not None and first.exit_code < 0:
        return 128 - first.exit_code, words
    return code, words


def _words(work: Work, attempt: Attempt, first: Task) -> str:
    """What the process that failed first has said last, and which it was."""
    logs = [log_file(work.launch.plan, attempt.number, first.index, kind) for kind in ("log", "out")]
    said = [last_words(path) for path in logs if path.exists() and path.stat().st_size]
    where = f"process {first.index} on {first.host}" + (f", {first.message}" if first.message else "")
    found = [line for line in said if line.startswith("lmx ")] or said
    return f"{found[0]} ({where})" if found else where


def _fence(work: Work, attempt: Attempt) -> None:
    """Ends what still runs of a lost attempt; what could not be asked is asked again before the pod gets a job."""
    if work.launch.target.stop(work.launch.plan, attempt, grace=0.0):
        mark = work.pod.folder / "unfenced" / work.attempt.name
        mark.parent.mkdir(exist_ok=True)
        write_atomic(mark.with_name(f"{work.job.name}-{mark.name}"), str(work.attempt))


def run(work: Work, say: Callable[[str], None]) -> int:
    """Works on the attempt to its end; the exit code, which `ended.json` holds too."""
    wishes = Wishes(work)
    step, began = None, False
    with driving(work.launch.plan.folder):
        try:
            attempt = begin(work, wishes, say)
            began, wishes.waits = True, False
            write_atomic(work.attempt / "pid", str(os.getpid()))
            write_atomic(work.job / "storage", work.pod.storage)
            log = work.launch.plan.attempt_folder(attempt.number) / "task-0.log"
            if not os.path.lexists(work.attempt / "log.txt"):
                (work.attempt / "log.txt").symlink_to(os.path.relpath(log, work.attempt))
            seen, step = follow(work, attempt, wishes, say)
            code, reason = _verdict(work, attempt, seen)
            if code == LOST and not seen.preempted:
                _fence(work, attempt)
        except Interrupted:
            for begun in read(work.launch.plan):  # written before its processes are started
                work.launch.target.stop(work.launch.plan, begun, grace=0.0)
            code, reason = STOPPED, "it was told to stop before it began"
        except (RequestError, Unreachable) as error:
            code, reason = (STOPPED if wishes.stop else LOST), str(error)
        if isinstance(work.launch.target, Gke):
            work.launch.target.release(work.launch.plan)  # the JobSet of this attempt; the cluster stays
        shared_state(work.pod, work.launch.plan.folder, back=True)
        found = {"code": code, "reason": reason, "step": step, "began": began}
        write_atomic(work.attempt / "ended.json", to_json(found) + "\n", sync=True)
    if reason:
        say(reason)
    return code


def check(folder: Path) -> None:
    """RequestError where the pod cannot run a job now. What it still runs of lost attempts is ended; it is made and set
    up where it has to be."""
    pod = enlisted(folder)
    (folder / "stop").unlink(missing_ok=True)
    pod.launch.target.check(pod.launch.plan)
    for mark in (folder / "unfenced").glob("*"):
        attempt = Path(mark.read_text(encoding="utf-8"))
        launch = load(attempt / "launch")
        for begun in read(launch.plan):
            messages = launch.target.stop(launch.plan, begun, grace=0.0)
            if messages and not launch.target.taken(launch.plan):
                raise RequestError("; ".join(messages))
        mark.unlink()
    prepared(pod, renew=True)


def main(words: list[str]) -> int:
    """`run` or `check`; the exit code."""
    os.environ.pop(MARK, None)  # what is started on hosts outlives this process
    say: Any = lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
    what, *paths = words
    if what == "check":
        try:
            check(Path(paths[0]))
        except (RequestError, Unreachable) as error:
            print(" ".join(str(error).split()), file=sys.stderr, flush=True)
            return FAILED
        return DONE
    attempt, pod, job, run_ = map(Path, paths)
    return run(work_of(attempt, pod, job, run_), say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
