"""What Muon's orthogonalisation takes on a mesh: bytes that a device holds and sends while it runs.

Each iteration (`lmx.optim.muon.orthogonalise`) multiplies a stack of matrices with the square of its shorter side. What
is split along that side has to be whole for it: wide matrices are gathered, of tall ones a sum over all devices in
float32 is made. Split along the longer side alone, only the squares are summed. That this is what the compiler does,
and holds at the worst moment, was seen in one program compiled for TPU (llama1b_muon_full of
experiments/review_accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from lmx.config.mesh import Rules
from lmx.optim.config import Muon, Optimizer
from lmx.optim.muon import matrix_layout
from lmx.params import named_params
from lmx.sharding import split_axes
from lmx.types import Tree


class Matrices(NamedTuple):
    """A stack of matrices as Muon sees it.

    elements  of a device, were the shorter side whole
    squares   elements of the squares of the shorter side, on a device
    tall      whether the columns are the shorter side
    short     mesh axes that split the shorter side; long: the longer one
    """

    elements: float
    squares: float
    tall: bool
    short: tuple[str, ...]
    long: tuple[str, ...]


def stacks(optimizer: Optimizer, specs: Tree, rules: Rules, sizes: Mapping[str, int]) -> Iterator[Matrices]:
    """Every stack that is orthogonalised; none where the optimizer is not Muon."""
    if not isinstance(optimizer, Muon):
        return
    for path, param in named_params(specs).items():
        if optimizer.rule(path, param).name != "Muon":
            continue
        layout = matrix_layout(param, optimizer.heads)
        first = len(layout.batch)
        last = first + sum(param.axes[i] in param.inputs for i in layout.order[first:])
        cut = lambda axes: tuple(a for axis in axes for a in split_axes(rules, axis) if sizes[a] > 1)
        named = tuple(param.axes[i] for i in layout.order)
        batch, rows, columns = cut(named[:first]), cut(named[first:last]), cut(named[last:])
        tall = layout.rows > layout.columns
        short, long = (columns, rows) if tall else (rows, columns)
        apart = _product(sizes, batch)
        side = min(layout.rows, layout.columns)
        elements = param.size / (apart * _product(sizes, long))
        yield Matrices(elements, math.prod(layout.batch) * side**2 / apart, tall, short, long)


def held(optimizer: Optimizer, specs: Tree, rules: Rules, sizes: Mapping[str, int]) -> int:
    """Bytes of a device at the worst moment, gradients and state aside: two float32 and two low-precision copies of the
    largest stack, and the squares of its shorter side.
    """
    low = _low(optimizer)
    needed = []
    for one in stacks(optimizer, specs, rules, sizes):
        needed.append(one.elements * (2 * 4 + 2 * low) + one.squares * (4 + 3 * low))
    return round(max(needed, default=0))


def sent(optimizer: Optimizer, specs: Tree, rules: Rules, sizes: Mapping[str, int]) -> dict[str, float]:
    """Mesh axis -> bytes that a device sends a step for the orthogonalisation."""
    found: dict[str, float] = {}
    low = _low(optimizer)
    steps = optimizer.newton_schulz.steps if isinstance(optimizer, Muon) else 0
    for one in stacks(optimizer, specs, rules, sizes):
        each = 2 * one.elements * (4 if one.tall else low)
        for name in one.short:
            found[name] = found.get(name, 0.0) + steps * each * (sizes[name] - 1) / sizes[name]
        for name in one.long:
            summed = 2 * 4 * one.squares * (sizes[name] - 1) / sizes[name]
            found[name] = found.get(name, 0.0) + steps * summed
    return found


def _low(optimizer: Optimizer) -> int:
    return jnp.dtype(optimizer.newton_schulz.dtype).itemsize if isinstance(optimizer, Muon) else 0


def _product(sizes: Mapping[str, int], names: tuple[str, ...]) -> int:
    return math.prod(sizes[name] for name in names)
