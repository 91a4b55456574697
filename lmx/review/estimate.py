"""How long a step takes: the roofline of a mesh, between perfect overlap and none, or what past runs reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lmx.chips import Chip
from lmx.config.mesh import Rules
from lmx.review.roofline import Split, Work, ring_speed, times
from lmx.sharding import split_axes

REACHED = 0.5
"""Part of the published arithmetic that a slow step reaches: the upper end of the band where nothing was measured."""


class StepTime(NamedTuple):
    """Seconds of a step: between `low` and `high`, `middle` being their geometric mean.

    bound  what takes longest: compute, HBM, ICI, DCN (of GPUs NVLink, network); `past runs` where those tell it
    basis  in words, what the band is made of
    """

    low: float
    middle: float
    high: float
    bound: str
    basis: str


class Past(NamedTuple):
    """What past runs say: `ratio` of measured to the roofline's middle (or, without a roofline, FLOP/s reached)."""

    runs: int
    low: float
    middle: float
    high: float


def split_of(rules: Rules, sizes: Mapping[str, int], between: Mapping[str, int]) -> Split:
    """A mesh as the roofline knows it: copies, fully sharded, tensor, expert."""
    batch = split_axes(rules, "batch")
    fsdp = [a for a in batch if a in split_axes(rules, "embed") and between[a] == 1]
    product = lambda names: _product(sizes[a] for a in names)
    n_fsdp = product(fsdp)
    n_batch = product(batch) // n_fsdp
    rest = _product(sizes.values()) // (n_fsdp * n_batch)
    expert = min(product(a for a in split_axes(rules, "experts") if a in batch), n_fsdp)
    return Split(data=n_batch, fsdp=n_fsdp, tensor=rest, expert=expert)


def _product(numbers: object) -> int:
    found = 1
    for n in numbers:  # type: ignore[attr-defined]
        found *= n
    return found


def roofline_time(
    work: Work,
    chip: Chip,
    split: Split,
    *,
    tokens: int,
    recomputed: float,
    compute_bytes: int,
    state_bytes: float,
    sent: Mapping[str, int],
    between: Mapping[str, int],
    links: tuple[str, str],
    past: Past | None,
) -> StepTime:
    """Of a chip whose figures are known; `sent` are bytes by mesh axis, `past` what the like of it measured."""
    t = times(
        work,
        chip,
        split,
        tokens=tokens,
        recomputed=recomputed,
        compute_bytes=compute_bytes,
        state_bytes=round(state_bytes),
    )
    inside = sum(n for axis, n in sent.items() if between[axis] == 1)
    across = sum(n for axis, n in sent.items() if between[axis] > 1)
    parts = {
        "compute": t.compute,
        "HBM": t.hbm,
        links[0]: inside / ring_speed(chip, chip.dimensions),
        links[1]: across / chip.dcn_speed,
    }
    low = max(parts.values())
    high = sum(parts.values()) - t.compute + t.compute / REACHED
    bound = max(parts, key=lambda name: parts[name])
    basis = "roofline: perfect overlap to none at half of the published arithmetic"
    if past is None:
        return StepTime(low, (low * high) ** 0.5, high, bound, basis)
    middle = (low * high) ** 0.5
    runs = f"{past.runs} past run{'s' if past.runs > 1 else ''}"
    return StepTime(
        middle * past.low,
        middle * past.middle,
        middle * past.high,
        bound,
        f"roofline x {past.middle:.2f}, what {runs} took of it ({past.low:.2f} to {past.high:.2f})",
    )


def measured_time(flops: float, past: Past) -> StepTime:
    """Of devices without published figures, from the FLOP/s that past runs reached on them."""
    runs = f"{past.runs} past run{'s' if past.runs > 1 else ''}"
    return StepTime(
        flops / past.high,
        flops / past.middle,
        flops / past.low,
        "past runs",
        f"{past.middle / 1e9:.3g} GFLOP/s, as {runs} reached here ({past.low / 1e9:.3g} to {past.high / 1e9:.3g})",
    )
