"""A scaling law in words, as JSON, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmx.io.progress import readable
from lmx.review.law import Fit

_COLORS = ("#2a6fbb", "#d1603d", "#3a9b6b", "#8b5fbf", "#c2912c", "#3fa7b5", "#c2527f", "#6d7a86")


def as_json(found: Fit) -> dict[str, Any]:
    """Plain values."""
    return {
        "law": found.law._asdict(),
        "exponent": found.exponent._asdict(),
        "draws": found.draws,
        "budgets": [{**b._asdict(), "points": [p._asdict() for p in b.points]} for b in found.budgets],
        "against": [
            {**found.measured[path]._asdict(), "predicted": one._asdict()}
            for path, one in found.predicted.items()
        ],
    }


def text(found: Fit) -> str:
    """The budgets, the law, and what it says of the runs it was not fitted to."""
    lines = []
    for b in found.budgets:
        losses = ", ".join(f"{readable(p.params)}: {p.loss:.4f}" for p in b.points)
        if b.best is None:
            best = "no minimum"
        elif b.inside:
            best = f"least {b.loss:.4f} at {readable(b.best)} parameters"
        else:
            best = f"the minimum ({readable(b.best)} parameters) lies outside of its sizes"
        lines.append(f"{b.flops:.2g} FLOPs: {best}\n    {losses}")
    law, e = found.law, found.exponent
    lines += [
        "",
        f"L = {law.e:.3f} + {np.exp(law.a):.4g} / N^{law.alpha:.3f} + {np.exp(law.b):.4g} / D^{law.beta:.3f}   "
        f"({len(found.points)} runs)",
        f"the best size grows with work ^ {e.value:.2f} (95 %: {e.low:.2f} to {e.high:.2f}, {found.draws} draws)",
    ]
    for path, one in found.predicted.items():
        p = found.measured[path]
        off = p.loss / one.value - 1
        within = "within" if one.low <= p.loss <= one.high else "outside of"
        lines.append(
            f"{path}: {readable(p.params)} parameters, {readable(p.tokens)} tokens: predicted {one.value:.4f} "
            f"({one.low:.4f} to {one.high:.4f}), measured {p.loss:.4f} ({off:+.1%}; {within} the interval)"
        )
    return "\n".join(lines)


def draw(found: Fit, to: Path) -> None:
    """Loss over parameters, a curve a budget with its minimum; runs that were not fitted to as crosses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    for number, b in enumerate(found.budgets):
        color = _COLORS[number % len(_COLORS)]
        x, y = np.array([p.params for p in b.points]), np.array([p.loss for p in b.points])
        plot.plot(x, y, "o", color=color, markersize=5, label=f"{b.flops:.2g} FLOPs")
        if b.best is not None:
            curve = np.polyfit(np.log(x), y, 2)
            grid = np.geomspace(x.min(), x.max(), 60)
            plot.plot(grid, np.polyval(curve, np.log(grid)), "-", color=color, linewidth=1.2)
            if b.inside and b.loss is not None:
                plot.plot([b.best], [b.loss], "v", color=color, markersize=8)
    for path, one in found.predicted.items():
        p = found.measured[path]
        plot.errorbar(
            [p.params],
            [one.value],
            [[one.value - one.low], [one.high - one.value]],
            fmt="s",
            color="#3c4248",
            capsize=4,
            label=f"predicted, {p.flops:.2g} FLOPs",
        )
        plot.plot([p.params], [p.loss], "x", color="#c2527f", markersize=9, mew=2, label="measured")
    plot.set_xscale("log")
    plot.set_xlabel("parameters")
    plot.set_ylabel("evaluation loss (nats a token)")
    plot.grid(color="#e4e7ea", linewidth=0.8)
    plot.set_title("isoFLOP curves", loc="left", fontsize=12, fontweight="bold")
    plot.legend(frameon=False, fontsize=8)
    figure.savefig(to)
