"""Which part of the model an instruction belongs to, from the path of operations that it comes from."""

from __future__ import annotations

import re

from lmx.layers.names import SCOPES
from lmx.review.hlo import Computation

_LAYERS = re.compile(r"layers\.\d+")


def part_of(op_name: str) -> str:
    """`layers.0.mlp.up` of `jit(step)/jvp(layers.0)/while/body/mlp/up/dot_general`; empty where it is none."""
    # Transformations stand around the first scope that they were applied in: `transpose(jvp(layers.0))`.
    steps = re.sub(r"(?:\b(?:transpose|jvp|vmap|rematted_computation|checkpoint)\(|\))", "/", op_name).split(
        "/"
    )
    found: list[str] = []
    for step in steps:
        if _LAYERS.fullmatch(step):
            found = [step]
        elif step in SCOPES and (not found or found[-1] != step):
            found.append(step)
    return ".".join(found)


def layers_in(computation: Computation) -> str:
    """`layers.0` of a loop's body whose instructions belong to those layers; empty where it is no loop over layers."""
    counted: dict[str, int] = {}
    for instruction in computation.instructions:
        match = _LAYERS.match(part_of(instruction.op_name))
        if match:
            counted[match[0]] = counted.get(match[0], 0) + 1
    return min(counted, key=lambda name: (int(name.rpartition(".")[2]), name), default="")
