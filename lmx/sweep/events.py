"""What happened in a sweep: an append-only log, one writer, and the state that follows from it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lmx.io import journal
from lmx.io.lines import is_count, is_number, is_switch, is_text, is_time, maybe, misfit

Status = Literal["PENDING", "LEASED", "RUNNING", "DONE", "FAILED", "PREEMPTED", "PRUNED"]
ENDED = ("DONE", "FAILED", "PRUNED")
ACTIVE = ("LEASED", "RUNNING")


@dataclass(frozen=True)
class Event:
    """A line of the log.

    job        its number
    status     what it became
    attempt    which try, from 1; 0 before the first
    pod        where
    exit_code  of an attempt that ended; None: it was lost without one
    step       the last checkpointed step at that time
    reason     in words
    counts     whether an end counts against the budgets; not where the sweep itself was told to stop
    time       seconds since 1970
    """

    job: int
    status: Status
    attempt: int = 0
    pod: str | None = None
    exit_code: int | None = None
    step: int | None = None
    reason: str | None = None
    counts: bool = True
    time: float = field(default_factory=time.time)


@dataclass
class State:
    """A job as its events tell it.

    attempt, pod   of the last lease
    failures       attempts that count against max_failures
    preemptions    attempts that were taken away
    step           the last checkpointed step
    began, ended   of the last attempt, seconds since 1970
    worked         seconds in all attempts that ended
    """

    status: Status = "PENDING"
    attempt: int = 0
    pod: str | None = None
    failures: int = 0
    preemptions: int = 0
    step: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    began: float | None = None
    ended: float | None = None
    worked: float = 0.0

    def apply(self, event: Event) -> None:
        """Becomes what the event says."""
        self.status = event.status
        if event.status == "LEASED":
            self.attempt, self.pod, self.began, self.ended = event.attempt, event.pod, event.time, None
        elif event.status in (*ENDED, "PREEMPTED") and self.began is not None and self.ended is None:
            self._end(event)
        if event.step is not None:
            self.step = event.step
        self.reason = event.reason

    def _end(self, event: Event) -> None:
        assert self.began is not None
        self.ended = event.time
        self.worked += event.time - self.began
        self.exit_code = event.exit_code
        if event.counts:
            progressed = event.step is not None and event.step > (self.step or 0)
            self.preemptions += event.status == "PREEMPTED"
            self.failures += event.status == "FAILED" or (event.status == "PREEMPTED" and not progressed)


def read_events(folder: Path) -> list[Event]:
    """Every whole event, in order; RequestError that names a damaged one."""
    known = [key.name for key in fields(Event)]
    return [
        Event(**{key: record[key] for key in known if key in record})
        for record in journal.read(folder, _wrong)
    ]


def _wrong(record: Mapping[str, Any]) -> str | None:
    return misfit(record, _NEEDED) or misfit(record, {k: v for k, v in _GIVEN.items() if k in record})


_NEEDED = {
    "job": is_count,
    "status": lambda value: is_text(value) and value in get_args(Status),
}
_GIVEN = {
    "time": is_time,
    "attempt": is_count,
    "pod": maybe(is_text),
    "exit_code": maybe(is_number),
    "step": maybe(is_count),
    "reason": maybe(is_text),
    "counts": is_switch,
}


def states(numbers: Iterable[int], events: Sequence[Event]) -> dict[int, State]:
    """The state of each job after all the events."""
    found = {number: State() for number in numbers}
    for event in events:
        if event.job in found:
            found[event.job].apply(event)
    return found


class Log:
    """The one writer of a sweep's events: it holds the driver's lock until `close` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        """RequestError where another driver works."""
        self._folder = folder
        self._lock = journal.hold(folder, lambda who: f"{folder}: this sweep is driven by {who}")

    def write(self, *events: Event) -> None:
        """Appends events, all in one write, and waits until they are on the disk."""
        facts = [
            {k: v for k, v in vars(event).items() if v is not None and v is not True} for event in events
        ]
        journal.append(self._folder, *facts)

    def close(self) -> None:
        """Gives the lock back."""
        journal.let_go(self._lock)


def as_rows(found: dict[int, State]) -> list[dict[str, Any]]:
    """The states as plain rows, for JSON."""
    return [{"job": number, **vars(state)} for number, state in found.items()]
