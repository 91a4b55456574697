"""The loss curve of one or several runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.io.records import read_metrics, read_summary

AXES = {"steps": "step", "tokens": "training tokens", "time": "training time"}
_UNITS = ((3 * 3600.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))
_COLORS = ("#2a6fbb", "#d1603d", "#3a9b6b", "#8b5fbf", "#c2912c", "#3fa7b5", "#c2527f", "#6d7a86")
_INK = "#3c4248"


class Curve(NamedTuple):
    """Losses of a run: x and y of the training loss and of the evaluations, in order."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]


def read_curve(run: Path, *, axis: str, name: str | None = None) -> Curve | None:
    """The curve of a run over `steps`, `tokens` or `time`; None where it has no row with a loss."""
    rows = read_metrics(run)
    x = _positions(rows, axis)
    train, held_out = _column(rows, x, "loss"), _column(rows, x, "eval/loss")
    if not len(train[0]) and not len(held_out[0]):
        return None
    return Curve(name or run.name, train, held_out)


def _column(rows: list[dict[str, Any]], x: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Position and value of every row that has a number under `key`."""
    values = [_number(row.get(key)) for row in rows]
    found = [i for i, value in enumerate(values) if value is not None]
    return x[found], np.array([values[i] for i in found], float)


def _number(value: Any) -> float | None:
    """A value of a row as a number; None where it is none that a picture could hold."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300
    return float(value) if known else None


def _positions(rows: list[dict[str, Any]], axis: str) -> np.ndarray:
    steps = np.array([row["step"] for row in rows], float)
    if axis == "steps":
        return steps
    if axis == "tokens":
        return np.array([_number(row.get("tokens")) for row in rows], float)
    if axis != "time":
        raise ValueError(f"x={axis}: unknown; {', '.join(AXES)}")
    times = np.array([_number(row.get("step_time")) or np.nan for row in rows], float)
    if len(times):  # the first rows were not measured: they took about as long as the others
        times[np.isnan(times)] = np.nanmedian(times) if np.isfinite(times).any() else 0.0
    return np.cumsum(np.diff(steps, prepend=0.0) * times)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a window of `width` values around each: symmetric at the start, backwards at the end."""
    n, half = len(values), width // 2
    index = np.arange(n)
    before = np.minimum(index, half)
    after = np.minimum(n - 1 - index, before)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def draw_loss(
    runs: Sequence[Path],
    to: Path,
    *,
    axis: str = "steps",
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Writes the training loss (thin; smoothed: thick) and the evaluations (dots) of each run to `to`.

    axis is `steps`, `tokens` or `time`. The ending of `to` says which kind of picture it is (png, svg, pdf).
    ValueError when no run has a loss to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = names or [run.name for run in runs]
    curves = [read_curve(run, axis=axis, name=name) for run, name in zip(runs, labels, strict=True)]
    drawn = [curve for curve in curves if curve is not None]
    shown = [run for run, curve in zip(runs, curves, strict=True) if curve is not None]
    if not drawn:
        raise ValueError(f"there is no loss to draw yet in {', '.join(str(run) for run in runs)}")
    x_label = AXES[axis]
    if axis == "time":
        drawn, unit = _in_unit(drawn)
        x_label = f"{x_label} ({unit})"
    figure = Figure(figsize=(8.4, 5.0), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    alone = len(drawn) == 1
    for number, curve in enumerate(drawn):
        _draw(plot, curve, _COLORS[number % len(_COLORS)], alone=alone, dashed=number >= len(_COLORS))
    plot.set_ylim(*_limits(drawn))
    _dress(
        plot,
        x_label,
        title or (_title(shown[0]) if alone else f"{len(drawn)} runs"),
        None if alone else "run, last evaluation loss",
    )
    figure.savefig(to)


def _title(run: Path) -> str:
    """The name that the run was given, and its folder's where that tells more."""
    name = str(read_summary(run).get("name") or run.name)
    return name if name == run.name else f"{name}  ·  {run.name}"


def _in_unit(curves: list[Curve]) -> tuple[list[Curve], str]:
    """Curves over seconds as curves over seconds, minutes or hours, whichever suits the longest."""
    longest = max(float(x.max()) for curve in curves for x, _ in (curve.train, curve.held_out) if len(x))
    size, name = next((size, name) for least, size, name in _UNITS if longest >= least)
    scaled = [
        c._replace(train=(c.train[0] / size, c.train[1]), held_out=(c.held_out[0] / size, c.held_out[1]))
        for c in curves
    ]
    return scaled, name


def _draw(plot: Any, curve: Curve, color: str, *, alone: bool, dashed: bool) -> None:
    x, loss = curve.train
    held_x, held = curve.held_out
    last = f"  {held[-1]:.4f}" if len(held) else ""
    style = "--" if dashed else "-"
    if len(x):
        plot.plot(x, loss, color=color, alpha=0.28, linewidth=0.8)
        label = "training, smoothed" if alone else curve.name + last
        width = max(len(loss) // 20, 1)
        plot.plot(x, smooth(loss, width), style, color=color, linewidth=2.0, label=label)
    if len(held):
        dot = _COLORS[1] if alone else color
        label = f"evaluation, last {held[-1]:.4f}" if alone else None
        shape = {"marker": "o", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.8}
        plot.plot(held_x, held, color=dot, linewidth=1.0, linestyle=":", zorder=3, label=label, **shape)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """What shows the course of the loss: the first steep part may leave the picture, later levels may not."""
    levels = [np.concatenate([c.train[1][len(c.train[1]) // 50 :], c.held_out[1]]) for c in curves]
    values = np.concatenate(levels)
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _dress(plot: Any, x_label: str, title: str, legend_title: str | None) -> None:
    from matplotlib.ticker import EngFormatter

    plot.set_xlabel(x_label, color=_INK)
    plot.set_ylabel("loss (nats per token)", color=_INK)
    plot.set_title(title, color=_INK, loc="left", fontsize=12, fontweight="bold")
    plot.xaxis.set_major_formatter(EngFormatter(sep=""))
    plot.grid(color="#e4e7ea", linewidth=0.8)
    plot.set_axisbelow(True)
    plot.tick_params(colors=_INK, length=0)
    plot.margins(x=0.02)
    for side in ("top", "right", "left"):
        plot.spines[side].set_visible(False)
    plot.spines["bottom"].set_color("#c3c8cd")
    legend = plot.legend(frameon=False, labelcolor=_INK, fontsize=9, title=legend_title)
    legend.get_title().set_color(_INK)
