"""A program that does not fit: the smallest changes of its configuration with which it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lmx.config.mesh import mesh_axes
from lmx.config.overrides import write_override
from lmx.run.compile import Report
from lmx.run.config import TrainConfig
from lmx.run.fit import pipeline_parts

MOST = 6
"""Changes that are compiled at most."""


class Change(NamedTuple):
    """Overrides, and the configuration with them. `numerics`: whether what is learnt changes beyond rounding."""

    overrides: tuple[str, ...]
    config: Any
    numerics: bool


class Fix(NamedTuple):
    """A change that fits, and the bytes that a device needs with it."""

    overrides: tuple[str, ...]
    peak: int
    numerics: bool


def changed(config: Any, key: str, value: Any) -> Any:
    """`config` with the dotted `key` set; validated values are taken as they are."""
    first, _, rest = key.partition(".")
    inner = getattr(config, first) if not isinstance(config, dict) else config[first]
    new = changed(inner, rest, value) if rest else value
    if isinstance(config, dict):
        return {**config, first: new}
    return config.model_copy(update={first: new})


def _ways(config: TrainConfig, mesh_shape: dict[str, int]) -> int:
    """Into how many parts a batch is cut: over the mesh, and by a pipeline."""
    over = math.prod(mesh_shape.get(axis, 1) for axis in mesh_axes(config.mesh.rules.get("batch")))
    return over * pipeline_parts(config, mesh_shape)


def micro_batches(config: TrainConfig, mesh_shape: dict[str, int]) -> list[int]:
    """Values of trainer.accumulation that leave every device whole sequences, powers of two times the present one."""
    ways = _ways(config, mesh_shape)
    sequences, now = config.trainer.batch_sequences(), config.trainer.accumulation
    found, n = [], now
    while sequences % (n * ways) == 0:
        found.append(n)
        n *= 2
    return found


def changes(config: TrainConfig, mesh_shape: dict[str, int]) -> Iterator[Change]:
    """From the smallest change to the largest; those that keep the numbers come first."""
    words: tuple[str, ...] = ()
    if getattr(config.model, "remat", "full") != "full":
        config, words = changed(config, "model.remat", "full"), ("model.remat=full",)
        yield Change(words, config, False)
    options = micro_batches(config, mesh_shape)
    for n in options[1:]:
        more = (*words, f"trainer.accumulation={n}")
        yield Change(more, changed(config, "trainer.accumulation", n), False)
    if len(options) > 1:
        config = changed(config, "trainer.accumulation", options[-1])
        words = (*words, f"trainer.accumulation={options[-1]}")
    batch = list(mesh_axes(config.mesh.rules.get("batch")))
    if config.mesh.rules.get("embed") is None and batch:
        config = changed(config, "mesh.rules.embed", batch)
        words = (*words, write_override("mesh.rules.embed", batch))
        yield Change(words, config, False)
    if getattr(config.optimizer, "state_dtype", "bfloat16") is None:
        config = changed(config, "optimizer.state_dtype", "bfloat16")
        words = (*words, "optimizer.state_dtype=bfloat16")
        yield Change(words, config, True)
    if config.trainer.param_dtype == "float32":
        config = changed(config, "trainer.param_dtype", "bfloat16")
        yield Change((*words, "trainer.param_dtype=bfloat16"), config, True)


def _without_remat(change: Change, config: TrainConfig) -> Change | None:
    """The same smaller micro-batch without computing the layers again; None where the change is another one."""
    if len(change.overrides) != 2 or not change.overrides[1].startswith("trainer.accumulation="):
        return None
    less = changed(config, "trainer.accumulation", change.config.trainer.accumulation)
    return Change(change.overrides[1:], less, False)


def smaller_batches(config: Any, mesh_shape: dict[str, int], key: str) -> Iterator[Change]:
    """The batch at `key` halved, and again, as long as it can be split over the mesh."""
    ways = _ways(config, mesh_shape)
    first, _, last = key.partition(".")
    rows = getattr(getattr(config, first), last) // 2
    while rows and rows % ways == 0:
        yield Change((f"{key}={rows}",), changed(config, key, rows), False)
        rows = rows // 2 if rows % 2 == 0 else 0


BATCHES = {"eval": "trainer.eval_batch_size", "decode": "decode.batch"}
"""The batch of each program but training."""


def find_fix(
    report: Report,
    config: TrainConfig,
    compile_one: Callable[[Any], Report],
    *,
    say: Callable[[str], None],
    most: int = MOST,
) -> Fix | None:
    """The first change with which the program of `report` fits, by compiling; None when none of them is enough.

    Micro-batches that cannot be small enough, by what larger ones took, are passed over.
    """
    memory, hbm = report.memory, report.hbm
    fixed = 0 if memory is None else memory.arguments + memory.outputs
    # Overrides but for the accumulation -> the last accumulation that was compiled with them, and its peak.
    seen: dict[tuple[str, ...], tuple[int, int]] = {(): (config.trainer.accumulation, report.peak)}
    key = BATCHES.get(report.program)
    possible = smaller_batches(config, report.mesh, key) if key else changes(config, report.mesh)
    for change in possible:
        n, smaller = change.config.trainer.accumulation, change.overrides[-1].startswith("trainer.accum")
        base = change.overrides[:-1] if smaller else change.overrides
        if smaller and hbm is not None and memory is not None and base in seen:
            before, peak = seen[base]
            if fixed + max(peak - fixed, 0) * before / n > hbm:
                continue
        if most == 0:
            return None
        most -= 1
        say(f"trying {' '.join(change.overrides)}")
        found = compile_one(change.config)
        if found.fits:
            less = _without_remat(change, config) if most else None
            if less is not None:
                say(f"trying {' '.join(less.overrides)}")
                lighter = compile_one(less.config)
                if lighter.fits:
                    change, found = less, lighter
            return Fix(change.overrides, found.peak, change.numerics)
        seen[base] = (n, found.peak)
    return None
