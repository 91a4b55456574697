"""`lmx tune memory`: micro-batches and rematerialisations compiled one after another, and the best of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from lmx.config.errors import LmxError
from lmx.config.overrides import write_override
from lmx.review.count import product_flops
from lmx.review.programs_text import print_points
from lmx.run.build import train_program
from lmx.run.compile import build_for, compile_program, example_row, topology_devices
from lmx.run.compile_config import TuneMemory
from lmx.run.fixes import changed, micro_batches
from lmx.run.programs import abstract_batch

POLICIES: tuple[str | dict[str, str], ...] = (
    # From what keeps the most to what keeps the least.
    "none",
    "dots",
    {
        "query": "save",
        "key": "save",
        "value": "save",
        "attention_context": "save",
        "mlp_gate": "save",
        "mlp_up": "save",
    },
    "dots_no_batch",
    {"query": "save", "key": "save", "value": "save", "attention_context": "save"},
    "block_io",
    "attention",
    "full",
    {"block_input": "offload"},
)


class Point(NamedTuple):
    """One setting. recomputed: FLOPs of a step's products beyond the fewest of any that was tried, as a part of those.

    Those are not always the ones of `none`: attention may compute its scores twice unless a policy keeps them.
    """

    overrides: tuple[str, ...]
    micro_batch: int
    accumulation: int
    recomputed: float
    peak: int
    headroom: float | None
    fits: bool
    compile_time: float


def tune_memory(config: TuneMemory) -> float:
    """Prints every point and marks the Pareto front; returns the smallest peak. LmxError when nothing fits."""
    devices = topology_devices(config)
    settings = _settings(config, devices)
    flops = _flops(config, ["none", *(remat for remat, _ in settings)], devices)
    points = []
    for remat, accumulation in settings:
        setting = changed(changed(config, "model.remat", remat), "trainer.accumulation", accumulation)
        overrides = (write_override("model.remat", remat), f"trainer.accumulation={accumulation}")
        print(f"lmx tune memory: {' '.join(overrides)}", file=sys.stderr)
        report = compile_program(
            setting,
            devices,
            topology=config.topology,
            slices=config.slices,
            cache=config.report_cache,
            look_inside=False,
        )
        free = report.headroom
        points.append(
            Point(
                overrides=overrides,
                micro_batch=config.trainer.batch_sequences() // accumulation,
                accumulation=accumulation,
                recomputed=flops[json.dumps(remat)] / min(flops.values()) - 1,
                peak=report.peak,
                headroom=free,
                fits=report.fits and (free is None or free >= config.search.headroom),
                compile_time=report.compile_time,
            )
        )
    best = pareto(points)
    told = [{**p._asdict(), "peak_bytes": p.peak} for p in points]
    if config.output == "json":
        print(json.dumps({"points": told, "pareto": [told[i] for i in best]}))
    else:
        print_points(told, best)
        for i in best:
            print(" ".join(points[i].overrides))
    if not best:
        raise LmxError("nothing that was tried fits; take more devices, or a smaller batch")
    return float(min(points[i].peak for i in best))


def pareto(points: Sequence[Point]) -> list[int]:
    """Points that fit and that no other beats: as little memory, as little recomputed, micro-batches as large."""

    def beats(a: Point, b: Point) -> bool:
        pairs = ((a.peak, b.peak), (a.recomputed, b.recomputed), (a.accumulation, b.accumulation))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    fitting = [i for i, p in enumerate(points) if p.fits]
    return [i for i in fitting if not any(beats(points[j], points[i]) for j in fitting)]


def _settings(config: TuneMemory, devices: Sequence[Any]) -> list[tuple[Any, int]]:
    """(remat, accumulation): large micro-batches first, and `search.most` of them."""
    parts = build_for(config, devices)
    search = config.search
    whole = changed(config, "trainer.accumulation", 1)
    found = (
        micro_batches(whole, dict(parts.mesh.shape)) if search.accumulation == "auto" else search.accumulation
    )
    remats = _remats(config) if search.remat == "auto" else search.remat
    settings = [(remat, n) for n, remat in product(found, remats)]
    return settings[: search.most]


def _remats(config: TuneMemory) -> list[Any]:
    """The policies that the model has the tensors for."""
    if not hasattr(config.model, "remat"):
        raise LmxError(
            f"model {type(config.model).__name__} has no remat: nothing to search; set search.remat=[]"
        )
    return [
        p for p in POLICIES if not (isinstance(p, Mapping) and "offload" in p.values() and _on_cpu(config))
    ]


def _on_cpu(config: TuneMemory) -> bool:
    return config.topology.startswith("cpu")


def _flops(config: TuneMemory, remats: Sequence[Any], devices: Sequence[Any]) -> dict[str, float]:
    """Of the products in a step with each value of `model.remat`, as JSON."""
    found: dict[str, float] = {}
    for remat in remats:
        name = json.dumps(remat)
        if name not in found:
            one = changed(config, "model.remat", remat)
            parts = build_for(one, devices)
            batch = abstract_batch(one, parts, example_row(one), one.trainer.batch_sequences())
            traced = train_program(one, parts, norms=False).trace(parts.abstract_state, batch)
            found[name] = product_flops(traced.jaxpr.jaxpr)
    return found
