"""How long a training step takes at least: arithmetic, memory, links inside a slice, network between slices.

Each of the four is bytes or operations of one device over its published speed (`lmx.chips`); nothing is measured here.
If all overlapped perfectly a step would take the largest of them, if nothing did their sum. The formulas follow the
usual account of sharded training (Rajbhandari et al. 2020, arXiv:1910.02054, for parameters; Narayanan et al. 2021,
arXiv:2104.04473, for tensor parallelism).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lmx.chips import Chip
from lmx.params import Param, named_params
from lmx.types import Tree


class Split(NamedTuple):
    """How a run lies over devices.

    data      copies of the whole, over the network between slices
    replica   copies inside a slice (`mesh=hsdp`), where there are more chips than the model's width can be split over
    fsdp      devices that parameters, optimizer state and batch are split over
    tensor    devices that every matrix is split over once more
    expert    devices, of those of fsdp, that experts are split over: they exchange tokens instead of weights
    """

    data: int = 1
    replica: int = 1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1

    @property
    def devices(self) -> int:
        """All of them; experts lie on devices of fsdp."""
        return self.data * self.replica * self.fsdp * self.tensor

    def __str__(self) -> str:
        names = [f"{name} {n}" for name, n in self._asdict().items() if n > 1]
        return " x ".join(names) or "single"


class Work(NamedTuple):
    """What a step has to do, whatever the devices.

    flops         of a token, forward and backward
    dense         parameters outside the experts
    experts       parameters of the experts
    width         of the residual stream
    layers        number of them
    moe_layers    of those, mixtures of experts
    top_k         experts of a token
    streams       activations that a layer reads and writes, in widths of the residual stream
    """

    flops: float
    dense: int
    experts: int
    width: int
    layers: int
    moe_layers: int
    top_k: int
    streams: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.dense + self.experts


class Times(NamedTuple):
    """Seconds of one step on one device, and bytes that it holds.

    state_bytes   parameters, moments, gradients
    input_bytes   inputs of each layer, kept until the backward pass, where all else is computed again
    """

    compute: float
    hbm: float
    ici: float
    dcn: float
    state_bytes: float
    input_bytes: float

    @property
    def least(self) -> float:
        """With perfect overlap."""
        return max(self.compute, self.hbm, self.ici, self.dcn)

    @property
    def most(self) -> float:
        """With none."""
        return self.compute + self.hbm + self.ici + self.dcn

    @property
    def bound(self) -> str:
        """What takes longest."""
        times = {"compute": self.compute, "HBM": self.hbm, "ICI": self.ici, "DCN": self.dcn}
        return max(times, key=lambda name: times[name])


def work_of(model_config: object, specs: Tree, flops: float) -> Work:
    """From a decoder's configuration, its parameters, and its FLOPs a token."""
    params = named_params(specs)
    expert = lambda p: "experts" in p.axes and p.is_matrix
    experts = sum(p.size for p in params.values() if expert(p))
    moe = getattr(model_config, "moe", None)
    layers: int = model_config.n_layers  # type: ignore[attr-defined]
    width: int = model_config.d_model  # type: ignore[attr-defined]
    kinds = moe.layers(layers) if moe else []
    return Work(
        flops=flops,
        dense=sum(p.size for p in params.values()) - experts,
        experts=experts,
        width=width,
        layers=layers,
        moe_layers=kinds.count("moe"),
        top_k=moe.top_k if moe else 0,
        streams=_streams(params, width, layers, moe),
    )


def _streams(params: dict[str, Param], width: int, layers: int, moe: object | None) -> float:
    """Widths that the products of a layer read and write for a token: inputs and outputs of each matrix."""
    total = 0.0
    for param in params.values():
        if not (param.is_matrix and "layers" in param.axes):
            continue
        sizes = dict(zip(param.axes, param.shape, strict=True))
        copies = sizes.pop("layers")
        experts = sizes.pop("experts", None)
        inputs = math.prod(n for axis, n in sizes.items() if axis in param.inputs)
        outputs = math.prod(n for axis, n in sizes.items() if axis not in param.inputs)
        times = moe.top_k if experts and moe else 1  # type: ignore[attr-defined]
        total += copies * times * (inputs + outputs)
    return total / (width * layers)


def times(
    work: Work,
    chip: Chip,
    split: Split,
    *,
    tokens: int,
    micro_batches: int = 1,
    recomputed: float = 1 / 3,
    compute_bytes: int = 2,
    state_bytes: int = 12,
    gradient_bytes: int = 4,
    torus_axes: tuple[int, int] | None = None,
) -> Times:
    """A step of `tokens` over all devices.

    micro_batches   that it is accumulated over: weights are read and gathered, gradients summed, for each of them
    recomputed      FLOPs of rematerialisation, as a part of forward and backward (1/3: the whole forward pass)
    compute_bytes   of a weight as it is gathered and read, and of an activation
    state_bytes     a parameter's, with its moments
    gradient_bytes  of a gradient, as it is reduced and kept
    torus_axes      dimensions of the torus that (fsdp, tensor) run along; None: tensor one of them, fsdp the others
    """
    each = tokens / (split.data * split.replica * split.fsdp)
    step = _Step(each, micro_batches, recomputed, compute_bytes, state_bytes, gradient_bytes)
    compute = work.flops * tokens * (1 + recomputed) / (split.devices * chip.flops)
    hbm = _memory_traffic(work, split, step) / chip.hbm_speed
    ici = _link_time(work, chip, split, step, torus_axes or _torus(chip, split))
    between = (
        micro_batches * 2 * _ring(split.data) * gradient_bytes * work.parameters / (split.fsdp * split.tensor)
    )
    state = (state_bytes + gradient_bytes) * work.parameters / (split.fsdp * split.tensor)
    # Between the blocks a tensor group splits them along the sequence (`mesh=sequence`).
    inputs = work.layers * each / micro_batches * work.width * compute_bytes / split.tensor
    return Times(compute, hbm, ici, between / chip.dcn_speed, state, inputs)


class _Step(NamedTuple):
    """What `times` is asked; `each`: tokens of a device, shared by its tensor group."""

    each: float
    micro_batches: int
    recomputed: float
    compute_bytes: int
    state_bytes: int
    gradient_bytes: int


def _memory_traffic(work: Work, split: Split, step: _Step) -> float:
    """Bytes that a device reads and writes in its memory."""
    # Weights: read forward, again for what is recomputed, and twice backward. State: read and written once.
    passes = 3 + 3 * step.recomputed
    held = (work.dense + work.experts / split.expert) / split.tensor
    weights = passes * step.compute_bytes * held * step.micro_batches
    update = (2 * step.state_bytes + step.gradient_bytes) * work.parameters / (split.fsdp * split.tensor)
    streams = passes * step.compute_bytes * step.each * work.layers * work.streams * work.width / split.tensor
    return weights + update + streams


def _link_time(work: Work, chip: Chip, split: Split, step: _Step, torus_axes: tuple[int, int]) -> float:
    """Seconds that a device sends over its links inside a slice."""
    for_fsdp, for_tensor = torus_axes
    # Gathered forward and backward, gradients scattered: experts only over the copies that there are of them.
    gathered = 2 * step.compute_bytes + step.gradient_bytes
    n, copies = split.fsdp, split.fsdp // split.expert
    sent = _ring(n) * gathered * work.dense / split.tensor
    sent += _ring(copies) * gathered * work.experts / (split.expert * split.tensor)
    time = sent * step.micro_batches / ring_speed(chip, for_fsdp)
    # Two sums of the residual stream a layer forward, two backward, and those of what is recomputed.
    crossings = 4 + 6 * step.recomputed
    sums = crossings * work.layers * 2 * _ring(split.tensor) * step.compute_bytes * step.each * work.width
    time += sums / ring_speed(chip, for_tensor) if split.tensor > 1 else 0.0
    # To the experts and back, forward, backward and recomputed.
    copied = crossings * work.moe_layers * _ring(split.expert) * step.compute_bytes
    moved = copied * step.each * work.width * work.top_k
    time += moved / split.tensor / _exchange_speed(chip, for_fsdp, split.expert)
    # The gradients of copies inside a slice, each device's part.
    part = step.gradient_bytes * work.parameters / (split.fsdp * split.tensor)
    return time + step.micro_batches * 2 * _ring(split.replica) * part / ring_speed(chip, 1)


def _ring(n: int) -> float:
    return (n - 1) / n


def _torus(chip: Chip, split: Split) -> tuple[int, int]:
    """Dimensions of the torus for fsdp and tensor."""
    if split.tensor == 1:
        return chip.dimensions, 0
    return max(chip.dimensions - 1, 1), 1


def ring_speed(chip: Chip, dimensions: int) -> float:
    """Bytes a second that a device sends around rings: both ways along each dimension."""
    ways = 2 if chip.links > 1 else 1
    return chip.link_speed * ways * max(dimensions, 1)


def _exchange_speed(chip: Chip, dimensions: int, n: int) -> float:
    """Bytes a second that a device sends in an all-to-all among n, over rings of the torus.

    Around a ring of k a byte goes k / 4 links on average, and each dimension of a device has two links out.
    """
    every = ring_speed(chip, dimensions)
    if chip.links == 1:
        return every
    side = max(n ** (1 / max(dimensions, 1)), 1.0)
    return min(8 * chip.link_speed / side, every)
