"""The loss curve of one or several runs as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

AXES = {"step": "steps", "tokens": "tokens", "time": "training time (s)"}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of RUN/metrics.jsonl; a last row that was cut short is left out."""
    path = run / "metrics.jsonl"
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _column(rows: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(index of the row, value) of every row that has a number under `key`."""
    pairs = [(i, row[key]) for i, row in enumerate(rows) if isinstance(row.get(key), int | float)]
    index, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(index, int), np.array(values, float)


def _positions(rows: list[dict[str, Any]], axis: str) -> np.ndarray:
    if axis in ("step", "tokens"):
        return np.array([row[axis] for row in rows], float)
    steps = np.array([row["step"] for row in rows], float)
    times = np.array([row.get("step_time") or 0.0 for row in rows], float)
    return np.cumsum(np.diff(steps, prepend=0.0) * times)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values (fewer at the start)."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    starts = np.maximum(np.arange(len(values)) + 1 - window, 0)
    ends = np.arange(len(values)) + 1
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw_loss(
    runs: Sequence[Path], to: Path, *, axis: str = "step", names: Sequence[str] | None = None
) -> None:
    """Writes the training loss (thin; smoothed: thick) and the evaluation loss (dots) of each run to `to`.

    axis is `step`, `tokens` or `time`; ValueError when no run has a row of metrics.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    levels = []
    for number, run in enumerate(runs):
        rows = read_metrics(run)
        if not rows:
            continue
        color, name = f"C{number % 10}", names[number] if names else run.name
        x = _positions(rows, axis)
        index, loss = _column(rows, "loss")
        soft = smooth(loss, max(len(loss) // 40, 1))
        plot.plot(x[index], loss, color=color, alpha=0.3, linewidth=0.8)
        plot.plot(x[index], soft, color=color, linewidth=1.6, label=f"{name}: training")
        index, held = _column(rows, "eval/loss")
        if len(held):
            label = f"{name}: evaluation, last {held[-1]:.4f}"
            plot.plot(x[index], held, "o--", color=color, markersize=4, linewidth=1.0, label=label)
        levels += [*soft[len(soft) // 50 :], *held]
    if not levels:
        raise ValueError(f"no metrics to draw in {', '.join(str(run) for run in runs)}")
    low, high = float(np.min(levels)), float(np.quantile(levels, 0.99))
    margin = 0.05 * (high - low) or 0.1
    plot.set_ylim(low - margin, high + margin)
    plot.set_xlabel(AXES[axis])
    plot.set_ylabel("loss (nats a token)")
    plot.grid(alpha=0.3)
    plot.legend(fontsize="small")
    plot.set_title(runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    figure.savefig(to)
