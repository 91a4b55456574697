"""Past runs: the most alike and how they ended, and how fast they were beside what was predicted."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.component import Config
from lmx.config.plain_tree import tree_hash
from lmx.config.schema import differences
from lmx.io.records import read_config, read_summary
from lmx.review.estimate import Past
from lmx.review.runs import describe, find_runs


class Old(NamedTuple):
    """A run on disk, and what distinguishes it from the configuration under review.

    peak_memory  the most bytes in use on one of its devices; None where not known
    differing    keys that change what is learnt
    speed        FLOP/s of a device that its median step reached, by the model's formula; None where not known
    device_kind  as JAX calls it
    same         whether all but bookkeeping is equal, the seed too
    """

    name: str
    path: str
    status: str
    steps: int | None
    loss: float | None
    eval_loss: float | None
    step_time: float | None
    peak_memory: int | None
    differing: list[str]
    speed: float | None
    device_kind: str
    same: bool


def old_runs(roots: Sequence[str], tree: Mapping[str, Any], schema: type[Config], *, most: int) -> list[Old]:
    """The newest `most` runs under the roots, the most alike first; none where no root exists."""
    folders = [root for root in roots if Path(root).expanduser().is_dir()]
    if not folders or not most:
        return []
    paths = sorted(find_runs(folders), key=lambda p: -(p / "config.yaml").stat().st_mtime)[:most]
    known = set(schema.model_fields)
    wanted = {key: value for key, value in tree.items() if key in known}
    found = [old for path in paths if (old := _old(path, wanted, schema)) is not None]
    return sorted(found, key=lambda old: len(old.differing))


def _old(path: Path, tree: Mapping[str, Any], schema: type[Config]) -> Old | None:
    config, summary = read_config(path), read_summary(path)
    if not config:
        return None
    differing = [d.key for d in differences(config, tree, schema) if d.effect == "numerics"]
    line = describe(path)
    rate, flops, devices = (summary.get(k) for k in ("tokens_per_second", "flops_per_token", "devices"))
    return Old(
        name=line.name,
        path=str(path),
        status=line.status,
        steps=line.step,
        loss=line.loss,
        eval_loss=line.eval_loss,
        step_time=summary.get("step_time"),
        peak_memory=summary.get("peak_memory"),
        differing=differing,
        speed=rate * flops / devices if rate and flops and devices else None,
        device_kind=str(summary.get("device_kind", "")),
        same=not differing and tree_hash(config, schema) == tree_hash(tree, schema),
    )


NEAR = 5
"""Runs whose speed is asked for, the most alike of those on the same kind of device."""


def past_speed(runs: Sequence[Old], kinds: Sequence[str]) -> Past | None:
    """FLOP/s of a device that the most alike runs on these kinds of device reached; None where there is none."""
    speeds = [run.speed for run in runs if run.speed and run.device_kind in kinds][:NEAR]
    if not speeds:
        return None
    spread = 1.5 if len(speeds) == 1 else 1.1  # one run says nothing of the spread
    return Past(len(speeds), min(speeds) / spread, statistics.median(speeds), max(speeds) * spread)


class Beside(NamedTuple):
    """Predicted and measured seconds of a step of a past run, and bytes at the peak of a device, where known."""

    path: str
    predicted: float
    measured: float
    predicted_memory: int | None = None
    measured_memory: int | None = None

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted


def past_ratio(beside: Sequence[Beside]) -> Past | None:
    """What measured steps took of the roofline's prediction."""
    if not beside:
        return None
    ratios = [b.ratio for b in beside]
    spread = 1.5 if len(ratios) == 1 else 1.1
    return Past(len(ratios), min(ratios) / spread, statistics.median(ratios), max(ratios) * spread)
