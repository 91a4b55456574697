"""Launched runs as seen from another terminal: state, logs, the end. Everything comes from disk and the hosts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.io.journal import driver
from lmx.launch.agent import last_row
from lmx.launch.drive import Say, drive
from lmx.launch.plan import Launch, load
from lmx.launch.record import Driven, Ended, ask_to_stop, driving, events, last_word, unended
from lmx.launch.screen import Screen
from lmx.launch.target import DEFAULT_GRACE, Attempt, Seen, log_file, read

_LEAVING_S = 10.0
"""How long a driver takes to leave when nothing runs any more."""


def current(launch: Launch) -> Attempt | None:
    """The attempt that was started last and has not been seen to end; None where there is none."""
    left = unended(launch)
    return left[-1] if left else None


def status(folder: Path) -> dict[str, Any]:
    """What is known of a run, as JSON."""
    launch = load(folder)
    happened = events(folder)
    attempt = current(launch)
    seen = launch.target.poll(launch.plan, attempt, logs=False) if attempt is not None else None
    begun = read(launch.plan)
    place = launch.target.where(launch.plan, begun[-1]) if begun else None
    last = next((e for e in reversed(happened) if e["event"] == "ended"), {})
    finished = last_word(folder)
    row = seen._asdict() if seen is not None else last_row(str(folder.parent))
    return {
        "run": str(folder.parent),
        "state": _state(finished, seen, happened),
        "attempts": len(begun),
        "driver": driver(folder),
        "run_dir": place,
        "step": row["step"],
        "loss": row["loss"],
        "checkpoint": seen.checkpoint if seen is not None else last.get("checkpoint"),
        "exit_code": finished.exit_code if finished else None,
        "message": finished.message if finished else last.get("message", ""),
        "processes": [task._asdict() for task in seen.tasks] if seen is not None else [],
    }


def _state(finished: Ended | None, seen: Seen | None, happened: list[dict[str, Any]]) -> str:
    if finished is not None:
        return {0: "done", 75: "stopped", 2: "refused"}.get(finished.exit_code, "failed")
    if seen is not None:
        return "running" if seen.running else "ended"
    return "waiting to restart" if happened else "starting"


def as_text(found: dict[str, Any]) -> str:
    """The lines for a person."""
    words = [found["run"], found["state"]]
    if found["step"] is not None:
        words.append(
            f"step {found['step']}" + (f", loss {found['loss']:.4f}" if found["loss"] is not None else "")
        )
    if found["checkpoint"] is not None:
        words.append(f"checkpoint {found['checkpoint']}")
    words.append(f"attempts {found['attempts']}")
    lines = ["  ".join(words)]
    if found["state"] in ("running", "ended", "waiting to restart", "starting"):
        nobody = f"nobody; lmx launch attach {found['run']} goes on with it"
        lines.append(f"    driven by {found['driver'] or nobody}")
    if found["run_dir"] is not None:
        lines.append(f"    checkpoints on {found['run_dir']}")
    for task in found["processes"]:
        code = "" if task["exit_code"] is None else f", exit code {task['exit_code']}"
        lines.append(
            f"    process {task['index']} on {task['host']}: {task['state']}{code} {task['message']}".rstrip()
        )
    if found["message"]:
        lines += [f"    {line}" for line in found["message"].splitlines()]
    return "\n".join(lines)


def logs(folder: Path, *, process: int, attempt: int | None, lines: int | None) -> str:
    """The log of a process; brought from its host first where nobody drives the run. RequestError where none is."""
    launch = load(folder)
    running = current(launch)
    if running is not None and driver(folder) is None:
        with driving(folder):
            launch.target.poll(launch.plan, running)
    begun = read(launch.plan)
    number = attempt if attempt is not None else (begun[-1].number if begun else 0)
    path = log_file(launch.plan, number, process)
    if not path.is_file():
        there = sorted(p.stem.removeprefix("task-") for p in path.parent.glob("task-*.log"))
        raise RequestError(
            f"{folder.parent}: there is no log of process {process} in attempt {number}; "
            f"attempts: {', '.join(str(a.number) for a in begun) or 'none'}; processes: {', '.join(there) or 'none'}"
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:])


def attach(launch: Launch, *, say: Say, show: Say) -> Ended:
    """Follows a run to its end, whoever drives it; as soon as nobody does, this process does.

    A following process that is interrupted leaves the run alone, one that drives it stops it.
    """
    folder, screen = launch.plan.folder, Screen(show)
    told: int | None = None
    while True:
        who = driver(folder)
        if who is None:
            if read(launch.plan) and last_word(folder) is None:
                say(
                    "nobody drives this run: from now on this process does, and stops it when it is interrupted"
                )
            try:
                return drive(launch, say=say, show=screen)
            except Driven:
                continue  # another was quicker
        noted = events(folder)
        if told is None:
            say(f"driven by {who}; this only follows, and may be ended at any time")
            told = len(noted)
        for event in noted[told:]:
            _tell(event, say)
        told = len(noted)
        begun, ended = read(launch.plan), last_word(folder)
        if begun:
            screen.update(log_file(launch.plan, begun[-1].number, 0), last=ended is not None)
        if ended is not None:
            return ended
        time.sleep(min(launch.policy.poll_every, 0.5))


def _tell(event: dict[str, Any], say: Say) -> None:
    if event["event"] == "starting":
        step = event["checkpoint"]
        say(f"attempt {event['attempt']}" + (f", going on from step {step}" if step is not None else ""))
    elif event["event"] == "ended" and event["message"]:
        say(event["message"])


def stop(folder: Path, *, grace: float | None) -> str:
    """Ends a run; returns when its processes have ended, with what was done in words."""
    launch = load(folder)
    if last_word(folder) is not None:
        messages = launch.target.sweep(launch.plan, grace=launch.policy.grace if grace is None else grace)
        return "\n".join(["it has ended already", *messages])
    seconds = (launch.policy.grace if grace is None else grace) or DEFAULT_GRACE
    ask_to_stop(folder, seconds)
    # A driver that lives ends the processes: told a second time, they would end at once, without saving.
    _until_left(folder, seconds + launch.policy.poll_every + _LEAVING_S if current(launch) else _LEAVING_S)
    said = ["nothing runs now; it will not be started again"]
    attempt, ended = current(launch), last_word(folder)
    if attempt is not None:
        messages = launch.target.stop(launch.plan, attempt, grace=seconds)
        said = ["its processes have ended", *messages]
        _until_left(folder, _LEAVING_S)
    elif ended is not None:
        said = [ended.message]
    if (
        driver(folder) is None and last_word(folder) is None
    ):  # nobody else gives back what was made for the run
        drive(launch, say=said.append, show=lambda text: None)
    return "\n".join(said)


def _until_left(folder: Path, seconds: float) -> None:
    """Waits until no driver works on a run, so many seconds at most."""
    until = time.monotonic() + seconds
    while driver(folder) is not None and time.monotonic() < until:
        time.sleep(0.2)
