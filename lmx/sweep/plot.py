"""Pictures of a sweep: the loss by arm, and a parameter against the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config.errors import RequestError
from lmx.io.curve import read_curve
from lmx.review.arms import Arm
from lmx.sweep.config import SweepPlot
from lmx.sweep.plan import run_dir
from lmx.sweep.table import Results, collect

_COLORS = ("#2a6fbb", "#d1603d", "#3a9b6b", "#8b5fbf", "#c2912c", "#3fa7b5", "#c2527f", "#6d7a86")


def draw(folder: Path, config: SweepPlot) -> Path:
    """Draws the picture and returns its path. RequestError where there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = collect(folder, metric=config.metric, seed=config.seed, lowest=config.best_is == "lowest")
    figure = Figure(figsize=(8.4, 5.0), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    if config.kind == "curves":
        _curves(plot, folder, results, config)
    else:
        _parameter(plot, results, config)
    plot.grid(color="#e4e7ea", linewidth=0.8)
    plot.set_axisbelow(True)
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    plot.set_title(f"sweep {folder.name}", loc="left", fontsize=12, fontweight="bold")
    to = Path(config.to) if config.to is not None else folder / f"{config.kind}.png"
    figure.savefig(to)
    return to


def _name(setting: dict[str, str]) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in setting.items()) or "all jobs"


def _jobs_of(arm: Arm, results: Results, seed: str) -> list[int]:
    return [
        row.job for row in results.rows if {k: v for k, v in row.varied.items() if k != seed} == arm.setting
    ]


def _curves(plot: Any, folder: Path, results: Results, config: SweepPlot) -> None:
    """A line an arm, the mean over its jobs at the steps that all of them have; lowest to highest shaded."""
    if config.metric not in ("eval_loss", "loss"):
        raise RequestError(
            f"metric={config.metric}: kind=curves draws eval_loss or loss; or set kind=parameter"
        )
    drawn = 0
    for number, arm in enumerate(results.found):
        numbers = _jobs_of(arm, results, config.seed)
        curves = [read_curve(run_dir(folder, job), axis="steps") for job in numbers]
        parts = [c.held_out if config.metric == "eval_loss" else c.train for c in curves if c is not None]
        columns = [dict(zip(x.tolist(), y.tolist(), strict=True)) for x, y in parts if len(x)]
        if not columns:
            continue
        drawn += 1
        steps = sorted(set.intersection(*(set(column) for column in columns)))
        values = np.array([[column[step] for step in steps] for column in columns])
        color, style = _COLORS[number % len(_COLORS)], ("-", "--", ":")[number // len(_COLORS) % 3]
        marker = "o" if len(steps) < 20 else None
        label = f"{_name(arm.setting)} ({len(columns)})"
        plot.plot(steps, values.mean(0), style, color=color, marker=marker, markersize=4, label=label)
        if len(columns) > 1:
            plot.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.18, linewidth=0)
    if not drawn:
        raise RequestError(f"{folder}: there is no {config.metric} to draw yet")
    plot.set_xlabel("step")
    plot.set_ylabel(f"{config.metric} (nats per token)")
    plot.legend(frameon=False, fontsize=8, title="arm (jobs); lines: mean, shaded: lowest to highest")


def _parameter(plot: Any, results: Results, config: SweepPlot) -> None:
    """Each done job a dot, the mean over seeds a line for each setting of the other keys."""
    keys = [key for key in results.plan.varied if key != config.seed]
    count = lambda key: len({row.varied.get(key) for row in results.rows})
    x = config.x or max(keys, key=count, default=None)
    if x is None or x not in results.plan.varied:
        raise RequestError(
            f"x={x}: this key does not vary; there are {', '.join(results.plan.varied) or 'none'}"
        )
    texts = list(dict.fromkeys(row.varied.get(x, "") for row in results.rows))
    position, numeric = _positions(texts)
    series: dict[str, dict[float, list[float]]] = {}
    for arm in results.found:
        rest = _name({k: v for k, v in arm.setting.items() if k != x})
        if arm.values:
            series.setdefault(rest, {}).setdefault(position[arm.setting.get(x, "")], []).extend(arm.values)
    if not series:
        raise RequestError("no job is done yet: there is nothing to draw")
    for number, (name, points) in enumerate(series.items()):
        color = _COLORS[number % len(_COLORS)]
        at = sorted(points)
        plot.plot(at, [float(np.mean(points[p])) for p in at], "-", color=color, label=name)
        for p in at:
            plot.plot([p] * len(points[p]), points[p], "o", color=color, markersize=4, alpha=0.7)
    if not numeric:
        plot.set_xticks(list(position.values()), list(position))
    elif min(position.values()) > 0 and max(position.values()) >= 10 * min(position.values()):
        plot.set_xscale("log")
    plot.set_xlabel(x)
    plot.set_ylabel(config.metric)
    if len(series) > 1:
        plot.legend(frameon=False, fontsize=8)


def _positions(texts: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Where values stand on the axis: as numbers where all are, else one after the other."""
    try:
        return {text: float(text) for text in texts}, True
    except ValueError:
        return {text: float(i) for i, text in enumerate(texts)}, False
