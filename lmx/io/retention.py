"""Which checkpoints stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmx.io.config import Checkpoint, RemoteTier


def value_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """A finite metric, or None."""
    value = metrics.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def ranked(metrics: Mapping[int, Mapping[str, Any]], name: str, order: str) -> list[int]:
    """Steps whose metric is known, the best first; of equals the earlier one."""
    sign = 1.0 if order == "lowest" else -1.0
    known = {step: value for step, row in metrics.items() if (value := value_of(row, name)) is not None}
    return sorted(known, key=lambda step: (sign * known[step], step))


def kept(
    metrics: Mapping[int, Mapping[str, Any]], tier: Checkpoint | RemoteTier, best: tuple[str, str]
) -> set[int]:
    """Steps that stay in a tier, of those with whole checkpoints (step -> metrics); the newest always does.

    `best`: the metric that says which is best, and `lowest` or `highest`.
    """
    steps = sorted(metrics)
    stay = set(steps[-tier.keep_last :])
    stay |= set(ranked(metrics, *best)[: tier.keep_best])
    if tier.keep_every is not None:
        stay |= {step for step in steps if step % tier.keep_every == 0}
    return stay
