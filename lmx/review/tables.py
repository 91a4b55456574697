"""Parameters by name: how each lies over the mesh, and what the optimizer does with it. Layers are folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmx.config.mesh import Rules
from lmx.optim.config import Optimizer
from lmx.optim.groups import Assignment, assign
from lmx.params import Init, Param, named_params
from lmx.review.local import LANES, tiled_bytes
from lmx.sharding import split_axes, ways
from lmx.types import Tree

LARGE = 0.02
"""Part of all parameters from which on a whole copy on each device is worth a warning."""
PADDED = 1.25
"""Bytes with the padding of a TPU's tiles, over those without, from which on it is worth one."""


class Laid(NamedTuple):
    """A row of the sharding table.

    name     path, with a star in place of the number of a stack
    shape    whole; axes: its logical axes; mesh: the mesh axes of each, `-` where it is not split
    arrays   how many there are of this form
    bytes    of all of them on one device
    warning  empty, or what is wasteful about it
    """

    name: str
    shape: str
    axes: str
    mesh: str
    arrays: int
    bytes: int
    warning: str


def sharding_table(
    specs: Tree, rules: Rules, sizes: Mapping[str, int], *, itemsize: int, tpu: bool
) -> list[Laid]:
    """One row for parameters that differ in the number of their layer alone, the most bytes first."""
    params = named_params(specs)
    total = sum(p.size for p in params.values())
    folded: dict[tuple[str, Param], int] = {}
    for path, param in params.items():
        key = (_folded(path), param._replace(init=Init("")))
        folded[key] = folded.get(key, 0) + 1
    rows = []
    for (name, param), arrays in folded.items():
        cut = [ways(sizes, rules, axis) for axis in param.axes]
        shape = tuple(n // w for n, w in zip(param.shape, cut, strict=True))
        plain = math.prod(shape) * itemsize
        held = tiled_bytes(shape, itemsize, tpu=tpu)
        whole = math.prod(cut) == 1 and math.prod(sizes.values()) > 1
        warning = ""
        if whole and param.size * arrays > LARGE * total:
            warning = f"whole on every device: {param.size * arrays / total:.0%} of all parameters"
        elif tpu and held > PADDED * plain and param.size * arrays > LARGE * total:
            warning = f"padded to {held / plain:.2f} times its size: no dimension fills {LANES} lanes"
        mesh = ["+".join(n for n in split_axes(rules, axis) if sizes[n] > 1) or "-" for axis in param.axes]
        rows.append(
            Laid(
                name,
                " x ".join(map(str, param.shape)),
                ", ".join(param.axes),
                ", ".join(mesh),
                arrays,
                held * arrays,
                warning,
            )
        )
    return sorted(rows, key=lambda row: -row.bytes)


def _folded(path: str) -> str:
    parts = path.split(".")
    return ".".join("*" if part.isdigit() else part for part in parts)


def optimizer_table(optimizer: Optimizer, specs: Tree) -> list[dict[str, Any]]:
    """`Optimizer.table`, each row with the initial scales of its parameters."""
    starts: dict[tuple[str, str, float, float], list[str]] = {}
    params = named_params(specs)
    for path, assigned in assign(optimizer, specs).items():
        found = starts.setdefault(_key(assigned), [])
        kind, std = params[path].init
        text = f"{kind} {std:.3g}" if std else kind
        if text not in found:
            found.append(text)
    return [
        {
            "group": row.group,
            "parameters": row.patterns,
            "arrays": row.tensors,
            "elements": row.parameters,
            "rule": row.rule,
            "learning_rate": row.learning_rate,
            "multiplier": row.multiplier,
            "weight_decay": row.weight_decay,
            "initial": ", ".join(starts[_key(row)]),
        }
        for row in optimizer.table(specs)
    ]


def _key(row: Assignment | Any) -> tuple[str, str, float, float]:
    return row.group, row.rule, row.learning_rate, row.weight_decay
