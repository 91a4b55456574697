"""The compiled tier of a review: the training step by the compiler of the topology, cached by its hash."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lmx.config.errors import RequestError
from lmx.review.gates import judge_again
from lmx.run.compile import compile_program
from lmx.run.compile_report import as_json
from lmx.run.config import TrainConfig
from lmx.run.review_config import Review
from lmx.run.target import target_of
from lmx.run.topology import devices_of, parse_topology

AXIS = "collective_bytes."
"""What the bytes sent over one axis of the mesh are called among the consequences."""


def compiled(config: TrainConfig, *, asked: Review) -> dict[str, Any]:
    """The report of `lmx compile` on the training step; RequestError for devices that nothing can compile for here."""
    target = target_of(asked.topology, asked.slices, config.mesh)
    if target.platform == "gpu":
        raise RequestError(
            f"tier=compiled: a program for {target} is compiled on such a GPU only; tier=fast needs none"
        )
    devices = devices_of(parse_topology(target.name), target.slices)
    print(
        f"lmx review: compiling for {target}, minutes for a large model, unless it was before",
        file=sys.stderr,
        flush=True,
    )
    report = compile_program(
        config, devices, topology=target.name, slices=target.slices, cache=asked.report_cache
    )
    return as_json(report)


def add_compiled(doc: dict[str, Any], config: Review, origins: Mapping[str, str]) -> None:
    """Puts the report into the document, its figures in place of the fast tier's, and judges the gates by them.

    The estimate of memory stays beside it; `origins`: where the configuration's values were set.
    """
    put(doc, compiled(config, asked=config))
    doc["gates"] = [
        gate._asdict()
        for gate in judge_again(doc["gates"], config.gates, doc["consequences"], config.waive, origins)
    ]


def put(doc: dict[str, Any], report: dict[str, Any]) -> None:
    """Puts the figures of a report into the document, and what they differ by from the other configuration's."""
    values = doc["consequences"]
    values["peak_bytes_per_device_fast"] = values["peak_bytes_per_device"]
    values["peak_bytes_per_device"] = report["peak_bytes"]
    values["headroom"] = report["headroom"]
    sent: dict[str, int] = {}
    for one in report["collectives"]:
        sent[one["axes"]] = sent.get(one["axes"], 0) + one["bytes"]
    values["collective_bytes_per_step"] = sum(sent.values())
    for name in [name for name in values if name.startswith(AXIS)]:
        del values[name]
        doc["differences"].pop(name, None)
    values |= {f"{AXIS}{axes}": count for axes, count in sent.items()}
    doc["compiled"] = {**report, "collective_bytes": sent}
    old = doc.get("against_consequences") or {}
    of_axes = [name for name in values if name.startswith(AXIS)]
    for name in ("peak_bytes_per_device", "headroom", "collective_bytes_per_step", *of_axes):
        if isinstance(old.get(name), int | float) and values[name] is not None:
            doc["differences"][name] = values[name] - old[name]
