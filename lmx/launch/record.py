"""What is kept of a launched run: the events of its drivers, who drives it, how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.io.files import write_atomic
from lmx.io.lines import is_count, is_number, is_switch, is_text, maybe, misfit
from lmx.launch.plan import Launch
from lmx.launch.retry import DONE, Result
from lmx.launch.target import Attempt, read


class Ended(NamedTuple):
    """The last word on a run."""

    exit_code: int
    message: str


class Driven(RequestError):
    """Another process drives the run."""


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Holds the right to drive a run; Driven where another process has it."""
    try:
        lock = journal.hold(
            folder, lambda who: f"{folder.parent} is driven by {who}; lmx launch attach follows it"
        )
    except RequestError as error:
        raise Driven(str(error)) from None
    try:
        yield
    finally:
        journal.let_go(lock)


def note(folder: Path, event: str, **facts: Any) -> None:
    """One more event."""
    journal.append(folder, {"time": time.time(), "event": event, **facts})


def events(folder: Path) -> list[dict[str, Any]]:
    """What the drivers of a run noted, in order; RequestError that names a damaged line."""
    return journal.read(folder, _wrong)


def _wrong(event: Mapping[str, Any]) -> str | None:
    return misfit(event, {"event": is_text}) or misfit(event, _SHAPES.get(event["event"], {}))


_SHAPES = {
    "starting": {"attempt": is_count, "checkpoint": maybe(is_count)},
    "ended": {
        **{"attempt": is_count, "exit_code": is_number, "progressed": is_switch},
        **{"checkpoint": maybe(is_count), "message": is_text},
    },
    "finished": {"exit_code": is_number, "message": is_text},
}


def since_opened(folder: Path) -> list[dict[str, Any]]:
    """The events since the run was begun, or reopened: what counts for its budgets and its end."""
    noted = events(folder)
    opened = [i for i, event in enumerate(noted) if event["event"] == "reopened"]
    return noted[opened[-1] + 1 :] if opened else noted


def results(folder: Path) -> list[Result]:
    """How the attempts ended that count."""
    return [Result(e["exit_code"], e["progressed"]) for e in since_opened(folder) if e["event"] == "ended"]


def last_word(folder: Path) -> Ended | None:
    """How the run ended; None where it has not."""
    done = next((e for e in since_opened(folder) if e["event"] == "finished"), None)
    return Ended(done["exit_code"], done["message"]) if done is not None else None


def ask_to_stop(folder: Path, grace: float) -> None:
    """Asks whoever drives the run to end it, with so many seconds for its processes to save."""
    write_atomic(folder / "stop", f"{grace:g}\n")


def asked_grace(folder: Path) -> float | None:
    """The seconds that were asked for; None where a stop was asked for without."""
    try:
        return float((folder / "stop").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def reopen(folder: Path) -> None:
    """Lets a run that was stopped or given up go on, with budgets as new: `drive` it then.

    RequestError where it is done; Driven where a process drives it.
    """
    with driving(folder):
        end = last_word(folder)
        if end is not None and end.exit_code == DONE:
            raise RequestError(
                f"{folder.parent} is done, there is nothing left to go on with; a longer run is a new one: lmx launch "
                "trainer.steps=N hydra.run.dir=DIR ..."
            )
        (folder / "stop").unlink(missing_ok=True)
        note(folder, "reopened")


def unended(launch: Launch) -> list[Attempt]:
    """The attempts that were started and have not been seen to end: one at most, the last."""
    ended = {e["attempt"] for e in events(launch.plan.folder) if e["event"] == "ended"}
    return [attempt for attempt in read(launch.plan) if attempt.number not in ended]
