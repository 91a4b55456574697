"""The driver of a launched run: starts attempts, follows them, restarts them, and ends with the run's exit code.

It may die at any moment: all it knows is in the run's folder, and the next driver goes on from there.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lmx.config.errors import LmxError, RequestError, Resumable
from lmx.config.foreign import cut
from lmx.io.run_dir import IN_USE
from lmx.launch.plan import Launch, Policy
from lmx.launch.record import (
    Ended,
    asked_grace,
    driving,
    events,
    last_word,
    note,
    results,
    since_opened,
    unended,
)
from lmx.launch.retry import DONE, PREEMPTED, WRONG_REQUEST, Result, decide
from lmx.launch.screen import Screen, is_noise
from lmx.launch.target import Attempt, Seen, Task, Unreached, log_file, write

SETTLE = 15.0
"""Seconds that processes have to end by themselves after the first one has failed."""

Say = Callable[[str], None]


class Interrupted(Exception):
    """Someone asked for the end of the run."""


def drive(launch: Launch, *, say: Say, show: Say | Screen) -> Ended:
    """Drives the run to its end. `say`: what the driver does; `show`: text of process 0's log, as it comes.

    A run that has ended is not started again (see `reopen`). Driven where another process drives it.
    """
    folder = launch.plan.folder
    screen = show if isinstance(show, Screen) else Screen(show)
    with driving(folder):
        ended = last_word(folder)
        if ended is not None:
            return ended
        try:
            ended = _attempts(launch, say, screen)
        except RequestError as error:
            stopped = (folder / "stop").exists()
            checkpoint = _last(folder, "ended")
            ended = _stopped(checkpoint, str(error)) if stopped else Ended(WRONG_REQUEST, str(error))
            for attempt in unended(launch):  # not all of its processes could be started
                _note_ended(folder, attempt.number, Result(ended.exit_code, False), checkpoint, str(error))
        note(folder, "finished", **ended._asdict())
        for name in launch.target.release(launch.plan) or ():
            say(name)
        return ended


class Begun(NamedTuple):
    """An attempt that runs, and the checkpoint that it went on from."""

    attempt: Attempt
    checkpoint: int | None


def _attempts(launch: Launch, say: Say, screen: Screen) -> Ended:
    plan, policy = launch.plan, launch.policy
    away: float | None = None
    while True:
        begun = _running(launch)
        if begun is None and (plan.folder / "stop").exists():
            return _stopped(_last(plan.folder, "ended"))
        try:
            begun = begun or _started(launch, say)
        except Unreached as error:
            # It was sound before: a host that does not answer now may come back. It costs time, and no budget.
            if not results(plan.folder):
                raise
            if policy.host_wait is None:
                return Ended(1, f"{error}\n    launch.host_wait=null: it is not waited for")
            if away is None:
                say(f"{error}\n    waiting for it, at most {policy.host_wait:.0f} s (launch.host_wait)")
                away = time.monotonic()
            if time.monotonic() - away >= policy.host_wait:
                return Ended(1, f"{error}\n    it was waited for, launch.host_wait={policy.host_wait:.0f}s")
            _pause(plan.folder, max(1.0, policy.restart_after))
            continue
        away = None
        if isinstance(begun, Ended):
            return begun
        if begun is not None:
            ended = _followed(launch, begun, say, screen)
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
    """The next attempt; None where it could not be started and is to be tried again. Unreached: no host refused."""
    plan, folder = launch.plan, launch.plan.folder
    if not any(event["event"] == "prepared" for event in since_opened(folder)):
        with _until_asked(launch):
            launch.target.prepare(plan)
        note(folder, "prepared")
    noted = events(folder)
    number, checkpoint = sum(e["event"] == "ended" for e in noted), _last(folder, "ended")
    if (noted[-1]["event"], noted[-1].get("attempt")) != ("starting", number):
        say(f"attempt {number}" + (f", going on from step {checkpoint}" if checkpoint is not None else ""))
        note(folder, "starting", attempt=number, checkpoint=checkpoint)
    try:
        with _until_asked(launch):
            attempt = launch.target.start(plan, number, resume=checkpoint is not None)
    except Unreached:
        raise
    except RequestError as error:
        if not results(folder) or (folder / "stop").exists():
            raise
        _note_ended(folder, number, Result(1, False), checkpoint, str(error))
        return _decided(launch, 1, str(error), say)
    write(plan, attempt)
    place = launch.target.where(plan, attempt)
    if place is not None and not results(folder):
        say(f"checkpoints are on {place}; metrics and summary are brought to {folder.parent} at the end")
    note(folder, "started", attempt=number)
    return Begun(attempt, checkpoint)


def _note_ended(folder: Path, number: int, result: Result, checkpoint: int | None, words: str) -> None:
    note(folder, "ended", attempt=number, **result._asdict(), checkpoint=checkpoint, message=words)


def _followed(launch: Launch, begun: Begun, say: Say, screen: Screen) -> Ended | None:
    """Follows an attempt to its end; the end of the run, or None where it is to be tried again."""
    folder, number = launch.plan.folder, begun.attempt.number
    seen, asked = _follow(launch, begun.attempt, say, screen)
    words = first_words(launch, begun.attempt, seen)
    code = seen.exit_code or 0
    if code == WRONG_REQUEST and number and IN_USE in _last_line(launch, begun.attempt, seen):
        code = 1  # the same request was right before; whoever holds the directory may end
    result = Result(code, _newer(seen.checkpoint, begun.checkpoint))
    for message in launch.target.collect(launch.plan, begun.attempt):
        say(message)
    _note_ended(folder, number, result, seen.checkpoint, words)
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
    if decision.action == "give up":
        return Ended(exit_code, f"{words}\n{decision.reason}; {decision.action}")
    say(f"{words}\n{decision.reason}; {decision.action}")
    return None


def _stopped(checkpoint: int | None, words: str = "") -> Ended:
    text = f"stopped as asked. {words}".strip(" .")
    return Ended(1, f"{text}; nothing was saved") if checkpoint is None else Ended(PREEMPTED, text)


def _last(folder: Path, event: str) -> int | None:
    """The checkpoint of the last event of this kind."""
    return next((e["checkpoint"] for e in reversed(events(folder)) if e["event"] == event), None)


def _newer(now: int | None, before: int | None) -> bool:
    return now is not None and (before is None or now > before)


def _pause(folder: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (folder / "stop").exists():
        time.sleep(min(0.2, seconds))


def _follow(launch: Launch, attempt: Attempt, say: Say, screen: Screen) -> tuple[Seen, bool]:
    """Until the attempt has ended; how, and whether someone asked for it."""
    plan, policy = launch.plan, launch.policy
    failed_at: float | None = None
    asked, lost = False, None
    silent: set[str] = set()
    while True:
        try:
            seen = launch.target.poll(plan, attempt)
            screen.update(log_file(plan, attempt.number, 0), last=not seen.running)
            first = seen.first_error
            if first is not None and first.state == "lost":
                lost = lost or first
            if not seen.running:
                return _with_lost(seen, lost), asked
            for task in seen.tasks:
                if task.message and task.host not in silent:
                    silent.add(task.host)
                    say(task.message)
            if first is not None and failed_at is None:
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at >= _patience(policy, lost or first):
                failed = lost or first
                say(f"{_how(failed) if failed else 'a process has failed'}; the others are ended")
                for message in launch.target.stop(plan, attempt, grace=5.0):
                    say(message)
            if (plan.folder / "stop").exists() and not asked:
                raise Interrupted
            time.sleep(policy.poll_every if seen.step is not None else min(policy.poll_every, 0.5))
        except (Interrupted, KeyboardInterrupt):
            if asked:
                raise
            asked = True
            (plan.folder / "stop").touch()
            grace = asked_grace(plan.folder) or policy.grace
            say(f"stopping: the processes have {grace:.0f} s to write a checkpoint")
            for message in launch.target.stop(plan, attempt, grace=grace):
                say(message)


def _patience(policy: Policy, first: Task | None) -> float:
    """How long the others have to end by themselves: those of a lost host would wait for it until they time out."""
    if first is not None and first.exit_code == PREEMPTED:
        return policy.grace
    return 0.0 if first is not None and first.state == "lost" else SETTLE


def _with_lost(seen: Seen, lost: Task | None) -> Seen:
    """A process that was lost stays the first error, though its host may answer again by now."""
    if lost is None:
        return seen
    return seen._replace(tasks=tuple(lost if task.index == lost.index else task for task in seen.tasks))


def _how(first: Task) -> str:
    code = first.exit_code
    text = f"process {first.index} on {first.host} "
    if first.state == "lost" and code == 1:
        return f"{text}is lost ({first.message})"
    text += (
        f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    )
    return text + (f" ({first.message})" if first.message else "")


def first_words(launch: Launch, attempt: Attempt, seen: Seen) -> str:
    """What is to be said of an attempt that failed: which host was first, how, and its last words."""
    first = seen.first_error
    if first is None:
        return ""
    text = _how(first)
    said = _last_line(launch, attempt, seen) if len(seen.tasks) > 1 else ""
    text += f"\n    {said}" if said else ""
    return f"{text}\n    its log: {log_file(launch.plan, attempt.number, first.index)}"


_FATAL = (
    re.compile(r"lmx train: "),
    re.compile(r"F\d{4} "),  # of XLA and gRPC: what ended the process, above the stack that they print
    re.compile(r"[\w.]*(Error|Exception|Interrupt): "),
)
"""Lines that say why a process has ended, the plainest first."""


def _last_line(launch: Launch, attempt: Attempt, seen: Seen) -> str:
    """What the process that failed first said last: the error of lmx where there is one, or what else was fatal."""
    first = seen.first_error
    path = log_file(launch.plan, attempt.number, first.index) if first is not None else None
    if path is None or not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if not is_noise(line)]
    said = next(
        (line for mark in _FATAL for line in reversed(lines) if mark.match(line)), lines[-1] if lines else ""
    )
    said = cut(re.sub(r"^F\d{4} [^]]*\] ", "", said), 500)
    return said.removesuffix("; go on with")  # of the process alone: the run has a command of its own


def raise_for(ended: Ended, run_dir: str) -> None:
    """The exception that gives a run's exit code to the command line; nothing where it is done."""
    if ended.exit_code == DONE:
        return
    if ended.exit_code == WRONG_REQUEST:
        raise RequestError(ended.message)
    message = f"{ended.message}\n    go on with it: lmx launch resume {run_dir}"
    raise (Resumable if ended.exit_code == PREEMPTED else LmxError)(message)


def to_stderr(text: str) -> None:
    """The driver's own words."""
    print(f"lmx launch: {text}", file=sys.stderr, flush=True)
