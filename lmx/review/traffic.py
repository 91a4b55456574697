"""Bytes that a device sends in a training step, by mesh axis, from parameters and rules alone.

As `lmx.review.collectives` counts them in a compiled program: around a ring, (n - 1) / n of what is gathered or
scattered, twice that for a sum. Weights split over an axis that splits the batch too are gathered and their gradients
scattered (arXiv:1910.02054); of weights that an axis of the batch does not split, gradients are summed; where an axis
splits a matrix but not the batch, activations are summed (arXiv:1909.08053); experts exchange tokens.

Compilers differ: those for CPUs sum a whole gradient of which a part is kept, sum one by one the partial products of
queries, keys, values, up and gate that others add up first, and gather a weight once where forward and backward pass
want the same of it; a TPU's compiler mostly sums the head's whole gradient, too.
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
    readers         products of a block that read the residual stream: queries, keys, values, up, gate
    tied            whether the head is the embedding
    platform        cpu, gpu or tpu
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
    readers: int
    tied: bool
    platform: str


def traffic(specs: Tree, rules: Rules, sizes: Mapping[str, int], load: Load) -> dict[str, int]:
    """Mesh axis -> bytes that each device sends a step; axes of one device send nothing and are left out."""
    found = {name: 0.0 for name, n in sizes.items() if n > 1}
    batch = [a for axis in ("batch", "length") for a in split_axes(rules, axis) if sizes[a] > 1]
    for param in named_params(specs).values():
        of = _of_table if "vocab" in param.axes else _of_parameter
        for name, sent in of(param, rules, sizes, batch, load).items():
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
        inside = param.is_matrix and "layers" in param.axes
        again = 1 if load.recomputes and inside else 0
        scattered = gradient
        if load.platform == "cpu":
            again -= 1 if set(split) == set(gathered) or not inside else 0
            scattered *= 2
        sent = _ring(n) * whole * load.micro_batches * ((2 + again) * load.compute_bytes + scattered)
        found[name] = found.get(name, 0.0) + sent
    for name in batch:
        if name not in split:
            # A sum over a pod that follows a scatter has only the scattered part to sum.
            sent = 2 * _ring(sizes[name]) * held * gradient
            found[name] = found.get(name, 0.0) + sent
    return found


def _of_table(
    param: Param, rules: Rules, sizes: Mapping[str, int], batch: list[str], load: Load
) -> dict[str, float]:
    """The embedding, of which rows are looked up where they lie and sent where they are wanted; the head, or both."""
    looked_up = "vocab" in param.inputs
    head = not looked_up or load.tied
    split = [a for axis in param.axes for a in split_axes(rules, axis) if sizes[a] > 1]
    held = param.size / math.prod(sizes[a] for a in split)
    stream = load.tokens / math.prod(sizes[a] for a in batch) * load.width
    found = dict.fromkeys([*split, *batch], 0.0)
    # Where another axis splits its rows, the head is whole on each device all the same.
    whole = param.size / math.prod(sizes[a] for a in split if a in batch)
    rows = param.shape[param.axes.index("vocab")]
    for name in reversed([a for a in split if a in batch]):
        n = sizes[name]
        whole *= n
        if (
            head
        ):  # gathered for all chunks of the loss; its gradient, float32, scattered by rows, then exchanged
            summed = 2 if load.platform == "tpu" else 1
            exchanged = 0 if rows % n else 1 / n
            each = load.compute_bytes + 4 * (summed + exchanged)
            found[name] += _ring(n) * whole * load.micro_batches * each
        if looked_up:  # forward and backward
            found[name] += _ring(n) * 2 * stream * load.compute_bytes
    for name in (a for a in split if a not in batch):
        if head:  # each device sums the whole head's gradient over its own tokens, and all that of the hidden states
            found[name] += _ring(sizes[name]) * (param.size * 4 + 2 * stream * 4)
        if looked_up:
            found[name] += _ring(sizes[name]) * 2 * stream * load.compute_bytes
    for name in (a for a in batch if a not in split):
        apart = 2 if looked_up and head else 1  # the gradients of a tied table are summed one by one
        found[name] += 2 * _ring(sizes[name]) * held * load.gradient_bytes * apart
    return found


def _of_activations(rules: Rules, sizes: Mapping[str, int], batch: list[str], load: Load) -> dict[str, float]:
    """Sums of partial products over axes that split matrices alone; tokens to their experts and back."""
    each = load.tokens / math.prod(sizes[a] for a in batch)
    stream = each * load.width * load.compute_bytes
    found: dict[str, float] = {}
    tensor = [a for a in split_axes(rules, "act_ffn") if a not in batch and sizes[a] > 1]
    for name in tensor:
        # After attention and MLP forward, before both backward; of what is computed again, attention's.
        backward = load.readers if load.platform == "cpu" else 2
        sums = load.layers * (2 + backward + (1 if load.recomputes else 0))
        found[name] = found.get(name, 0.0) + 2 * _ring(sizes[name]) * sums * stream
    for name in split_axes(rules, "experts"):
        if sizes[name] > 1 and load.moe_layers:
            moves = load.moe_layers * (4 + (2 if load.recomputes else 0)) * load.top_k
            found[name] = found.get(name, 0.0) + _ring(sizes[name]) * moves * stream
    return found


def _ring(n: int) -> float:
    return (n - 1) / n
