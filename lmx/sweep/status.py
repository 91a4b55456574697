"""How a sweep goes: a row a job, and the time that is left. Read from disk alone, with or without a driver."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.io.files import to_json
from lmx.io.journal import driver
from lmx.io.progress import duration
from lmx.io.records import last_values, read_summary
from lmx.sweep.events import ACTIVE, ENDED, State, read_events, states
from lmx.sweep.freeze import values_of
from lmx.sweep.plan import Plan, attempt_dir, read_plan, run_dir
from lmx.sweep.results import progress

_COLUMNS = ("status", "attempt", "pod", "step", "loss", "time")
_STYLE = {"DONE": "green", "RUNNING": "cyan", "LEASED": "cyan", "FAILED": "red", "PREEMPTED": "yellow"}
_EVERY = 2.0
_SHOWN = 10


class Row(NamedTuple):
    """A job.

    varied        the overrides that are not the same in all jobs
    step, total   updates done, and configured
    loss          the last evaluation loss, or training loss before the first evaluation
    seconds       in its attempts so far
    """

    job: int
    varied: dict[str, str]
    status: str
    attempt: int
    pod: str | None
    step: int | None
    total: int | None
    loss: float | None
    seconds: float
    exit_code: int | None
    reason: str | None


class Overview(NamedTuple):
    """A sweep at one moment. `left`: seconds until its end, None where nothing is known yet."""

    folder: str
    driver: str | None
    rows: list[Row]
    left: float | None


def overview(folder: Path, plan: Plan | None = None) -> Overview:
    """The state of a sweep on disk."""
    plan = plan or read_plan(folder)
    found = states([job.number for job in plan.jobs], read_events(folder))
    now = time.time()
    rows = []
    for job in plan.jobs:
        state = found[job.number]
        run = run_dir(folder, job.number)
        step, total = progress(folder, job)
        last, summary = last_values(run), read_summary(run)
        given = values_of(job.overrides)
        loss = summary.get("eval_loss", last.get("eval/loss", last.get("loss")))
        rows.append(
            Row(
                job=job.number,
                varied={key: given[key] for key in plan.varied if key in given},
                status=state.status,
                attempt=state.attempt,
                pod=state.pod if state.status in ACTIVE else None,
                step=step,
                total=total,
                loss=loss if isinstance(loss, int | float) else None,
                seconds=state.worked + _running_for(state, now),
                exit_code=state.exit_code,
                reason=state.reason,
            )
        )
    return Overview(str(folder), driver(folder), rows, _left(plan, found, rows))


def _running_for(state: State, now: float) -> float:
    return now - state.began if state.began is not None and state.ended is None else 0.0


def _left(plan: Plan, found: dict[int, State], rows: Sequence[Row]) -> float | None:
    """Work that is left over the pods that work now: by the time that done jobs took, or by running jobs' pace."""
    took = [row.seconds for row in rows if row.status == "DONE"]
    pace = [
        row.seconds * row.total / row.step for row in rows if row.step and row.total and row.status in ACTIVE
    ]
    if all(state.status in ENDED for state in found.values()):
        return 0.0
    if not (took or pace):
        return None
    whole = statistics.mean(took or pace)
    work = 0.0
    for row in rows:
        if row.status not in ENDED:
            share = row.step / row.total if row.step and row.total else 0.0
            work += whole * max(0.0, 1.0 - share)
    pods = max(1, sum(state.status in ACTIVE for state in found.values()))
    return work / pods


def watch(folder: Path, *, how: str, output: str) -> None:
    """Prints the table; on a terminal again and again while a driver works."""
    plan = read_plan(folder)
    if output == "json":
        found = overview(folder, plan)
        print(to_json({**found._asdict(), "rows": [row._asdict() for row in found.rows]}, indent=2))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    live = how == "always" or (how == "auto" and sys.stdout.isatty() and driver(folder) is not None)
    if not live:
        console.print(table(overview(folder, plan), plan))
        return
    from rich.live import Live

    with Live(table(overview(folder, plan), plan), console=console, auto_refresh=False) as shown:
        while driver(folder) is not None:
            time.sleep(_EVERY)
            shown.update(table(overview(folder, plan), plan), refresh=True)


def table(found: Overview, plan: Plan) -> Any:
    """The overview as a rich renderable."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    keys = [key for key in plan.varied if any(key in row.varied for row in found.rows)]
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("job", *(short_key(key, keys) for key in keys), *_COLUMNS):
        right = name in ("job", "attempt", "step", "loss", "time")
        grid.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in found.rows:
        step = "" if row.step is None else f"{row.step}/{row.total}" if row.total else str(row.step)
        grid.add_row(
            str(row.job),
            *(Text(row.varied.get(key, "")) for key in keys),
            Text(row.status.lower(), style=_STYLE.get(row.status, "")),
            str(row.attempt or ""),
            row.pod or "",
            step,
            "" if row.loss is None else f"{row.loss:.4f}",
            duration(row.seconds) if row.seconds else "",
        )
    return Group(grid, *(Text(line) for line in _failures(found)), Text(_last_line(found)))


def _failures(found: Overview) -> list[str]:
    """Why jobs failed, a line each, and where their last words are."""
    failed = [row for row in found.rows if row.status == "FAILED"]
    lines = []
    for row in failed[:_SHOWN]:
        log = attempt_dir(Path(found.folder), row.job, row.attempt) / "log.txt"
        lines.append(f"job {row.job} failed: {row.reason}\n    {log}")
    more = len(failed) - len(lines)
    return [*lines, f"and {more} more"] if more else lines


def short_key(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other key and no column is called so; else the key."""
    end = key.rpartition(".")[2]
    if end in ("job", *_COLUMNS):
        return key
    return end if [other.rpartition(".")[2] for other in keys].count(end) == 1 else key


def _last_line(found: Overview) -> str:
    statuses = [row.status for row in found.rows]
    parts = [f"{statuses.count(s)} {s.lower()}" for s in dict.fromkeys(statuses) if s != "DONE"]
    words = ", ".join([f"{statuses.count('DONE')} of {len(statuses)} done", *parts])
    if all(status in ENDED for status in statuses):
        return words
    if found.driver is None:
        return f"{words}; nobody drives it: lmx sweep resume {found.folder}"
    return f"{words}; about {duration(found.left)} left" if found.left is not None else words
