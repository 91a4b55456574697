"""Bytes that a device sends in a training step, by mesh axis, from parameters and rules alone.

As `lmx.review.collectives` counts them in a compiled program: around a ring, (n - 1) / n of what is gathered or
scattered, twice that for a sum. Weights split over an axis that splits the batch too are gathered and their gradients
scattered (arXiv:1910.02054); of weights that an axis of the batch does not split, gradients are summed; where an axis
splits a matrix but not the batch, activations are summed (arXiv:1909.08053); experts exchange tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from lmx.config.mesh import Rules
from lmx.params import Param, named_params
from lmx.sharding import split_axes
from lmx.types import Tree


class Load(NamedTuple):
    """What a step carries.

    tokens          of all devices
    width, layers   of the residual stream; moe_layers and top_k of a mixture, 0 without one
    micro_batches   that the step's batch is cut into
    recomputes      whether the backward pass computes a block's products again
    compute_bytes   of a gathered weight and of an activation; gradient_bytes of a gradient
    """

    tokens: int
    width: int
    layers: int
    moe_layers: int
    top_k: int
    micro_batches: int
    recomputes: bool
    compute_bytes: int
    gradient_bytes: int


def traffic(specs: Tree, rules: Rules, sizes: Mapping[str, int], load: Load) -> dict[str, int]:
    """Mesh axis -> bytes that each device sends a step; axes of one device send nothing and are left out."""
    found = {name: 0.0 for name, n in sizes.items() if n > 1}
    batch = [a for axis in ("batch", "length") for a in split_axes(rules, axis) if sizes[a] > 1]
    for param in named_params(specs).values():
        for name, sent in _of_parameter(param, rules, sizes, batch, load).items():
            found[name] += sent
    for name, sent in _of_activations(rules, sizes, batch, load).items():
        found[name] += sent
    return {name: round(sent) for name, sent in found.items()}


def _of_parameter(
    param: Param, rules: Rules, sizes: Mapping[str, int], batch: list[str], load: Load
) -> dict[str, float]:
    """Gathers and scatters of one parameter, and sums of its gradient."""
    gradient = load.gradient_bytes
    if param.is_matrix:  # its product is in the compute dtype, and so is the gradient that is scattered
        gradient = min(load.gradient_bytes, load.compute_bytes)
    split = [a for axis in param.axes for a in split_axes(rules, axis) if sizes[a] > 1]
    exchanged = split_axes(rules, "experts") if "experts" in param.axes else ()
    gathered = [a for a in split if a in batch and a not in exchanged]
    held = param.size / math.prod(sizes[a] for a in split)
    found: dict[str, float] = {}
    whole = held
    for name in reversed(gathered):  # innermost first: what is gathered there goes on over the others whole
        n = sizes[name]
        whole *= n
        again = load.recomputes and param.is_matrix and "layers" in param.axes
        passes = (3 if again else 2) * load.micro_batches
        sent = _ring(n) * whole * (passes * load.compute_bytes + load.micro_batches * gradient)
        found[name] = found.get(name, 0.0) + sent
    if "vocab" in param.axes:
        for name in split:
            if name not in batch:  # each device sums the whole head's gradient over its own tokens
                found[name] = found.get(name, 0.0) + _ring(sizes[name]) * param.size * 4
    for name in batch:
        if name not in split:
            # A sum over a pod that follows a scatter has only the scattered part to sum.
            sent = 2 * _ring(sizes[name]) * held * load.gradient_bytes
            found[name] = found.get(name, 0.0) + sent
    return found


def _of_activations(rules: Rules, sizes: Mapping[str, int], batch: list[str], load: Load) -> dict[str, float]:
    """Sums of partial products over axes that split matrices alone; tokens to their experts and back."""
    each = load.tokens / math.prod(sizes[a] for a in batch)
    stream = each * load.width * load.compute_bytes
    found: dict[str, float] = {}
    tensor = [a for a in split_axes(rules, "act_ffn") if a not in batch and sizes[a] > 1]
    for name in tensor:
        # After attention and MLP forward, before both backward; of what is computed again, attention's.
        sums = load.layers * (4 + (1 if load.recomputes else 0))
        found[name] = found.get(name, 0.0) + 2 * _ring(sizes[name]) * sums * stream
    for name in split_axes(rules, "experts"):
        if sizes[name] > 1 and load.moe_layers:
            moves = load.moe_layers * (4 + (2 if load.recomputes else 0)) * load.top_k
            found[name] = found.get(name, 0.0) + _ring(sizes[name]) * moves * stream
    return found


def _ring(n: int) -> float:
    return (n - 1) / n
