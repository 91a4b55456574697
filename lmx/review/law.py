"""A scaling law from runs: loss over parameters and tokens, isoFLOP minima, and what a further run should reach.

Two readings of the same runs (arXiv:2203.15556, sections 3.2 and 3.3): for each budget of work a parabola over the
logarithm of the parameters, whose minimum is the best size; and one law for all, L = E + A / N^a + B / D^b, fitted by
a Huber loss over logarithms. Intervals are those of fits to runs drawn again with replacement.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmx.config.errors import RequestError
from lmx.io.records import read_summary

ALIKE = 1.3
"""Runs whose work differs by less than this factor are of one budget."""
HUBER = 1e-3
LEAST = 6
"""Runs that the law needs: one more than it has constants."""


class Point(NamedTuple):
    """A run: parameters, tokens, FLOPs, evaluation loss."""

    path: str
    params: float
    tokens: float
    flops: float
    loss: float


class Law(NamedTuple):
    """L(N, D) = e + exp(a) / N^alpha + exp(b) / D^beta."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """Of a model of so many parameters after so many tokens."""
        parts = self.a - self.alpha * math.log(params), self.b - self.beta * math.log(tokens)
        return self.e + math.exp(parts[0]) + math.exp(parts[1])

    @property
    def exponent(self) -> float:
        """Of the work, with which the best number of parameters grows: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)


class Budget(NamedTuple):
    """Runs of about the same work.

    best     parameters of the least loss by a parabola over log N; None with less than three runs, or without a minimum
    loss     there
    inside   whether the minimum lies between the smallest and largest of its runs
    """

    flops: float
    points: list[Point]
    best: float | None
    loss: float | None
    inside: bool


class Interval(NamedTuple):
    """A value and where 95 % of the fits to redrawn runs lie."""

    value: float
    low: float
    high: float


class Fit(NamedTuple):
    """Everything: `predicted` and `measured` of runs that were not fitted to, by path."""

    points: list[Point]
    budgets: list[Budget]
    law: Law
    draws: int
    exponent: Interval
    predicted: dict[str, Interval]
    measured: dict[str, Point]


def points_of(runs: Sequence[Path]) -> list[Point]:
    """The runs that are done and have an evaluation; others are passed over."""
    found = []
    for run in runs:
        told = read_summary(run)
        needed = [told.get(k) for k in ("params", "tokens", "flops_per_token", "eval_loss")]
        if told.get("status") == "done" and all(isinstance(x, int | float) for x in needed):
            params, tokens, each, loss = map(float, needed)  # type: ignore[arg-type]
            found.append(Point(str(run), params, tokens, each * tokens, loss))
    return found


def fit(points: Sequence[Point], *, against: Sequence[Point], draws: int, seed: int) -> Fit:
    """The law of the points, and what it says of those in `against`. RequestError for too few points."""
    held = {point.path for point in against}
    points = [point for point in points if point.path not in held]
    sizes, lengths = {p.params for p in points}, {p.tokens for p in points}
    if len(points) < LEAST or len(sizes) < 3 or len(lengths) < 3:
        raise RequestError(
            f"root: a law needs {LEAST} runs of three sizes and three lengths that are done, and here are "
            f"{len(points)} of {len(sizes)} and {len(lengths)}"
        )
    law = fit_law(points, starts=_starts())
    random = np.random.default_rng(seed)
    redrawn = []
    for _ in range(draws):
        chosen = [points[i] for i in random.integers(0, len(points), len(points))]
        if len({p.params for p in chosen}) > 2 and len({p.tokens for p in chosen}) > 2:
            redrawn.append(fit_law(chosen, starts=[np.array(law)]))
    between = lambda value, values: Interval(
        value, *(float(q) for q in np.quantile(values or [value], (0.025, 0.975)))
    )
    return Fit(
        points=points,
        budgets=budgets(points),
        law=law,
        draws=len(redrawn),
        exponent=between(law.exponent, [one.exponent for one in redrawn]),
        predicted={
            p.path: between(law.loss(p.params, p.tokens), [one.loss(p.params, p.tokens) for one in redrawn])
            for p in against
        },
        measured={p.path: p for p in against},
    )


def _starts() -> list[np.ndarray]:
    grid = itertools.product((0.3, 1.0), (2.0, 6.0), (0.3, 0.6))
    return [np.array((e, scale, scale, power, power)) for e, scale, power in grid]


def fit_law(points: Sequence[Point], *, starts: Sequence[np.ndarray]) -> Law:
    """The constants with the least Huber loss of log L over all starts."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    n, d = np.log([p.params for p in points]), np.log([p.tokens for p in points])
    told = np.log([p.loss for p in points])

    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        e = max(x[0], 1e-9)
        parts = np.stack([np.full_like(n, np.log(e)), x[1] - x[3] * n, x[2] - x[4] * d])
        off = logsumexp(parts, axis=0) - told
        far = np.abs(off) >= HUBER
        value = np.where(far, np.abs(off) - HUBER / 2, off**2 / (2 * HUBER)).sum()
        pull = np.clip(off / HUBER, -1, 1) * softmax(parts, axis=0)
        return float(value), np.array(
            [pull[0].sum() / e, pull[1].sum(), pull[2].sum(), -(pull[1] @ n), -(pull[2] @ d)]
        )

    bounds = [(0.0, float(np.exp(told).min())), (-5, 30), (-5, 30), (0.01, 3.0), (0.01, 3.0)]
    options = {"maxiter": 2000, "maxfun": 4000}
    found = [
        minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for start in starts
    ]
    return Law(*map(float, min(found, key=lambda r: r.fun).x))


def budgets(points: Sequence[Point]) -> list[Budget]:
    """The points by their work, each budget with its parabola."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.flops):
        if groups and point.flops <= groups[-1][0].flops * ALIKE:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [_budget(group) for group in groups]


def _budget(group: list[Point]) -> Budget:
    flops = float(np.exp(np.mean([math.log(p.flops) for p in group])))
    group = sorted(group, key=lambda p: p.params)
    if len({p.params for p in group}) < 3:
        return Budget(flops, group, None, None, False)
    x, y = np.log([p.params for p in group]), np.array([p.loss for p in group])
    curve = np.polyfit(x, y, 2)
    if curve[0] <= 0:
        return Budget(flops, group, None, None, False)
    lowest = -curve[1] / (2 * curve[0])
    inside = bool(x.min() < lowest < x.max())
    return Budget(flops, group, float(np.exp(lowest)), float(np.polyval(curve, lowest)), inside)
