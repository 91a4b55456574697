"""The list and the comparison of runs as text for a terminal, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lmx.io.progress import duration, readable
from lmx.review.runs import ABSENT, Comparison, Run

_STATUS = {"done": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "died": "red"}
_LOWER_IS_BETTER = ("loss", "eval_loss", "eval_bits_per_byte", "step_time", "wall_time", "time_to_first_step")
_HIGHER_IS_BETTER = ("tokens_per_second", "mfu")
_WIDE = 10_000


def _console() -> Any:
    from rich.console import Console

    # In a file or a pipe nothing is cut to the width of a terminal that is not there.
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def _table(*headers: str, right: Sequence[int] = ()) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in right else "left", overflow="fold")
    return table


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def short_overrides(varied: Sequence[dict[str, str]]) -> list[str]:
    """`learning_rate=1e-3 seed=0` for each run: keys by their last part where that is clear."""
    keys = dict.fromkeys(key for changes in varied for key in changes)
    ends = [key.rpartition(".")[2] for key in keys]
    name = lambda key: end if ends.count(end := key.rpartition(".")[2]) == 1 else key
    return [" ".join(f"{name(key)}={value}" for key, value in changes.items()) for changes in varied]


def print_list(runs: Sequence[Run]) -> None:
    """A line for each run."""
    from rich.text import Text

    varied = short_overrides([run.varied for run in runs])
    columns = ["varied"] if any(varied) else []
    table = _table(
        "name",
        *columns,
        "status",
        "step",
        "loss",
        "eval loss",
        "bits/byte",
        "tokens/s",
        "age",
        "path",
        right=range(2 + len(columns), 8 + len(columns)),
    )
    for (
        column
    ) in table.columns:  # on a narrow terminal what varied is cut, and only the path takes a second line
        column.no_wrap = column.header not in ("varied", "path")
        column.min_width = 16 if column.header == "varied" else None
    short = lambda text: Text(text, no_wrap=True, overflow="ellipsis")
    for run, changes in zip(runs, varied, strict=True):
        step = "" if run.step is None else f"{run.step}/{run.total}" if run.total else str(run.step)
        rate = "" if run.tokens_per_second is None else readable(run.tokens_per_second)
        cells = [
            step,
            _loss(run.loss),
            _loss(run.eval_loss),
            _loss(run.bits_per_byte),
            rate,
            duration(run.age),
        ]
        status = Text(run.status, style=_STATUS.get(run.status, ""))
        table.add_row(Text(run.name), *[short(changes) for _ in columns], status, *cells, Text(run.path))
    _console().print(table)


def _value(key: str, value: Any) -> str:
    from lmx.config.errors import show_value

    if value is ABSENT:
        return "-"
    if isinstance(value, float):
        key = key.split(" ")[0]
        if key in ("loss", "eval_loss", "eval_bits_per_byte"):
            return f"{value:.4f}"
        if key in ("wall_time", "time_to_first_step"):
            return duration(value)
        if key == "tokens_per_second":
            return readable(value)
        if key == "mfu":
            return f"{100 * value:.1f}%"
        return f"{value:.6g}"
    return show_value(value)


def _best(key: str, row: Sequence[Any]) -> Any:
    numbers = [v for v in row if isinstance(v, int | float)]
    key = key.split(" ")[0]
    if len(set(numbers)) < 2:
        return None
    return min(numbers) if key in _LOWER_IS_BETTER else max(numbers) if key in _HIGHER_IS_BETTER else None


def _difference(key: str, row: Sequence[Any]) -> str:
    """Second minus first, where there are two and they are figures of merit."""
    if len(row) != 2 or _best(key, row) is None or not all(isinstance(v, int | float) for v in row):
        return ""
    first, second = row
    if key.startswith(("loss", "eval_")):
        return f"{second - first:+.4f}"
    return f"{100 * (second / first - 1):+.1f}%" if first else ""


def print_comparison(found: Comparison) -> None:
    """What differs in config and origin, and the results, the best of each in green."""
    from rich.text import Text

    console = _console()
    sections = (("config", found.config), ("code", found.code), ("result", found.result))
    for title, rows in sections:
        if title == "config" and not rows:
            console.print("the configurations are the same\n")
        if not rows:
            continue
        two = title == "result" and len(found.labels) == 2
        table = _table(title, *found.labels, *(["difference"] if two else []))
        for key, row in rows.items():
            best = _best(key, row) if title == "result" else None
            cells = [Text(_value(key, v), style="green" if v is not None and v == best else "") for v in row]
            table.add_row(Text(key), *cells, *([_difference(key, row)] if two else []))
        console.print(table)
        if title != "result":
            console.print()


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON: key -> {path: value}, without the runs that lack the key."""

    def by_run(rows: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
        return {
            key: {path: v for path, v in zip(found.paths, row, strict=True) if v is not ABSENT}
            for key, row in rows.items()
        }

    return {
        "runs": dict(zip(found.labels, found.paths, strict=True)),
        "config": by_run(found.config),
        "code": by_run(found.code),
        "result": by_run(found.result),
    }
