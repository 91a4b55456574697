"""The results of a sweep: a row a job, a row an arm. Works while the sweep runs, and where jobs failed."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.text import counted
from lmx.io.files import to_json
from lmx.io.records import read_summary
from lmx.review.arms import LEVEL, POWER, Arm, arms
from lmx.sweep.config import SweepTable
from lmx.sweep.plan import Plan, read_plan, run_dir
from lmx.sweep.status import Row, overview

RESULTS = ("eval_loss", "loss", "eval_bits_per_byte", "tokens_per_second", "wall_time")


class Results(NamedTuple):
    """results: metric -> one value a row, None where a job is not done; found: the arms, the best first."""

    plan: Plan
    rows: list[Row]
    results: dict[str, list[Any]]
    found: list[Arm]


def collect(folder: Path, *, metric: str, seed: str, lowest: bool) -> Results:
    """The results of a sweep on disk. RequestError for a metric that no job has."""
    plan = read_plan(folder)
    rows = overview(folder, plan).rows
    summaries = [read_summary(run_dir(folder, row.job)) if row.status == "DONE" else {} for row in rows]
    known = dict.fromkeys(key for s in summaries for key, v in s.items() if isinstance(v, int | float))
    if known and metric not in known:
        raise RequestError(f"metric={metric}: no job has it; there are {', '.join(known)}")
    shown = [name for name in dict.fromkeys((metric, *RESULTS)) if name in known]
    values = {name: [summary.get(name) for summary in summaries] for name in (shown or [metric])}
    numbers = [v if isinstance(v, int | float) else None for v in values[metric]]
    found = arms([row.varied for row in rows], numbers, seed_key=seed, lowest=lowest)
    return Results(plan, rows, values, found)


def show(folder: Path, config: SweepTable) -> None:
    """Prints the results in the form that was asked for."""
    results = collect(folder, metric=config.metric, seed=config.seed, lowest=config.best_is == "lowest")
    header, lines = _jobs(results)
    if config.output == "json":
        found = [arm._asdict() for arm in results.found]
        print(
            to_json(
                {"jobs": [dict(zip(header, line, strict=True)) for line in lines], "arms": found}, indent=2
            )
        )
    elif config.output == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        print(text.getvalue(), end="")
    else:
        arm_header, arm_lines = _arms(results)
        for head, body in ((header, lines), (arm_header, arm_lines)):
            if config.output == "markdown":
                print(_markdown(head, body))
            else:
                _print(head, body)
            print()
        print(_words(results, config))


def _jobs(results: Results) -> tuple[list[str], list[list[Any]]]:
    keys = [key for key in results.plan.varied if any(key in row.varied for row in results.rows)]
    header = ["job", *keys, "status", "step", *results.results]
    lines = [
        [row.job, *(row.varied.get(key) for key in keys), row.status.lower(), row.step, *values]
        for row, *values in zip(results.rows, *results.results.values(), strict=True)
    ]
    return header, lines


def _arms(results: Results) -> tuple[list[str], list[list[Any]]]:
    keys = list(dict.fromkeys(key for arm in results.found for key in arm.setting))
    header = [*keys, "done", "mean", "sd", "p", "differs from the best", "further seeds"]
    lines = []
    for number, arm in enumerate(results.found):
        differs = "the best" if number == 0 and arm.mean is not None else None
        if arm.p is not None:
            differs = "yes" if arm.p < LEVEL else "not to be told"
        p = None if arm.p is None else f"{arm.p:.2g}"
        done = f"{len(arm.values)}/{arm.jobs}"
        lines.append(
            [*(arm.setting.get(k) for k in keys), done, arm.mean, arm.sd, p, differs, arm.needed or None]
        )
    return header, lines


def _words(results: Results, config: SweepTable) -> str:
    unfinished = sum(row.status != "DONE" for row in results.rows)
    lines = [f"{unfinished} of {len(results.rows)} jobs are not done and count nowhere"] if unfinished else []
    if any(arm.p is not None for arm in results.found):
        compared = counted(sum(arm.p is not None for arm in results.found), "comparison")
        lines.append(
            f"p: Welch's t-test of {config.metric} against the best arm over {config.seed}, corrected for "
            f"{compared} (Holm); below {LEVEL} the difference is "
            f"more than noise. Further seeds: in each of the two arms, for {POWER:.0%} power at the difference and "
            "spreads seen"
        )
    elif any(arm.jobs > 1 for arm in results.found):
        lines.append("nothing can be said of noise before two arms have two results each")
    elif len(results.found) > 1:
        lines.append(f"one seed an arm says nothing of noise: sweep {config.seed} too, {config.seed}=0,1,2")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _markdown(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = [header, ["---"] * len(header), *([_cell(v).replace("|", "\\|") for v in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _print(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        number = any(isinstance(line[i], int | float) for line in lines)
        grid.add_column(name, justify="right" if number else "left", overflow="fold")
    for line in lines:
        grid.add_row(*(Text(_cell(value)) for value in line))
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(grid)
