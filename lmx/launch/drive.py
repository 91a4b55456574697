"""The driver of a launched run: starts attempts, follows them, restarts them, and ends with the run's exit code.

It may die at any moment: all it knows is in the run's folder, and the next driver goes on from there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import LmxError, RequestError, Resumable
from lmx.io import journal
from lmx.launch.plan import Launch
from lmx.launch.retry import DONE, PREEMPTED, WRONG_REQUEST, Result, decide
from lmx.launch.target import Attempt, Seen, log_file, read, write

SETTLE = 15.0
"""Seconds that processes have to end by themselves after the first one has failed."""

Say = Callable[[str], None]


class Interrupted(Exception):
    """Someone asked for the end of the run."""


class Ended(NamedTuple):
    """The last word on a run."""

    exit_code: int
    message: str


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Holds the right to drive a run; RequestError where another process has it."""
    lock = journal.hold(folder, lambda who: f"{folder.parent} is driven by {who}; see lmx launch status")
    try:
        yield
    finally:
        journal.let_go(lock)


def note(folder: Path, event: str, **facts: Any) -> None:
    """One more event."""
    journal.append(folder, {"time": time.time(), "event": event, **facts})


def results(folder: Path) -> list[Result]:
    """How the attempts so far ended."""
    return [Result(e["exit_code"], e["progressed"]) for e in journal.read(folder) if e["event"] == "ended"]


def unended(launch: Launch) -> list[Attempt]:
    """The attempts that were started and have not been seen to end: one at most, the last."""
    ended = {e["attempt"] for e in journal.read(launch.plan.folder) if e["event"] == "ended"}
    return [attempt for attempt in read(launch.plan) if attempt.number not in ended]


def drive(launch: Launch, *, say: Say, show: Say) -> Ended:
    """Drives the run to its end. `say`: what the driver does; `show`: text of process 0's log, as it comes.

    A run that has ended is not started again.
    """
    folder = launch.plan.folder
    with driving(folder):
        done = next((e for e in journal.read(folder) if e["event"] == "finished"), None)
        if done is not None:
            return Ended(done["exit_code"], done["message"])
        try:
            ended = _attempts(launch, say, show)
        except RequestError as error:
            stopped = (folder / "stop").exists()
            checkpoint = _last(folder, "ended")
            ended = _stopped(checkpoint, str(error)) if stopped else Ended(WRONG_REQUEST, str(error))
        note(folder, "finished", **ended._asdict())
        for name in launch.target.release(launch.plan) or ():
            say(name)
        return ended


class Begun(NamedTuple):
    """An attempt that runs, and the checkpoint that it went on from."""

    attempt: Attempt
    checkpoint: int | None


def _attempts(launch: Launch, say: Say, show: Say) -> Ended:
    plan, policy = launch.plan, launch.policy
    while True:
        begun = _running(launch)
        if begun is None and (plan.folder / "stop").exists():
            return _stopped(_last(plan.folder, "ended"))
        if begun is None:
            begun = _started(launch, say)
        if isinstance(begun, Ended):
            return begun
        if begun is not None:
            ended = _followed(launch, begun, say, show)
            if ended is not None:
                return ended
        _pause(plan.folder, policy.restart_after)


@contextmanager
def _until_asked(launch: Launch) -> Iterator[None]:
    """A wish to end while hosts are made, set up and started: what was started by then is stopped."""
    plan = launch.plan
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        (plan.folder / "stop").touch()
        for attempt in unended(launch):  # written before its processes are started
            launch.target.stop(plan, attempt, grace=0)
        raise RequestError("before its processes ran") from None


def _running(launch: Launch) -> Begun | None:
    """The attempt that a former driver left running."""
    left = unended(launch)
    return Begun(left[-1], _last(launch.plan.folder, "starting")) if left else None


def _started(launch: Launch, say: Say) -> Begun | Ended | None:
    """The next attempt; None where it could not be started and is to be tried again."""
    plan = launch.plan
    if not journal.read(plan.folder):
        with _until_asked(launch):
            launch.target.prepare(plan)
        note(plan.folder, "prepared")
    number, checkpoint = len(results(plan.folder)), _last(plan.folder, "ended")
    say(f"attempt {number}" + (f", going on from step {checkpoint}" if checkpoint is not None else ""))
    note(plan.folder, "starting", attempt=number, checkpoint=checkpoint)
    try:
        with _until_asked(launch):
            attempt = launch.target.start(plan, number, resume=checkpoint is not None)
    except RequestError as error:
        if number == 0 or (plan.folder / "stop").exists():
            raise
        # It was sound before: a host that does not answer now may come back.
        facts = {"attempt": number, "exit_code": 1, "progressed": False, "checkpoint": checkpoint}
        note(plan.folder, "ended", **facts, message=str(error))
        return _decided(launch, 1, str(error), say)
    write(plan, attempt)
    note(plan.folder, "started", attempt=number)
    return Begun(attempt, checkpoint)


def _followed(launch: Launch, begun: Begun, say: Say, show: Say) -> Ended | None:
    """Follows an attempt to its end; the end of the run, or None where it is to be tried again."""
    folder = launch.plan.folder
    seen, asked = _follow(launch, begun.attempt, say, show)
    result = Result(seen.exit_code or 0, _newer(seen.checkpoint, begun.checkpoint))
    words = first_words(launch, begun.attempt, seen)
    facts = {"attempt": begun.attempt.number, **result._asdict(), "checkpoint": seen.checkpoint}
    note(folder, "ended", **facts, message=words)
    if (asked or (folder / "stop").exists()) and result.exit_code != DONE:
        return _stopped(seen.checkpoint, words)
    return _decided(launch, result.exit_code, words, say)


def _decided(launch: Launch, exit_code: int, words: str, say: Say) -> Ended | None:
    policy = launch.policy
    decision = decide(
        results(launch.plan.folder),
        max_failures=policy.max_failures,
        max_preemptions=policy.max_preemptions,
    )
    if decision.action == "done":
        return Ended(DONE, "done")
    say(f"{words}\n{decision.reason}; {decision.action}")
    return Ended(exit_code, f"{words}\n{decision.reason}") if decision.action == "give up" else None


def _stopped(checkpoint: int | None, words: str = "") -> Ended:
    return Ended(PREEMPTED if checkpoint is not None else 1, f"stopped as asked. {words}".strip(" ."))


def _last(folder: Path, event: str) -> int | None:
    """The checkpoint of the last event of this kind."""
    return next((e["checkpoint"] for e in reversed(journal.read(folder)) if e["event"] == event), None)


def _newer(now: int | None, before: int | None) -> bool:
    return now is not None and (before is None or now > before)


def _pause(folder: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (folder / "stop").exists():
        time.sleep(min(0.2, seconds))


def _follow(launch: Launch, attempt: Attempt, say: Say, show: Say) -> tuple[Seen, bool]:
    """Until the attempt has ended; how, and whether someone asked for it."""
    plan, policy = launch.plan, launch.policy
    shown = 0
    failed_at: float | None = None
    asked = False
    silent: set[str] = set()
    while True:
        try:
            seen = launch.target.poll(plan, attempt)
            shown = _show_log(log_file(plan, attempt.number, 0), shown, show)
            if not seen.running:
                return seen, asked
            for task in seen.tasks:
                if task.message and task.host not in silent:
                    silent.add(task.host)
                    say(task.message)
            first = seen.first_error
            if first is not None and failed_at is None:
                failed_at = time.monotonic()
            patience = policy.grace if first is not None and first.exit_code == PREEMPTED else SETTLE
            if failed_at is not None and time.monotonic() - failed_at > patience:
                say("a process has failed; the others are ended")
                launch.target.stop(plan, attempt, grace=5.0)
            if (plan.folder / "stop").exists() and not asked:
                raise Interrupted
            time.sleep(policy.poll_every if seen.step is not None else min(policy.poll_every, 0.5))
        except (Interrupted, KeyboardInterrupt):
            if asked:
                raise
            asked = True
            (plan.folder / "stop").touch()
            say(f"stopping: the processes have {policy.grace:.0f} s to write a checkpoint")
            for message in launch.target.stop(plan, attempt, grace=policy.grace):
                say(message)


def _show_log(path: Path, shown: int, show: Say) -> int:
    if not path.exists():
        return shown
    with open(path, "rb") as stream:
        stream.seek(shown)
        data = stream.read()
    if data:
        show(data.decode(errors="replace"))
    return shown + len(data)


def first_words(launch: Launch, attempt: Attempt, seen: Seen) -> str:
    """What is to be said of an attempt that failed: which host was first, how, and its last words."""
    first = seen.first_error
    if first is None:
        return ""
    text = f"process {first.index} on {first.host} " + (
        f"was killed by signal {-first.exit_code}"
        if first.exit_code is not None and first.exit_code < 0
        else f"ended with exit code {first.exit_code}"
    )
    if first.message:
        text += f" ({first.message})"
    path = log_file(launch.plan, attempt.number, first.index)
    if path.exists() and len(seen.tasks) > 1:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        mark = "lmx train: "
        said = next((line for line in reversed(lines) if line.startswith(mark)), lines[-1] if lines else "")
        text += f"\n    {said}" if said else ""
    return f"{text}\n    its log: {path}"


def raise_for(ended: Ended, run_dir: str) -> None:
    """The exception that gives a run's exit code to the command line; nothing where it is done."""
    if ended.exit_code == DONE:
        return
    if ended.exit_code == PREEMPTED:
        raise Resumable(ended.message)
    if ended.exit_code == WRONG_REQUEST:
        raise RequestError(ended.message)
    raise LmxError(ended.message)


def to_stderr(text: str) -> None:
    """The driver's own words."""
    print(f"lmx launch: {text}", file=sys.stderr, flush=True)
