"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any


def readable(number: float) -> str:
    """Three digits and a unit: 1.23M, 45.6k."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """1h02m, 3m20s or 12.3s."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"
    if seconds >= 60:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    return f"{seconds:.1f}s"


def one_line(row: dict[str, Any]) -> str:
    """A row of metrics as a person reads it."""
    parts = []
    if row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.4f}")
    if row.get("eval/loss") is not None:
        parts.append(f"eval {row['eval/loss']:.4f}")
    if row.get("eval/bits_per_byte") is not None:
        parts.append(f"{row['eval/bits_per_byte']:.4f} bits/byte")
    if row.get("grad_norm") is not None:
        parts.append(f"grad {row['grad_norm']:.2g}")
    if row.get("learning_rate") is not None:
        parts.append(f"lr {row['learning_rate']:.2e}")
    if row.get("tokens_per_second") is not None:
        parts.append(f"{readable(row['tokens_per_second'])} tokens/s")
    if row.get("mfu") is not None:
        parts.append(f"MFU {100 * row['mfu']:.1f}%")
    if row.get("skipped"):
        parts.append(f"{row['skipped']} skipped")
    return "  ".join(parts)


class Progress:
    """`bar`, `lines`, `none`, or `auto`: a bar when stderr is a terminal."""

    def __init__(self, mode: str, *, start: int, total: int) -> None:
        self._total = total
        self._start = start
        self._mode = ("bar" if sys.stderr.isatty() else "lines") if mode == "auto" else mode
        self._bar: Any = None
        self._task: Any = None

    def _open(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = [
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        ]
        self._bar = Bar(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=step)

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        if self._mode == "bar":
            if self._bar is None:
                self._open(step)
            self._bar.update(self._task, completed=step)

    def row(self, step: int, row: dict[str, Any]) -> None:
        """Metrics of a logged step."""
        if self._mode == "bar":
            self.advance(step)
            # Evaluations stay on the screen; the rest is in the bar.
            if "eval/loss" in row:
                self.say(f"step {step}  {one_line(row)}")
            self._bar.update(
                self._task, description=one_line({k: v for k, v in row.items() if "eval" not in k})
            )
        elif self._mode == "lines":
            print(f"step {step}/{self._total}  {one_line(row)}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Words above the bar."""
        if self._mode == "none":
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
