"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def readable(number: float) -> str:
    """Three digits and a unit: 1.23M, 45.6k."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return (
                f"{number / limit:.3g}{unit}"
                if abs(number) < 999.5 * limit
                else f"{number / limit:.0f}{unit}"
            )
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """2d03h, 1h02m, 3m20s or 12.3s."""
    if seconds >= 86400:
        return f"{int(seconds // 86400)}d{int(seconds % 86400 // 3600):02d}h"
    if seconds >= 3600:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"
    if seconds >= 60:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    return f"{seconds:.1f}s"


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return value if isinstance(value, int | float) else None


def one_line(row: dict[str, Any]) -> str:
    """A row of metrics as a person reads it."""
    forms = {
        "loss": lambda v: f"loss {v:.4f}",
        "eval/loss": lambda v: f"eval {v:.4f}",
        "eval/bits_per_byte": lambda v: f"{v:.4f} bits/byte",
        "grad_norm": lambda v: f"grad {v:.2g}",
        "learning_rate": lambda v: f"lr {v:.2e}",
        "tokens_per_second": lambda v: f"{readable(v)} tokens/s",
        "mfu": lambda v: f"MFU {100 * v:.1f}%",
        "skipped": lambda v: f"{v} skipped" if v else "",
        "spikes": lambda v: f"{v} spike{'s' if v > 1 else ''}" if v else "",
    }
    parts = [form(value) for key, form in forms.items() if (value := _number(row, key)) is not None]
    slowest = row.get("slowest")
    if isinstance(slowest, dict) and slowest.get("named"):
        parts.append(f"process {slowest['process']} is {1000 * slowest['excess']:.0f} ms a step slower")
    return "  ".join(part for part in parts if part)


class Progress:
    """`bar`, `lines`, `none`, or `auto`: a bar when stderr is a terminal."""

    def __init__(self, mode: str, *, start: int, total: int) -> None:
        self._total = total
        self._start = start
        moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._mode = ("bar" if moves else "lines") if mode == "auto" else mode
        self._bar: Any = None
        self._task: Any = None
        self._began: tuple[float, int] | None = None

    def _open(self, step: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        width = len(str(self._total))
        columns = [
            TextColumn(f"{{task.completed:>{width}.0f}}/{{task.total:.0f}}", style="bold"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=30)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TextColumn("[dim]ETA"),
            TimeRemainingColumn(),
        ]
        # Twice a second: drawing takes a millisecond or two from the thread that dispatches the steps.
        self._bar = Bar(
            *columns, console=Console(stderr=True), refresh_per_second=2, redirect_stdout=False, expand=True
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=step)
        return self._bar

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        if self._began is None:
            self._began = (time.perf_counter(), step)
        if self._mode == "bar":
            bar = self._bar or self._open(step)
            bar.update(self._task, completed=step)

    def _eta(self, step: int) -> str:
        """Time left, from the pace since the first step was done."""
        if self._began is None or step <= self._began[1] or step >= self._total:
            return ""
        pace = (time.perf_counter() - self._began[0]) / (step - self._began[1])
        return f"  ETA {duration(pace * (self._total - step))}"

    def row(self, step: int, row: dict[str, Any]) -> None:
        """Metrics of a logged step."""
        self.advance(step)
        if self._bar is not None:
            # Evaluations stay on the screen; the rest is in the bar.
            if "eval/loss" in row:
                self.say(f"step {step}  {one_line(row)}")
            short = {
                key: row.get(key)
                for key in ("loss", "tokens_per_second", "mfu", "skipped", "spikes", "slowest")
            }
            self._bar.update(self._task, description=one_line(short))
        elif self._mode == "lines":
            self.show(f"step {step}/{self._total}  {one_line(row)}{self._eta(step)}")

    def say(self, text: str) -> None:
        """Words above the bar; none where there is no progress."""
        if self._mode != "none":
            self.show(text)

    def show(self, text: str) -> None:
        """Words above the bar, whatever the mode."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
